"""Reads config.yaml and the environment into validated, frozen settings.

It decides how a bad configuration is reported; settings.py decides what a good one is. The router, the sidecar, the CLI
and gunicorn.conf.py use it, so it imports nothing heavy.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router.config.addresses import shown
from router.config.flaws import place_of, told
from router.config.settings import EndpointSettings, Settings
from router.config.strict_yaml import NotYaml, parse_yaml
from router.config.tenants import TenantSettings
from router.config.text_file import Unreadable, read_text
from router.config.workers import WorkerSettings

CONFIG_VARIABLE = "ROUTER_CONFIG"
DEFAULT_CONFIG_FILE = "config.yaml"
REDIS_VARIABLE = "REDIS_URL"
PRESET_VARIABLE = "ROUTER_PRESET"
DISCOVER_VARIABLE = "DISCOVER_DNS"
# OpenTelemetry's own variables: the whole URL, or the part before /v1/traces.
TRACES_VARIABLE = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
OTLP_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"

# The values of these keys are never shown. A bad REDIS_URL may hold a password in a form that `masked` does not know,
# and worker_auth may hold the header itself by mistake.
_SECRET = ("redis.url", "worker_auth")

_Value = TypeVar("_Value")

_IN_COLLECTIONS: Mapping[str, type[BaseModel]] = {
    "workers": WorkerSettings,
    "endpoints": EndpointSettings,
    "tenants": TenantSettings,
}


class WatchedFile:
    """Notices when a file has changed and can be read again.

    A file that is written in place may be half written, so it counts as changed only when it looks the same twice. A
    file that replaces another one (a rename, Kubernetes' links) is complete at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._looked: tuple[int, int, int] | None = None

    def has_changed(self) -> bool:
        """Whether the file has changed since this last returned True; at the first call: whether it exists."""
        before, self._looked = self._looked, self._stamp()
        is_whole = self._looked == before or before is None or self._looked is None or self._looked[0] != before[0]
        if self._looked == self._seen or not is_whole:
            return False
        self._seen = self._looked
        return True

    @property
    def size_bytes(self) -> int:
        """The file's size when `has_changed` last returned True; 0 if it did not exist."""
        return self._seen[1] if self._seen is not None else 0

    def _stamp(self) -> tuple[int, int, int] | None:
        # stat follows links. Kubernetes changes a mounted ConfigMap by pointing a link at another folder.
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


class ConfigError(Exception):
    """The configuration cannot be used; the message names the file, the key and what was expected."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings, what the file says of them, and the variables that set some of them, by section and key."""

    settings: Settings
    said: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[tuple[str | int, ...], str] = field(default_factory=dict)


def config_path() -> Path:
    """Return the file that ROUTER_CONFIG names, by default config.yaml in the working directory."""
    return Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG_FILE)


def has_config() -> bool:
    """Whether there is a file to read. One that ROUTER_CONFIG names must exist, so that a typing error is found."""
    return CONFIG_VARIABLE in os.environ or config_path().exists()


def load(path: Path) -> Settings:
    """Return the settings in `path` and the environment, as `read` does. Raises ConfigError."""
    return read(path).settings


def read(path: Path) -> Configuration:
    """Read and validate `path` and the environment. Raises ConfigError.

    REDIS_URL wins over its redis.url, DISCOVER_DNS over its discover.dns, OTEL_… over its traces.endpoint, and
    ROUTER_PRESET over its preset.
    """
    try:
        text = read_text(path)
    except Unreadable as error:
        is_missing = isinstance(error.__cause__, FileNotFoundError)
        hint = f"; `sfr config new` writes one, {CONFIG_VARIABLE} names another" if is_missing else ""
        raise ConfigError(f"{error}{hint}") from error
    return _read(text, str(path))


def parse(text: str, name: str) -> Settings:
    """Validate the YAML `text`; error messages call it `name`. Raises ConfigError."""
    return _read(text, name).settings


