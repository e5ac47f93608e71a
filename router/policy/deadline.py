"""How long a job may take on its worker, and how long its client waits for it: read from its body.

A worker ends a job at its own limits, which stand in the body; what runs longer than those and a grace is not running
well. They are read as the worker reads them, by Python's parser and pydantic. A body that the worker will refuse has no
limits.
"""

import json
import re
from collections.abc import Mapping
from math import isnan
from typing import Any, Self

import msgspec
from pydantic import TypeAdapter

from router.policy.large_json import Fields, Text, Walk

# What /run_jupyter's kernel is given over total_timeout.
OVERHEAD_S = 10.0
# What verl's client waits over compile + run.
_VERL_S = 10.0
_OVER_JOB = re.compile(r"job\+([0-9]{1,6}(?:\.[0-9]{1,3})?)")
_SHORTEST_BUDGET_S = 1.0
# An answer that leaves in the client's last moment comes too late.
CLIENT_MARGIN_S = 0.5
# No job's own limits count for more than a day. They may be above `timeout`, for a worker runs a job up to them even
# when its client has gone, and its lease has to hold as long. But a worker that hangs keeps its slot for as long, too.
LONGEST_S = 86_400.0
# A larger body is read from its excerpt: so much takes Python's parser 3 ms at worst.
SMALL_BYTES = 2**16

_float = TypeAdapter(float).validate_python


class Limits(msgspec.Struct, frozen=True):
    """`bound_s`: a worker that has not answered by then is at fault. `ceiling_s`: then the client has its answer."""

    bound_s: float
    ceiling_s: float


class ClientBudget(msgspec.Struct, frozen=True):
    """How long a client waits that does not say so itself: None is for ever.

    With `is_over_job`, so much longer than its job's own limits; a job without limits then has no budget.
    """

    seconds: float | None
    is_over_job: bool

    @classmethod
    def of(cls, text: str | float) -> Self:
        """Return what `none`, `job`, `job+N` or a number of seconds means. Raises ValueError.

        >>> ClientBudget.of("job+2"), ClientBudget.of(12)
        (ClientBudget(seconds=2.0, is_over_job=True), ClientBudget(seconds=12, is_over_job=False))
        """
        if text in ("none", "job"):
            return cls(_VERL_S if text == "job" else None, text == "job")
        if isinstance(text, str):
            if not (matched := _OVER_JOB.fullmatch(text)):
                raise ValueError(text)
            return cls(float(matched[1]), is_over_job=True)
        if not _SHORTEST_BUDGET_S <= text < float("inf"):
            raise ValueError(text)
        return cls(text, is_over_job=False)


class LimitReader:
    """Reads how long a job may take: the sum of its `fields`, each with the worker's default, and `overhead_s`.

    A field is named by its path, such as `config.run_timeout`. One without a default adds nothing where it is absent; a
    job whose fields add nothing has no limit. A body in which the bytes `sign` do not stand has none of the fields,
    unless they are written with escapes.
    """

    def __init__(self, fields: Mapping[str, float | None], overhead_s: float = 0.0, sign: bytes = b"") -> None:
        self._fields = {tuple(name.split(".")): default for name, default in fields.items()}
        self._overhead_s = overhead_s
        self._sign = sign
        self._default_s = self._sum(list(self._fields.values()))
        self._decode = msgspec.json.Decoder(_shape(list(self._fields))).decode
        self._excerpts = Fields(list(self._fields))

    def longest_s(self, body: bytes | bytearray) -> float | None:
        """Return how many seconds the job may take by its own words; None where it has none that make sense.

        `body` is not over SMALL_BYTES; of a larger one, it is the excerpt.

        >>> reader = LimitReader({"compile_timeout": 10, "run_timeout": 10}, sign=b"_timeout")
        >>> reader.longest_s(b'{"code": "", "run_timeout": 5}'), reader.longest_s(b'{"run_timeout": "1_0.5"}')
        (15.0, 20.5)
        >>> reader.longest_s(b'{"code": "without the sign it is not parsed')
        20.0
        >>> reader.longest_s(b"not JSON")
        """
        if body.startswith(b"{") and self._sign not in body and b"\\u00" not in body:  # as most are
            return self._default_s
        try:
            told = self._decode(body)
            seconds = [_of_struct(told, path) for path in self._fields]
        except (msgspec.DecodeError, RecursionError):  # it may be good for the worker all the same
            try:
                told = json.loads(body)
                seconds = [_as_worker(told, path) for path in self._fields]
            except (ValueError, RecursionError):  # pydantic's ValidationError is a ValueError
                return None
        defaults = self._fields.values()
        return self._sum([default if s is None else s for s, default in zip(seconds, defaults, strict=True)])

    def excerpt(self, body: Text) -> Walk:
        """Return, after pauses, what `longest_s` needs of a large body. Raises Malformed."""
        return self._excerpts.excerpt(body)

    def _sum(self, seconds: list[float | None]) -> float | None:
        total = sum(s if isnan(s) else max(0.0, s) for s in seconds if s is not None)
        return total + self._overhead_s if total > 0 else None  # NaN is not, either


def limits_of(
    longest_s: float | None,
    client_s: float | None,
    otherwise_s: float | None = None,
    *,
    grace_s: float,
    timeout_s: float,
    budget: ClientBudget,
) -> Limits:
    """Return a job's limits. `client_s` is what its client said it waits, `budget` is for those that say nothing.

    `otherwise_s` bounds a job whose body says nothing. `timeout_s` is the ceiling on everything.
    """
    if longest_s is not None:
        bound_s = min(longest_s, LONGEST_S) + grace_s
    else:
        bound_s = timeout_s if otherwise_s is None else otherwise_s
    if client_s is None and budget.seconds is not None:
        if not budget.is_over_job:
            client_s = budget.seconds
        elif longest_s is not None:
            client_s = longest_s + budget.seconds
    ceiling_s = timeout_s if client_s is None else min(timeout_s, max(client_s - CLIENT_MARGIN_S, 0.0))
    return Limits(bound_s, ceiling_s)


def _shape(paths: list[tuple[str, ...]]) -> Any:
    """Return a struct of these fields: what msgspec reads of a body, passing over all else.

    >>> read = msgspec.json.Decoder(_shape([("a",), ("b", "c")])).decode
    >>> read(b'{"a": 1, "b": {"c": 2, "d": 3}, "e": "f"}')
    Shape(a=1.0, b=Shape(c=2.0))
    >>> read(b'{"a": null, "b": null}') == read(b'{}')
    True
    """
    members: dict[str, Any] = {}
    for name in dict.fromkeys(path[0] for path in paths):
        inner = [path[1:] for path in paths if path[0] == name and path[1:]]
        members[name] = _shape(inner) | None if inner else float | None
    return msgspec.defstruct("Shape", [(name, kind, None) for name, kind in members.items()])


def _of_struct(told: Any, path: tuple[str, ...]) -> float | None:
    for name in path:
        told = None if told is None else getattr(told, name)
    seconds: float | None = told
    return seconds


def _as_worker(told: Any, path: tuple[str, ...]) -> float | None:
    """Return what Python's parser and pydantic make of a field. Raises ValueError where the worker will refuse it."""
    for name in path:
        if not isinstance(told, dict):
            raise ValueError("no object")  # noqa: TRY004  (as pydantic says it)
        told = told.get(name)
        if told is None:
            return None
    return _float(told)
