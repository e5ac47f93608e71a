"""What all commands have in common: `-h`, their help, and how they refuse bad input."""

import re
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from router.cli.main import app

cli = CliRunner()


@pytest.fixture(autouse=True)
def _no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that run for long set up their log on stdout, which the runner takes away when they have ended."""
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)


def commands() -> Iterator[tuple[str, ...]]:
    """Yield the words of each command and group, hidden ones too."""

    def walk(command: object, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))

    yield from walk(typer.main.get_command(app), ())


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_has_a_short_help_without_the_framework_s_types(words: tuple[str, ...]) -> None:
    """`-h` shows the help, in which flags and arguments have no type, and a flag no second name that turns it off."""
    done = cli.invoke(app, [*words, "-h"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "Usage: " in done.stdout
    assert all(odd not in done.stdout for odd in ("<bool>", "--no-", "BOOLEAN", "[default: False]"))
    assert not re.search(r"<(str|path|int|float|list)", done.stdout)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("up --port abc", "--port: expected a whole number from 1 to 65535, got 'abc'"),
        ("up --processes 0", "--processes: expected a whole number from 1 to 1000, got '0'"),
        ("up --port", "--port: expected a value"),
        ("up --host a..b", "--host: expected an address of this host, such as 0.0.0.0, got 'a..b'"),
        ("agent --router http://a --url http://b:1 --mark /", "--mark: no file can be made at '/'"),
        (
            "agent --router http://a --url http://b:1 --weight 1e3",
            "--weight: expected a whole number from 1 to 100, got '1e3'",
        ),
        (
            "agent --router http://a --url http://b:1 --mark /no/such/file",
            "--mark: no file can be made at '/no/such/file'",
        ),
        ("agent --url http://b:1", "expected --router; `sfr agent -h` shows help"),
        ("workers dran", "unknown command dran, did you mean drain?; `sfr workers -h` shows help"),
        ("workers list --jso x", "unknown option --jso, did you mean --json?; `sfr workers list -h` shows help"),
        (
            "workers list --health ill",
            "--health: expected one of unknown, healthy, unhealthy, ejected, draining, got 'ill'",
        ),
        ("workers drain", "expected workers' URLs, or --all, or --health"),
        ("workers drain http://a:1 --all", "expected URLs, or --all, or --health"),
        ("workers drain http://a:1 --timeout 3", "--timeout: expected --wait with it"),
        ("workers add http://a:1 --ttl nan", "--ttl: expected seconds, more than 0 and at most 10000000, got 'nan'"),
        ("run x --order z", "--order: expected one of 'arrival', 'longest_first', got 'z'; `sfr run -h` shows help"),
        ("run", "expected FILE; `sfr run -h` shows help"),
        ("run a b", "unexpected b; `sfr run -h` shows help"),
        ("redis --url x PING", "--url: expected a URL such as redis://localhost:6379/0"),
        ("redis", "expected COMMAND; `sfr redis -h` shows help"),
    ],
)
def test_bad_input_ends_with_status_2_and_one_line(words: str, told: str) -> None:
    """The line names the option and what was expected; there is no traceback and no frame around it."""
    done = cli.invoke(app, words.split(), env={"SFR_URL": None})
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"{told}\n")


def test_old_name_of_the_local_worker_is_hidden_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sfr worker` still starts a local worker, but help does not show it, and its user hears of the new name."""
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: None)
    listed = cli.invoke(app, ["-h"]).stdout
    assert "│ local-worker " in listed
    assert "│ worker " not in listed
    assert cli.invoke(app, ["local-worker"]).stderr == ""
    told = cli.invoke(app, ["worker"])
    assert (told.exit_code, told.stderr.startswith("`sfr worker` is now `sfr local-worker`")) == (0, True)
