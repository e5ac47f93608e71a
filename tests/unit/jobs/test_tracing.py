"""Settings and OpenTelemetry's variables turn traces on; without them, traces cost nothing."""

import subprocess
import sys

import pytest

from router.config.load import OTLP_VARIABLE, TRACES_VARIABLE, ConfigError, parse

ENDPOINT = "http://collector:4318/v1/traces"


@pytest.mark.parametrize(
    ("text", "environment", "endpoint"),
    [
        ("", {}, None),
        (f"traces: {{endpoint: '{ENDPOINT}'}}", {}, ENDPOINT),
        ("traces:", {OTLP_VARIABLE: "http://collector:4318"}, ENDPOINT),
        ("traces: {endpoint: 'http://there/v1'}", {OTLP_VARIABLE: "http://collector:4318/"}, ENDPOINT),
        ("", {OTLP_VARIABLE: "http://there", TRACES_VARIABLE: ENDPOINT}, ENDPOINT),
        (f"traces: {{endpoint: '{ENDPOINT}'}}", {"OTEL_SDK_DISABLED": "true"}, None),
        ("", {OTLP_VARIABLE: "http://there", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_endpoint_comes_from_the_settings_or_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, environment: dict[str, str], endpoint: str | None
) -> None:
    """The environment overrides the settings, as for Redis."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse(text, "t").traces.endpoint == endpoint


@pytest.mark.parametrize("given", ["collector:4318", "http://collector:4318", "http://me:secret@collector/v1/traces"])
def test_incomplete_endpoint_is_refused(given: str) -> None:
    """The error names the setting and what is expected."""
    with pytest.raises(ConfigError, match=r"t: traces\.endpoint: expected a whole URL such as http://collector:4318"):
        parse(f"traces: {{endpoint: '{given}'}}", "t")


def python(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in its own Python."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_missing_extra_is_reported_at_the_start() -> None:
    """One line names what to install, and only if traces are configured."""
    absent = "import sys; sys.modules['opentelemetry.exporter'] = None\n"
    asked = "from router.config import load; load.or_exit(lambda: load.expect_extras(load.parse({text!r}, 't')))"
    ended = python(absent + asked.format(text=f"traces: {{endpoint: '{ENDPOINT}'}}"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "configuration error: traces.endpoint: OpenTelemetry is missing: pip install 'sandboxfusion-router[traces]'\n"
    )
    assert python(absent + asked.format(text="")).returncode == 0


def test_without_traces_nothing_that_sends_spans_is_imported() -> None:
    """Other libraries may import OpenTelemetry's API, but not the code that sends spans."""
    program = (
        "import sys; from router.composition import create_app; from router.config.load import parse\n"
        "create_app(parse('', 't')); print({'router.jobs.tracing', 'opentelemetry.exporter'} & sys.modules.keys())"
    )
    ended = python(program)
    assert (ended.stdout, ended.returncode) == ("set()\n", 0), ended.stderr
