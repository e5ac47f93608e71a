"""Whether a job is retried, and whether its last failure counts as its own."""

import pytest

from router.policy.retry import RetryRules, is_jobs_own, is_worth_another
from router.policy.verdict import Kind


@pytest.mark.parametrize(
    ("rules", "kind", "asks"),
    [
        (RetryRules(), Kind.ERROR, True),
        (RetryRules(), Kind.SANDBOX_ERROR, True),
        (RetryRules(sandbox_errors=0), Kind.SANDBOX_ERROR, False),
        (RetryRules(attempts=1), Kind.ERROR, False),
        (RetryRules(attempts=2), Kind.ERROR, True),
        (RetryRules(has_budget=False), Kind.ERROR, False),
        (RetryRules(), Kind.FAULT, False),
    ],
)
def test_blame_waits_only_if_another_worker_is_asked(rules: RetryRules, kind: Kind, asks: bool) -> None:
    """Otherwise the doubt would never be resolved, and a sick worker would stay in the fleet."""
    assert rules.asks_another(kind) is asks


@pytest.mark.parametrize(
    ("kinds", "again"),
    [
        ([Kind.NOT_SENT], True),
        ([Kind.DIED, Kind.TIMED_OUT], True),
        ([Kind.FAULT, Kind.FAULT, Kind.FAULT], False),
        ([Kind.BUSY], True),
        ([Kind.SANDBOX_ERROR], True),
        ([Kind.SANDBOX_ERROR, Kind.SANDBOX_ERROR], False),
        ([Kind.FAULT, Kind.SANDBOX_ERROR], True),
        ([Kind.ERROR], True),
        ([Kind.ERROR, Kind.ERROR], False),
        ([Kind.SANDBOX_ERROR, Kind.ERROR], True),
    ],
)
def test_number_of_retries_is_limited(kinds: list[Kind], again: bool) -> None:
    """A job has up to `attempts` attempts, and a failure that may be its own is retried once."""
    assert is_worth_another(kinds, RetryRules(attempts=3, sandbox_errors=1)) is again


@pytest.mark.parametrize(
    ("kinds", "sandbox_errors", "own"),
    [
        ([Kind.FAULT], 1, False),
        ([Kind.FAULT, Kind.FAULT], 1, False),
        ([Kind.SANDBOX_ERROR], 1, True),
        ([Kind.SANDBOX_ERROR, Kind.SANDBOX_ERROR], 1, True),
        ([Kind.FAULT, Kind.SANDBOX_ERROR], 1, False),
        ([Kind.FAULT, Kind.SANDBOX_ERROR, Kind.SANDBOX_ERROR], 1, True),
        ([Kind.FAULT, Kind.SANDBOX_ERROR, Kind.SANDBOX_ERROR], 2, False),
        ([Kind.ERROR, Kind.SANDBOX_ERROR], 0, True),
        ([Kind.ERROR, Kind.SANDBOX_ERROR], 1, False),
        ([Kind.SANDBOX_ERROR, Kind.ERROR], 0, False),
        ([Kind.SANDBOX_ERROR, Kind.ERROR, Kind.ERROR], 1, True),
    ],
)
def test_failure_is_the_job_s_own_if_enough_workers_agree(kinds: list[Kind], sandbox_errors: int, own: bool) -> None:
    """More than the allowed retries, or all attempts, are enough; only the last one's kind counts."""
    assert is_jobs_own(kinds, RetryRules(sandbox_errors=sandbox_errors)) is own


def test_sandbox_error_is_not_retried_if_that_is_off() -> None:
    """With `retry.sandbox_error: 0` the client gets the worker's answer at once."""
    assert not is_worth_another([Kind.SANDBOX_ERROR], RetryRules(sandbox_errors=0))
