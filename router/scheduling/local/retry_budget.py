"""Decides how much the whole fleet may retry: a share of its jobs, and some retries a second.

It is a bucket of retries: each job and each second put some in, each retry takes one out. What is saved runs off over
BUDGET_WINDOW_MS, which is ten seconds as in Finagle's retry budget. lua/retry_budget.lua counts alike.
"""

from router.scheduling.messages import BUDGET_WINDOW_MS, Rules


class RetryBudget:
    """The bucket. Each look fills it by the tickets and the time since the last one."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._filled_at: int | None = None
        self._tickets = 0
        self._saved = 0.0

    def fill(self, now: int, tickets: int) -> None:
        """Fill the bucket up to the moment `now` (ms); `tickets` counts all that were ever given."""
        if self._filled_at is None:
            self._saved = self._rules.budget_per_second
        else:
            elapsed = now - self._filled_at
            kept = self._saved * max(0.0, 1 - elapsed / BUDGET_WINDOW_MS)
            earned = max(0, tickets - self._tickets) * self._rules.budget_percent / 100
            self._saved = _as_written(kept + earned + elapsed * self._rules.budget_per_second / 1000)
        self._filled_at, self._tickets = now, tickets

    def take(self, now: int, tickets: int) -> bool:
        """Take one retry out; return False if there is none."""
        self.fill(now, tickets)
        if self._saved < 1:
            return False
        self._saved = _as_written(self._saved - 1)
        return True


def _as_written(saved: float) -> float:
    """Return `saved` rounded as the script keeps it."""
    return float(f"{saved:.3f}")
