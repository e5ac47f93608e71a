"""Decides whether a job is retried, by the job's own limits. The scheduler knows the whole fleet's retry budget."""

from collections.abc import Sequence
from dataclasses import dataclass

from router.policy.verdict import Kind

# A 500 is the job's own as often as the worker's (a lone surrogate in the code gives one everywhere), so one more
# worker is asked to tell which.
_RETRIES_OF_500 = 1


@dataclass(frozen=True, slots=True)
class RetryRules:
    """A job has `attempts` at most, and retries `sandbox_errors` SandboxErrors. `has_budget`: the fleet may retry."""

    attempts: int = 3
    sandbox_errors: int = 1
    has_budget: bool = True

    def allowed(self, kind: Kind) -> int | None:
        """Return how often a failure that may be the job's own is retried; None for a kind that is the worker's."""
        return {Kind.SANDBOX_ERROR: self.sandbox_errors, Kind.ERROR: _RETRIES_OF_500}.get(kind)

    def asks_another(self, kind: Kind) -> bool:
        """Whether another worker is asked because a failure of this kind may be the job's own.

        Then a worker is blamed only after another worker has done the job. Otherwise a dozen jobs that fail everywhere
        would eject half the fleet.
        """
        return bool(self.allowed(kind)) and self.attempts > 1 and self.has_budget


def is_jobs_own(kinds: Sequence[Kind], rules: RetryRules) -> bool:
    """Whether the last failure counts as the job's own: all workers that may be asked said the same.

    >>> is_jobs_own([Kind.SANDBOX_ERROR, Kind.SANDBOX_ERROR], RetryRules())
    True
    >>> is_jobs_own([Kind.FAULT, Kind.FAULT, Kind.SANDBOX_ERROR], RetryRules())
    False
    """
    last, same = kinds[-1], kinds.count(kinds[-1])
    allowed = rules.allowed(last)
    return allowed is not None and (same > allowed or same == len(kinds))


def is_worth_another(kinds: Sequence[Kind], rules: RetryRules) -> bool:
    """Whether a job is retried whose attempts have ended in `kinds`, none of them a result.

    >>> is_worth_another([Kind.SANDBOX_ERROR], RetryRules(sandbox_errors=1))
    True
    >>> is_worth_another([Kind.SANDBOX_ERROR, Kind.SANDBOX_ERROR], RetryRules(sandbox_errors=1))
    False
    """
    if len(kinds) >= rules.attempts:
        return False
    allowed = rules.allowed(kinds[-1])
    return allowed is None or kinds.count(kinds[-1]) <= allowed
