"""Whether a job is tried again. Its own limits stand here; what the whole fleet may retry, the scheduler knows."""

from collections.abc import Sequence
from dataclasses import dataclass

from router.policy.verdict import Kind

# A 500 is as often the job's own as the worker's (FACTS: a lone surrogate gives one everywhere): one more worker tells.
_RETRIES_OF_500 = 1


@dataclass(frozen=True, slots=True)
class RetryRules:
    """`attempts` a job may have in all; `sandbox_errors` of them may be retried. `has_budget`: the fleet may retry."""

    attempts: int = 3
    sandbox_errors: int = 1
    has_budget: bool = True

    def allowed(self, kind: Kind) -> int | None:
        """Return how often a failure of this kind, which may be the job's own, is retried; None: it is the worker's."""
        return {Kind.SANDBOX_ERROR: self.sandbox_errors, Kind.ERROR: _RETRIES_OF_500}.get(kind)

    def asks_another(self, kind: Kind) -> bool:
        """Return whether another worker is asked where a failure of this kind may be the job's own.

        Then a worker is blamed only when another one has done the job: a dozen jobs that fail alike everywhere would
        else eject half the fleet.
        """
        return bool(self.allowed(kind)) and self.attempts > 1 and self.has_budget


def is_jobs_own(kinds: Sequence[Kind], rules: RetryRules) -> bool:
    """Return whether the last failure is taken for the job's own: as many workers said the same as are asked.

    >>> is_jobs_own([Kind.SANDBOX_ERROR, Kind.SANDBOX_ERROR], RetryRules())
    True
    >>> is_jobs_own([Kind.FAULT, Kind.FAULT, Kind.SANDBOX_ERROR], RetryRules())
    False
    """
    last, same = kinds[-1], kinds.count(kinds[-1])
    allowed = rules.allowed(last)
    return allowed is not None and (same > allowed or same == len(kinds))


def is_worth_another(kinds: Sequence[Kind], rules: RetryRules) -> bool:
    """Return whether a job whose attempts ended so far in `kinds`, none of them a result, is tried once more.

    >>> is_worth_another([Kind.SANDBOX_ERROR], RetryRules(sandbox_errors=1))
    True
    >>> is_worth_another([Kind.SANDBOX_ERROR, Kind.SANDBOX_ERROR], RetryRules(sandbox_errors=1))
    False
    """
    if len(kinds) >= rules.attempts:
        return False
    allowed = rules.allowed(kinds[-1])
    return allowed is None or kinds.count(kinds[-1]) <= allowed
