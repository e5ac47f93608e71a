"""Says where input is wrong that pydantic has refused, and what was expected, in the words of all other messages."""

import re
from collections.abc import Iterable

from pydantic_core import ErrorDetails

_KEYS = "expected keys and values"
# pydantic would name Python's types.
_BY_TYPE = {
    "missing": "expected a value, got none",
    "extra_forbidden": "unknown key",
    "tuple_type": "expected a list",
    "dict_type": _KEYS,
    "model_type": _KEYS,
    "model_attributes_type": _KEYS,
    "dataclass_type": _KEYS,
}
_WORDS = (
    (r"^[A-Z]\w+ should (?:be|have) ", "expected "),
    (r"^String should match pattern ", "expected text that matches "),
    (r" after validation, not ", ", got "),
)


def place_of(parts: Iterable[str | int]) -> str:
    """Return where a value stands, by the names and numbers that lead to it.

    >>> place_of(["workers", 0, "labels", 1]), place_of([])
    ('workers[0].labels[1]', '')
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def told(flaw: ErrorDetails) -> str:
    """Return what is wrong with a value.

    >>> told({"type": "string_too_long", "loc": (), "input": "", "msg": "String should have at most 5 characters"})
    'expected at most 5 characters'
    """
    message = flaw["msg"]
    for theirs, ours in _WORDS:
        message = re.sub(theirs, ours, message)
    return _BY_TYPE.get(flaw["type"], message)
