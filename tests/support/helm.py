"""Renders the Helm chart without Helm: a small subset of Go's templates, and an error for all else.

It knows `if`, `else` and `end`, fields of Values, Release and Chart, and the functions below. The chart keeps to that.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "sandboxfusion-router"
_ACTION = re.compile(r"(\{\{-?\s*.*?\s*-?\}\})", re.DOTALL)
_WORD = re.compile(r'"[^"]*"|[^\s"]+')


class CannotRender(Exception):
    """The template uses what this subset lacks, or `required` has found nothing."""


def render(values: Mapping[str, Any] | None = None, release: str = "rel", chart: Path = CHART) -> list[dict[str, Any]]:
    """Return the objects of `helm template RELEASE CHART`, with `values` over those of values.yaml."""
    facts = {
        "Values": merged(yaml.safe_load((chart / "values.yaml").read_text()), values or {}),
        "Release": {"Name": release, "Namespace": "sandbox"},
        "Chart": {key[0].upper() + key[1:]: value for key, value in _yaml(chart / "Chart.yaml").items()},
        "Files": {path.relative_to(chart).as_posix(): path.read_text() for path in chart.glob("files/*")},
    }
    texts = [rendered(path.read_text(), facts) for path in sorted(chart.glob("templates/*.yaml"))]
    return [each for text in texts for each in yaml.safe_load_all(text) if each is not None]


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above`, section by section."""
    return {
        **below,
        **{
            key: merged(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
            for key, value in above.items()
        },
    }


def rendered(text: str, facts: Mapping[str, Any]) -> str:
    """Return the template `text`, rendered. Raises CannotRender.

    >>> rendered("x: {{- if .Values.n }}1{{ else }} {{ .Values.two | quote }}{{ end }}", {"Values": {"n": 0, "two": 2}})
    'x: "2"'
    """
    made: list[str] = []
    shown = [True]  # whether each open `if` shows what it holds, the innermost last
    for part in _trimmed(text):
        if not part.startswith("{{"):
            made.append(part if all(shown) else "")
            continue
        match _WORD.findall(part.strip("{}").strip("- \n")):
            case ["if", *words]:
                shown.append(all(shown) and bool(_value(words, facts)))
            case ["else"]:
                shown[-1] = not shown[-1]
            case ["end"]:
                shown.pop()
            case words if all(shown):
                made.append(_printed(_value(words, facts)))
    if shown != [True]:
        raise CannotRender("an `if` without `end`")
    return "".join(made)


def _trimmed(text: str) -> list[str]:
    """Return texts and actions in turns, the texts without the spaces that their neighbours take away."""
    parts = _ACTION.split(text)
    for place in range(1, len(parts), 2):
        if parts[place].startswith("{{-"):
            parts[place - 1] = parts[place - 1].rstrip()
        if parts[place].endswith("-}}"):
            parts[place + 1] = parts[place + 1].lstrip()
    return parts


def _value(words: list[str], facts: Mapping[str, Any]) -> Any:
    """Return the value of a pipeline: each step gets the value before as its last argument."""
    before: list[Any] = []
    for step in _steps(words):
        head, *arguments = step
        given = [_literal(word, facts) for word in arguments]
        if head in _FUNCTIONS:
            before = [_FUNCTIONS[head](*given, *before)]
        elif head == ".Files.Get":
            before = [facts["Files"][given[0]]]
        elif not arguments and not before:
            before = [_literal(head, facts)]
        else:
            raise CannotRender(f"{' '.join(words)}: the function {head} is not known here")
    return before[0]


def _steps(words: list[str]) -> Iterator[list[str]]:
    step: list[str] = []
    for word in [*words, "|"]:
        if word == "|":
            yield step
            step = []
        else:
            step.append(word)


def _literal(word: str, facts: Mapping[str, Any]) -> Any:
    if word.startswith('"'):
        return word.strip('"')
    if word.isdecimal():
        return int(word)
    value: Any = facts
    for name in word.removeprefix(".").split("."):
        if not word.startswith(".") or not isinstance(value, Mapping) or name not in value:
            raise CannotRender(f"{word}: there is no {name}")
        value = value[name]
    return value


def _printed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _required(message: str, value: Any) -> Any:
    if not value:
        raise CannotRender(message)
    return value


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "default": lambda otherwise, value: value or otherwise,
    "indent": lambda spaces, text: indent(text, " " * spaces),
    "nindent": lambda spaces, text: "\n" + indent(text, " " * spaces),
    "quote": lambda value: f'"{_printed(value)}"',
    "replace": lambda old, new, text: text.replace(old, new),
    "required": _required,
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "toYaml": lambda value: yaml.safe_dump(value, sort_keys=True).removesuffix("\n"),
}


def _yaml(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found
