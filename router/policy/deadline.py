"""How long a job may run on its worker, and how long its client waits for it: read from its body.

A worker ends a job at its own limits, which stand in the body; what runs longer than those and a grace is not running
well. A body that cannot be read has no limits of its own: the worker will refuse it, or the ceiling ends it.
"""

import msgspec

# SandboxFusion's own, where the body says nothing (FACTS: RunCodeRequest, RunJupyterRequest).
_DEFAULT_COMPILE_S = 10.0
_DEFAULT_RUN_S = 10.0
_DEFAULT_TOTAL_S = 45.0
_SAYS_TIMEOUT = b"_timeout"
# What /run_jupyter's kernel is given over total_timeout, and what verl's client waits over compile + run.
_OVERHEAD_S = 10.0
# An answer that leaves in the client's last moment comes too late.
CLIENT_MARGIN_S = 0.5


class Limits(msgspec.Struct, frozen=True):
    """`bound_s`: a worker that has not answered by then is at fault. `ceiling_s`: then the client has its answer."""

    bound_s: float
    ceiling_s: float


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
    longest_s: float | None, client_s: float | None, *, grace_s: float, timeout_s: float, is_budget_by_job: bool
) -> Limits:
    """Return a job's limits. `client_s` is what its client said it waits; `timeout_s` is the ceiling on everything.

    With `is_budget_by_job`, a client that says nothing waits as verl's does: compile + run + 10 s.
    """
    bound_s = timeout_s if longest_s is None else longest_s + grace_s
    if client_s is None and is_budget_by_job and longest_s is not None:
        client_s = longest_s + _OVERHEAD_S
    ceiling_s = timeout_s if client_s is None else min(timeout_s, max(client_s - CLIENT_MARGIN_S, 0.0))
    return Limits(bound_s, ceiling_s)


def _or(seconds: float | None, default: float) -> float:
    return default if seconds is None else seconds
