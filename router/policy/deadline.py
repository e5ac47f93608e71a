"""Decides how long a job may take on its worker, and how long its client waits for it.

A worker ends a job at the limits in the job's body. An attempt that takes longer than these and a grace is taken for a
fault of the worker. The limits are read as the worker reads them, by Python's parser and pydantic. A body that the
worker will refuse has no limits.
"""

import json
import re
from collections.abc import Mapping
from math import isnan
from typing import Any, Self

import msgspec
from pydantic import TypeAdapter

from router.policy.large_json import Fields, Text, Walk

# /run_jupyter gives its kernel this much time beyond total_timeout.
OVERHEAD_S = 10.0
# verl's client waits this much longer than compile_timeout + run_timeout.
_VERL_S = 10.0
_OVER_JOB = re.compile(r"job\+([0-9]{1,6}(?:\.[0-9]{1,3})?)")
_SHORTEST_BUDGET_S = 1.0
# An answer leaves this long before its client gives up; later it would arrive too late.
CLIENT_MARGIN_S = 0.5
# No job's own limits count for more than a day. They may be above `timeout`: a worker runs a job up to its limits even
# when the client has gone, and the lease must hold as long. But a worker that hangs keeps its slot as long, too.
LONGEST_S = 86_400.0
# The limits of a larger body are read from its excerpt, so that Python's parser does not hold up other jobs.
SMALL_BYTES = 2**16

_float = TypeAdapter(float).validate_python


class Limits(msgspec.Struct, frozen=True):
    """A worker that has not answered after `bound_s` is at fault. The client has an answer after `ceiling_s`."""

    bound_s: float
    ceiling_s: float


class ClientBudget(msgspec.Struct, frozen=True):
    """How long a client waits that does not say so itself; None: for ever.

    With `is_over_job` it waits `seconds` longer than its job's own limits; a job without limits then has no budget.
    """

    seconds: float | None
    is_over_job: bool

    @classmethod
    def of(cls, text: str | float) -> Self:
        """Return the budget for `none`, `job`, `job+N` or a number of seconds. Raises ValueError.

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

    A field is named by its path, like `config.run_timeout`. A field without a default adds nothing if it is absent. A
    job whose fields add nothing has no limit. A body without the bytes `sign` has none of the fields, unless it writes
    them with escapes. Excerpts have the fields `also`, too, for others to read.
    """

    def __init__(
        self,
        fields: Mapping[str, float | None],
        overhead_s: float = 0.0,
        sign: bytes = b"",
        also: tuple[str, ...] = (),
    ) -> None:
        self._fields = {tuple(name.split(".")): default for name, default in fields.items()}
        self._overhead_s = overhead_s
        self._sign = sign
        self._default_s = self._sum(list(self._fields.values()))
        self._decode = msgspec.json.Decoder(shape(list(self._fields), float)).decode
        self._excerpts = Fields([*self._fields, *(tuple(name.split(".")) for name in also)])

    def longest_s(self, body: bytes | bytearray) -> float | None:
        """Return the seconds that the job may take by its own limits; None if it has no valid limits.

        `body` is at most SMALL_BYTES long; for a larger body, it is the excerpt.

        >>> reader = LimitReader({"compile_timeout": 10, "run_timeout": 10}, sign=b"_timeout")
        >>> reader.longest_s(b'{"code": "", "run_timeout": 5}'), reader.longest_s(b'{"run_timeout": "1_0.5"}')
        (15.0, 20.5)
        >>> reader.longest_s(b'{"code": "without the sign it is not parsed')
        20.0
        >>> reader.longest_s(b"not JSON")
        """
        if body.startswith(b"{") and self._sign not in body and b"\\u00" not in body:  # as in most jobs
            return self._default_s
        try:
            told = self._decode(body)
            seconds = [_of_struct(told, path) for path in self._fields]
        except (msgspec.DecodeError, RecursionError):  # the worker may still accept it
            try:
                told = json.loads(body)
                seconds = [_as_worker(told, path) for path in self._fields]
            except (ValueError, RecursionError):  # pydantic's ValidationError is a ValueError
                return None
        defaults = self._fields.values()
        return self._sum([default if s is None else s for s, default in zip(seconds, defaults, strict=True)])

    def excerpt(self, body: Text) -> Walk:
        """Return the excerpt of a large body for `longest_s`; yields between pieces. Raises Malformed."""
        return self._excerpts.excerpt(body)

    def _sum(self, seconds: list[float | None]) -> float | None:
        total = sum(s if isnan(s) else max(0.0, s) for s in seconds if s is not None)
        return total + self._overhead_s if total > 0 else None  # NaN is not above 0


def limits_of(
    longest_s: float | None,
    client_s: float | None,
    otherwise_s: float | None,
    budget: ClientBudget,
    *,
    grace_s: float,
    timeout_s: float,
) -> Limits:
    """Return a job's limits.

    `longest_s` are the body's limits, `client_s` is how long its client said that it waits; both may be None. Then
    `otherwise_s` (or `timeout_s`) bounds the attempt, and `budget` says how long the client waits. `timeout_s` is the
    highest ceiling.
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


def shape(paths: list[tuple[str, ...]], kind: Any) -> Any:
    """Return a struct of these fields of one kind, for which msgspec skips all other fields of a body.

    >>> read = msgspec.json.Decoder(shape([("a",), ("b", "c")], float)).decode
    >>> read(b'{"a": 1, "b": {"c": 2, "d": 3}, "e": "f"}')
    Shape(a=1.0, b=Shape(c=2.0))
    >>> read(b'{"a": null, "b": null}') == read(b'{}')
    True
    """
    members: dict[str, Any] = {}
    for name in dict.fromkeys(path[0] for path in paths):
        inner = [path[1:] for path in paths if path[0] == name and path[1:]]
        members[name] = shape(inner, kind) | None if inner else kind | None
    return msgspec.defstruct("Shape", [(name, kind, None) for name, kind in members.items()])


def _of_struct(told: Any, path: tuple[str, ...]) -> float | None:
    for name in path:
        told = None if told is None else getattr(told, name)
    seconds: float | None = told
    return seconds


def _as_worker(told: Any, path: tuple[str, ...]) -> float | None:
    """Return a field's value as Python's parser and pydantic read it. Raises ValueError if the worker refuses it."""
    for name in path:
        if not isinstance(told, dict):
            raise ValueError("no object")  # noqa: TRY004  (like pydantic's errors)
        told = told.get(name)
        if told is None:
            return None
    return _float(told)
