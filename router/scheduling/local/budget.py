"""Decides how much the whole fleet may run beyond its jobs: retries, and second runs beside the first.

Each is a bucket: each job and each second put some in, each run takes one out. What is saved runs off: for retries over
ten seconds, as in Finagle's retry budget; for second runs over more, because a batch that comes at once needs them at
its end. lua/budget.lua counts alike.
"""

from router.scheduling.messages import BUDGET_WINDOW_MS, HEDGE_WINDOW_MS, Rules


class Budget:
    """The bucket: a share of all jobs, and some runs a second. Each look fills it by the tickets and the time since."""

    def __init__(self, percent: float, per_second: float, window_ms: int) -> None:
        self._percent = percent
        self._per_second = per_second
        self._window_ms = window_ms
        self._filled_at: int | None = None
        self._tickets = 0
        self._saved = 0.0

    def fill(self, now: int, tickets: int) -> None:
        """Fill the bucket up to the moment `now` (ms); `tickets` counts all that were ever given."""
        if self._filled_at is None:
            self._saved = self._per_second
        else:
            elapsed = now - self._filled_at
            kept = self._saved * max(0.0, 1 - elapsed / self._window_ms)
            earned = max(0, tickets - self._tickets) * self._percent / 100
            self._saved = _as_written(kept + earned + elapsed * self._per_second / 1000)
        self._filled_at, self._tickets = now, tickets

    def take(self, now: int, tickets: int) -> bool:
        """Take one run out; return False if there is none."""
        self.fill(now, tickets)
        if self._saved < 1:
            return False
        self._saved = _as_written(self._saved - 1)
        return True


def budget_for_retries(rules: Rules) -> Budget:
    """Return the budget for retries."""
    return Budget(rules.budget_percent, rules.budget_per_second, BUDGET_WINDOW_MS)


def budget_for_hedges(rules: Rules) -> Budget:
    """Return the budget for second runs."""
    return Budget(rules.hedge_percent, 0, HEDGE_WINDOW_MS)


def _as_written(saved: float) -> float:
    """Return `saved` rounded as the script keeps it."""
    return float(f"{saved:.3f}")
