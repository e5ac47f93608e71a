"""The configuration in force as YAML, and as a comment at each key where its value comes from: `sfr config show`."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from router.config.addresses import masked
from router.config.load import Configuration
from router.config.presets import preset_of
from router.config.section import Section

_INDENT = "  "


def shown(configuration: Configuration) -> str:
    """Return the settings with all defaults and without anything that may be a password.

    >>> from router.config.settings import Settings
    >>> print(shown(Configuration(Settings(), {"preset": "none"}))[:43])
    preset: none  # file
    workers: []  # default
    """
    settings = configuration.settings
    document = settings.model_dump(mode="json")
    document["redis"]["url"] = masked(settings.redis.url)
    document["health_check"]["path"] = masked(settings.health_check.path)
    return "".join(_lines(settings, document, configuration, ()))


def over_preset(configuration: Configuration) -> list[str]:
    """Return the keys of its preset that the file or a variable sets, and so wins over."""
    places = _places(preset_of({"preset": configuration.settings.preset}))
    return [".".join(place) for place in places if not _origin(configuration, place).startswith("preset ")]


def _places(said: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, its in said.items():
        if isinstance(its, Mapping):
            yield from ((key, *place) for place in _places(its))
        else:
            yield (key,)


def _lines(
    section: Section, document: Mapping[str, Any], configuration: Configuration, place: tuple[str, ...]
) -> Iterator[str]:
    for key, its in section:
        if isinstance(its, Section):
            yield f"{_INDENT * len(place)}{key}:\n"
            yield from _lines(its, document[key], configuration, (*place, key))
        else:
            yield _entry(key, document[key], _origin(configuration, (*place, key)), _INDENT * len(place))


def _entry(key: str, value: object, origin: str, indent: str) -> str:
    """Return one key with its value and a comment; one of several lines has the comment in the first of these."""
    # A text on several lines would end in the comment.
    text = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=math.inf)
    first, *more = text.splitlines()
    return "".join(f"{indent}{line}\n" for line in (f"{first}  # {origin}", *more))


def _origin(configuration: Configuration, place: tuple[str, ...]) -> str:
    """Return where the value of a key comes from."""
    if variable := configuration.variables.get(place):
        return f"environment, {variable}"
    if _has(configuration.said, place):
        return "file"
    preset = configuration.settings.preset
    return f"preset {preset}" if _has(preset_of({"preset": preset}), place) else "default"


def _has(said: Mapping[str, Any], place: tuple[str, ...]) -> bool:
    for key in place:
        if not isinstance(said, Mapping) or key not in said:
            return False
        said = said[key]
    return True
