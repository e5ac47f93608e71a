"""Parses YAML without its surprises, and says in one line what is wrong with a text and where.

A key may be given only once. 010 is not read as 8, 1:30 not as 90, and a date is text. Depth and size are limited, with
aliases included.
"""

import re
from typing import Any

import yaml

from router.config.addresses import masked

# More than any configuration has. A deeper document could exhaust the stack; aliases of aliases could exhaust memory.
MAX_DEPTH = 50
MAX_MERGED = 10_000

_TIMESTAMP, _INT, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("timestamp", "int", "float"))
_WHOLE = r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)"
_FRACTION = r"[-+]?([0-9]*\.[0-9]+|[0-9]+\.)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
_NOT_FINITE = r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"


class NotYaml(Exception):
    """The text cannot be parsed; the message says where and why, and repeats none of it."""


def parse_yaml(text: str) -> Any:
    """Return the document in `text`. Raises NotYaml."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise NotYaml(_yaml_problem(error)) from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    depth = 0

    def __init__(self, text: str) -> None:
        try:
            super().__init__(text)
        except yaml.YAMLError as error:  # the text has a character that YAML does not allow
            raise NotYaml(_yaml_problem(error)) from error

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{masked(key.value)[:100]!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_MERGED:
            raise yaml.MarkedYAMLError(problem="too many merged keys", problem_mark=node.start_mark)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # such as for `!!int x`, or for thousands of digits
            raise yaml.MarkedYAMLError(problem="a value that cannot be read", problem_mark=node.start_mark) from error


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_TIMESTAMP, _INT, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(rf"(?:{_WHOLE})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(_FLOAT, re.compile(rf"(?:{_FRACTION}|{_NOT_FINITE})$"), list("-+0123456789."))


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1}: {error.reason}"
    return " ".join(str(error).split())