def _read(text: str, name: str) -> Configuration:
    try:
        document: Any = parse_yaml(text)
    except NotYaml as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from error
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise ConfigError(f"{name}: expected keys and values such as `timeout: 300`, got a {type(document).__name__}")
    # A key without a value (`redis:`) keeps its defaults.
    said = {key: value for key, value in document.items() if value is not None}
    document = dict(said)
    variables: dict[tuple[str | int, ...], str] = {}
    if preset := os.environ.get(PRESET_VARIABLE):
        document["preset"], variables["preset",] = preset, PRESET_VARIABLE
    if url := os.environ.get(REDIS_VARIABLE):
        _put(document, name, "redis", "url", url, "prefix: sfr")
        variables["redis", "url"] = REDIS_VARIABLE
    if dns := os.environ.get(DISCOVER_VARIABLE):
        _put(document, name, "discover", "dns", dns, "dns: sandbox-workers:8080")
        variables["discover", "dns"] = DISCOVER_VARIABLE
    if (url := _traces_url(os.environ)) is not None:
        _put(document, name, "traces", "endpoint", url or None, "endpoint: http://collector:4318/v1/traces")
        variables["traces", "endpoint"] = "OTEL_…"
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        problems = (f"{name}: {_problem(detail)}{_source(detail, variables)}" for detail in error.errors())
        raise ConfigError("\n".join(problems)) from error
    return Configuration(settings, said, variables)


def _put(document: dict[str, Any], name: str, section: str, key: str, value: str | None, example: str) -> None:
    if not isinstance(document.setdefault(section, {}), dict):
        raise ConfigError(f"{name}: {section}: expected keys and values such as `{example}`")
    document[section] = {**document[section], key: value}


def _traces_url(environment: Mapping[str, str]) -> str | None:
    """Return where OpenTelemetry's own variables send spans; "" if they turn traces off, None if none is set.

    >>> _traces_url({OTLP_VARIABLE: "http://collector:4318/"})
    'http://collector:4318/v1/traces'
    >>> _traces_url({OTLP_VARIABLE: "http://collector:4318/", "OTEL_TRACES_EXPORTER": "none"})
    ''
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return ""
    whole, beginning = environment.get(TRACES_VARIABLE), environment.get(OTLP_VARIABLE)
    return whole or (f"{beginning.rstrip('/')}/v1/traces" if beginning else None)


def expect_extras(settings: Settings) -> None:
    """Raise ConfigError if these settings need a library that is not installed."""
    if settings.traces.endpoint is None:
        return
    try:
        is_there = find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # a package above it is missing
        is_there = False
    if not is_there:
        raise ConfigError("traces.endpoint: OpenTelemetry is missing: pip install 'sandboxfusion-router[traces]'")


def load_or_exit() -> Settings:
    """Return the configuration for a program's start; exit if it is bad, as `or_exit` does."""
    return or_exit(lambda: load(config_path()))


def or_exit(start: Callable[[], _Value], status: int = 2) -> _Value:
    """Return what `start` returns; if it raises ConfigError, print that on stderr and exit with `status`."""
    try:
        return start()
    except ConfigError as error:
        print(f"configuration error: {error}", file=sys.stderr)  # noqa: T201  (logging is not set up yet)
        sys.exit(status)


def _problem(detail: ErrorDetails) -> str:
    key = place_of(part if isinstance(part, int) else _printable_key(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{key}: {told(detail)}; expected one of {', '.join(_known_keys(detail['loc'][:-1]))}"
    return f"{key}: {told(detail)}{_given(detail['input'], key)}"


def _source(detail: ErrorDetails, variables: Mapping[tuple[str | int, ...], str]) -> str:
    """Return which variable has given the bad value; nothing if the file has."""
    variable = variables.get(detail["loc"])
    return f" ({variable})" if variable else ""


def _given(value: object, key: str) -> str:
    """Return the value that was given, for an error message; nothing for sections, lists and possible secrets."""
    if not isinstance(value, str | int | float) or key.endswith(_SECRET):
        return ""
    try:
        return f", got {shown(value) if isinstance(value, str) else value!r}"
    except ValueError:  # Python does not print a number of thousands of digits
        return ""


def _printable_key(key: str) -> str:
    text = shown(key)
    return text if text.isprintable() else repr(text)


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the section at this place."""
    model: type[BaseModel] = Settings
    if place and str(place[0]) in _IN_COLLECTIONS:
        model, place = _IN_COLLECTIONS[str(place[0])], place[2:]
    for name in place:
        section = model.model_fields[str(name)].annotation  # perhaps `Section | None`
        model = next(each for each in (section, *get_args(section)) if isinstance(each, type))
    return sorted(model.model_fields)
