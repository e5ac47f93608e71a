"""How long a job may run on its worker, and how long its client waits for it: read from its body.

A worker ends a job at its own limits, which stand in the body; what runs longer than those and a grace is not running
well. A body that cannot be read has no limits of its own: the worker will refuse it, or the ceiling ends it.
"""

import re
from typing import Self

import msgspec

# SandboxFusion's own, where the body says nothing (FACTS: RunCodeRequest, RunJupyterRequest).
_DEFAULT_COMPILE_S = 10.0
_DEFAULT_RUN_S = 10.0
_DEFAULT_TOTAL_S = 45.0
_SAYS_TIMEOUT = b"_timeout"
# What /run_jupyter's kernel is given over total_timeout.
_OVERHEAD_S = 10.0
# What verl's client waits over compile + run.
_VERL_S = 10.0
_OVER_JOB = re.compile(r"job\+([0-9]{1,6}(?:\.[0-9]{1,3})?)")
_SHORTEST_BUDGET_S = 1.0
# An answer that leaves in the client's last moment comes too late.
CLIENT_MARGIN_S = 0.5


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


class _RunCode(msgspec.Struct):
    compile_timeout: float | None = None
    run_timeout: float | None = None


class _RunJupyter(msgspec.Struct):
    total_timeout: float | None = None


_read_run_code = msgspec.json.Decoder(_RunCode).decode
_read_run_jupyter = msgspec.json.Decoder(_RunJupyter).decode


def longest_run_s(path: str, body: bytes) -> float | None:
    """Return how many seconds the job in `body` may take by its own words; None where it has none that make sense.

    >>> longest_run_s("/run_code", b'{"code": "", "run_timeout": 5}')
    15.0
    >>> longest_run_s("/run_code", b"not JSON")
    """
    try:
        if path == "/run_code":
            if body.startswith(b"{") and _SAYS_TIMEOUT not in body:  # 5 MB of JSON take 5 ms to read
                return _DEFAULT_COMPILE_S + _DEFAULT_RUN_S
            code = _read_run_code(body)
            seconds = _or(code.compile_timeout, _DEFAULT_COMPILE_S) + _or(code.run_timeout, _DEFAULT_RUN_S)
        elif path == "/run_jupyter":
            seconds = _or(_read_run_jupyter(body).total_timeout, _DEFAULT_TOTAL_S) + _OVERHEAD_S
        else:
            return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return seconds if seconds > 0 else None


def limits_of(
    longest_s: float | None, client_s: float | None, *, grace_s: float, timeout_s: float, budget: ClientBudget
) -> Limits:
    """Return a job's limits. `client_s` is what its client said it waits, `budget` is for those that say nothing.

    `timeout_s` is the ceiling on everything.
    """
    bound_s = timeout_s if longest_s is None else longest_s + grace_s
    if client_s is None and budget.seconds is not None:
        if not budget.is_over_job:
            client_s = budget.seconds
        elif longest_s is not None:
            client_s = longest_s + budget.seconds
    ceiling_s = timeout_s if client_s is None else min(timeout_s, max(client_s - CLIENT_MARGIN_S, 0.0))
    return Limits(bound_s, ceiling_s)


def _or(seconds: float | None, default: float) -> float:
    return default if seconds is None else seconds
