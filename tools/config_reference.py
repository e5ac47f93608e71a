"""Writes the keys of config.yaml into docs/configuration.md: `python -m tools.config_reference`.

Types and limits come from the settings' JSON schema, which pydantic makes. A key's meaning is the docstring below it in
router/config/settings.py.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.config.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
_TABLES = re.compile(r"(<!-- settings -->\n).*(<!-- /settings -->)", re.DOTALL)
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
# A higher bound is not shown, because users meet it only by a typing error. The error message then names it.
_OUT_OF_SIGHT = 1e6
_COLLECTIONS = {"array": "list", "object": "a section for each"}
# What the sections of one key are named by.
_NAMED_BY = {"endpoints": "PATH", "tenants": "NAME"}
_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of config.yaml, as Markdown: its full name, the values that it takes, its default, and its meaning."""

    name: str
    takes: str
    default: str
    meaning: str


def keys() -> dict[str, tuple[str, list[Key]]]:
    """Return, by section, its description and its keys. The section "" is the top level."""
    schema = Settings.model_json_schema()
    found: dict[str, tuple[str, list[Key]]] = {"": (schema["description"], [])}
    for name, key in schema["properties"].items():
        if "$ref" in key:  # a section of its own
            found[name] = _section(f"{name}.", _model(schema, key))
            continue
        found[""][1].append(_key(name, key, is_required=False))
        if "$ref" in key.get("items", {}):
            found[f"{name}[]"] = _section(f"{name}[].", _model(schema, key["items"]))
        if "$ref" in (each := key.get("additionalProperties") or {}):
            place = f"{name}.{_NAMED_BY[name]}"
            found[place] = _section(f"{place}.", model := _model(schema, each))
            for inner, its in model["properties"].items():
                for kind in its.get("anyOf", ()):
                    if "$ref" in kind:
                        found[f"{place}.{inner}"] = _section(f"{place}.{inner}.", _model(schema, kind))
    return found


def page(text: str) -> str:
    """Return the page `text`, with the tables of all keys between its two marks."""
    tables = "\n".join(_tables())
    return _TABLES.sub(lambda marks: f"{marks[1]}\n{tables}\n{marks[2]}", text)


def _tables() -> Iterator[str]:
    for section, (about, members) in keys().items():
        yield f"### `{section}`\n" if section else "### At the top\n"
        yield f"{about}\n"
        yield "| key | takes | default | meaning |\n|---|---|---|---|"
        for key in members:
            yield f"| `{key.name}` | {key.takes} | {key.default} | {key.meaning} |"
        yield ""


def _model(schema: Mapping[str, Any], reference: Mapping[str, Any]) -> Mapping[str, Any]:
    model: Mapping[str, Any] = schema["$defs"][reference["$ref"].rpartition("/")[2]]
    return model


def _section(prefix: str, model: Mapping[str, Any]) -> tuple[str, list[Key]]:
    required = model.get("required", ())
    members = [_key(prefix + name, key, is_required=name in required) for name, key in model["properties"].items()]
    return model["description"], members


def _key(name: str, key: Mapping[str, Any], *, is_required: bool) -> Key:
    if "description" not in key:
        raise ValueError(f"{name} has no docstring below it in router/config")
    default = "required" if is_required else _shown(key["default"])
    return Key(name, _takes(key), default, " ".join(key["description"].split()))


def _takes(key: Mapping[str, Any]) -> str:
    if "anyOf" in key:  # null is left out, because the default already shows it
        return " or ".join(_takes(each) for each in key["anyOf"] if each.get("type") != "null")
    if "$ref" in key:
        return "a section"
    if "const" in key:
        return f"`{key['const']}`"
    if "enum" in key:
        return ", ".join(f"`{choice}`" for choice in key["enum"])
    if key["type"] in _COLLECTIONS:
        return _COLLECTIONS[key["type"]]
    told = [(sign, key[limit]) for limit, sign in _LIMITS.items() if limit in key and key[limit] < _OUT_OF_SIGHT]
    limits = " and ".join(f"{sign} {value:g}" for sign, value in told)
    return f"{_TYPES[key['type']]} {limits}".rstrip()


def _shown(default: object) -> str:
    match default:
        case None | [] | ():
            return "none"
        case dict() if not default:
            return "none"
        case bool():
            return str(default).lower()
        case int() | float():
            return f"{default:g}"
        case _:
            return f"`{default}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
