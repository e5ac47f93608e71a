"""What all router processes have counted together, and what is in use at this moment: values on both sides of Redis.

Counts only grow, but for a Redis that has lost its memory; who wants rates takes the difference of two readings.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import islice

import msgspec

# A worker without jobs for so long is forgotten: its counts begin again at 0.
WORKER_TTL_S = 24 * 3600
# Workers in one script call, which takes Redis 3 µs for each.
WORKERS_A_CALL = 250


class WorkerStats(msgspec.Struct, array_like=True):
    """Attempts that have ended on one worker, those of them without a result, and how long all took together."""

    jobs: int = 0
    failures: int = 0
    busy_ms: int = 0


class Stats(msgspec.Struct):
    """Counts by name for the fleet (`jobs`, `errors`, `attempts`, `retries`, and what `took` names), and by worker."""

    fleet: dict[str, int] = {}
    workers: dict[str, WorkerStats] = {}

    def __bool__(self) -> bool:
        return bool(self.fleet or self.workers)

    def add(self, more: "Stats") -> None:
        """Count `more` here, too."""
        for name, count in more.fleet.items():
            self.fleet[name] = self.fleet.get(name, 0) + count
        for url, counts in more.workers.items():
            worker = self.workers.setdefault(url, WorkerStats())
            worker.jobs += counts.jobs
            worker.failures += counts.failures
            worker.busy_ms += counts.busy_ms

    def take(self) -> "Stats":
        """Return, and forget, the fleet's counts and those of as many workers as one call takes, the first in first."""
        urls = list(islice(self.workers, WORKERS_A_CALL))
        taken = Stats(self.fleet, {url: self.workers.pop(url) for url in urls})
        self.fleet = {}
        return taken


class WorkerUsage(msgspec.Struct, frozen=True, array_like=True):
    """One worker at a moment. `breaker_failures` are in a row; `ejected_until` is a Unix time, 0 where it is not."""

    leases: int
    breaker_failures: int
    ejected_until: float
    stats: WorkerStats


class Usage(msgspec.Struct, frozen=True):
    """The fleet at a moment: jobs that wait, retries that the budget holds, what is counted, each worker by its URL."""

    waiting: int
    retries_left: float
    fleet: dict[str, int] = {}
    workers: dict[str, WorkerUsage] = {}


def took(bound_s: float) -> str:
    """Return the name under which jobs are counted that took at most `bound_s`, and more than the bound below.

    >>> took(0.05), took(math.inf)
    ('le_0.05', 'le_inf')
    """
    return f"le_{bound_s:g}"


def quantile_s(fleet: Mapping[str, int], bounds_s: Sequence[float], share: float) -> float | None:
    """Return how long `share` of the jobs counted in `fleet` took at most; None where there were none.

    Within a bound's jobs, times are taken to be spread evenly; above the last bound, that bound is all that is known.

    >>> quantile_s({"le_1": 50, "le_2": 50}, (1, 2), 0.75)
    1.5
    """
    counts = [fleet.get(took(bound_s), 0) for bound_s in (*bounds_s, math.inf)]
    wanted, lower_s = share * sum(counts), 0.0
    for count, upper_s in zip(counts, (*bounds_s, bounds_s[-1]), strict=True):
        if count and count >= wanted:
            return lower_s + (upper_s - lower_s) * wanted / count
        wanted -= count
        lower_s = upper_s
    return None
