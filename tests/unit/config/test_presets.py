"""What a preset sets, what wins over it, and where `sfr config show` says that a value comes from."""

from pathlib import Path
from typing import get_args

import pytest

from router.config.load import ConfigError, parse, read
from router.config.presets import PRESETS, PresetName
from router.config.settings import ErrorStatusSettings, Settings
from router.config.show import over_preset, shown
from router.config.strict_yaml import parse_yaml

ROOT = Path(__file__).parents[3]
ALL_504 = ErrorStatusSettings(no_workers=504, all_failed=504, queue_full=504, queue_timeout=504)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without variables of the configuration."""
    for name in ("REDIS_URL", "ROUTER_PRESET", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def test_each_name_has_its_preset() -> None:
    """The names that config.yaml takes are those of the table."""
    assert set(PRESETS) == set(get_args(PresetName))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_what_its_keys_are(name: PresetName) -> None:
    """It sets exactly what the same keys in config.yaml set, and they are good ones."""
    keys = dict(PRESETS[name])
    assert Settings(preset=name) == Settings.model_validate({**keys, "preset": name})
    assert Settings(preset=name) == Settings().model_copy(
        update={"preset": name, **{key: getattr(Settings.model_validate(keys), key) for key in keys}}
    )


def test_key_wins_over_its_preset() -> None:
    """Key by key within a section; a section without a value, and another key of it, leave the preset's values."""
    settings = parse("{preset: verl, client_budget: none, error_status: {queue_full: 429}, queue: }", "c")
    assert settings.client_budget == "none"
    assert settings.error_status == ALL_504.model_copy(update={"queue_full": 429})
    assert parse("{preset: roll, queue: {max_waiting: 9}}", "c").queue.timeout == 20
    assert parse("{preset: verl, error_status: }", "c").error_status == ALL_504


def test_variable_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """ROUTER_PRESET names the preset; an empty one is none, and the keys of the file still win."""
    monkeypatch.setenv("ROUTER_PRESET", "verl")
    assert parse("{preset: roll, client_budget: 9}", "c").error_status == ALL_504
    assert parse("{preset: roll, client_budget: 9}", "c").client_budget == 9
    monkeypatch.setenv("ROUTER_PRESET", "")
    assert parse("preset: roll", "c").queue.timeout == 20


@pytest.mark.parametrize(("value", "given"), [("verb", ", got 'verb'"), ("[verl]", ""), ("7", ", got 7")])
def test_unknown_preset_is_told_with_those_that_exist(value: str, given: str) -> None:
    """In one line, and nothing else is wrong because of it."""
    with pytest.raises(ConfigError) as caught:
        parse(f"preset: {value}", "c")
    assert str(caught.value) == f"c: preset: expected 'none', 'verl', 'roll' or 'reasoning360'{given}"


def test_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is not at fault then."""
    monkeypatch.setenv("ROUTER_PRESET", "verb")
    with pytest.raises(ConfigError, match=r"'verb' \(ROUTER_PRESET\)$"):
        parse("preset: verl", "c")


def test_bad_key_is_told_whatever_the_preset() -> None:
    """Where a section should be, a preset's section does not hide what stands there."""
    with pytest.raises(ConfigError, match=r"^c: error_status: expected keys and values"):
        parse("{preset: verl, error_status: 504}", "c")


def test_each_value_is_shown_with_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, the environment, the preset or the defaults; the first line of a list has it for the whole list."""
    monkeypatch.setenv("REDIS_URL", "redis://me:hunter2@h:1/0")
    path = tmp_path / "config.yaml"
    path.write_text("{preset: verl, workers: ['http://a:1'], error_status: {queue_full: 429}, redis: {prefix: x}}")
    lines = shown(read(path)).splitlines()
    for line in (
        "preset: verl  # file",
        "workers:  # file",
        "- url: http://a:1",
        "client_budget: job+10  # preset verl",
        "  all_failed: 504  # preset verl",
        "  queue_full: 429  # file",
        "  url: redis://***@h:1/0  # environment, REDIS_URL",
        "  prefix: x  # file",
        "  cluster: false  # default",
        "error_status:",
    ):
        assert line in lines
    assert parse("\n".join(lines), "shown").error_status.queue_full == 429


@pytest.mark.parametrize("name", PRESETS)
def test_shipped_file_sets_no_key_of_a_preset(name: PresetName, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line more in config.yaml is enough for each preset: nothing else there wins over it."""
    monkeypatch.setenv("ROUTER_PRESET", name)
    assert over_preset(read(ROOT / "config.yaml")) == []


def test_keys_that_win_over_the_preset_are_named(tmp_path: Path) -> None:
    """By their full names; another key of the same section is none of them."""
    path = tmp_path / "config.yaml"
    path.write_text("{preset: verl, client_budget: 9, timeout: 9, error_status: {queue_full: 429}}")
    assert over_preset(read(path)) == ["client_budget", "error_status.queue_full"]


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "none"])
def test_page_of_clients_has_what_each_preset_sets(name: PresetName) -> None:
    """docs/clients.md names the preset of a client, and the keys that it stands for."""
    page = (ROOT / "docs" / "clients.md").read_text()
    blocks = [parse_yaml(block.partition("```")[0]) for block in page.split("```yaml\n")[1:]]
    assert {"preset": name} in blocks
    assert PRESETS[name] in blocks
