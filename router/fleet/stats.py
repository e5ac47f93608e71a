"""Counts of all router processes together, and how busy the fleet is now: values that go to Redis and come from it.

Counts only grow, unless Redis loses its memory. A rate is the difference of two readings.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import msgspec

from router.policy.tenants import MAX_TENANTS, OTHER

# The counts of a worker or tenant that has had no job for so long are dropped, and begin again at 0.
COUNTS_TTL_S = 24 * 3600
# A tenant without jobs for so long makes room for a new one if MAX_TENANTS are known.
TENANT_STAYS_S = 3600
# One script call takes at most so many workers, and as many tenants, so that it does not hold up the routers' calls.
ENTRIES_A_CALL = 250
# The bounds of all histograms of times: three a decade, from Redis' answer to the longest job, so a percentile is wrong
# by a factor of 2.5 at most.
BOUNDS_S = (
    *(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
    *(0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0),
)

_Value = TypeVar("_Value")


class WorkerStats(msgspec.Struct, array_like=True):
    """Of one worker: attempts that have ended, those of them without a result, and the time that all took together."""

    jobs: int = 0
    failures: int = 0
    busy_ms: int = 0


class TenantStats(msgspec.Struct, array_like=True):
    """Of one tenant: jobs that have ended, those of them without a result, and the times of all its attempts and waits.

    `busy_ms` is counted together with the workers': over all tenants it is the same sum as over all workers. `adopted`
    jobs have got what others had left behind; `reused` ones the answers of identical ones, whose runs took `saved_ms`.
    """

    jobs: int = 0
    failures: int = 0
    busy_ms: int = 0
    queue_ms: int = 0
    adopted: int = 0
    reused: int = 0
    saved_ms: int = 0

    def add(self, more: "TenantStats") -> None:
        """Add `more` to these counts."""
        self.jobs += more.jobs
        self.failures += more.failures
        self.busy_ms += more.busy_ms
        self.queue_ms += more.queue_ms
        self.reused += more.reused
        self.saved_ms += more.saved_ms
        self.adopted += more.adopted


class Stats(msgspec.Struct):
    """Counts of workers, tenants and the fleet: jobs, errors, attempts, retries, those of `took` and `waited`."""

    fleet: dict[str, int] = {}
    workers: dict[str, WorkerStats] = {}
    tenants: dict[str, TenantStats] = {}

    def __bool__(self) -> bool:
        return bool(self.fleet or self.workers or self.tenants)

    def add(self, more: "Stats") -> None:
        """Add `more` to these counts. Tenants beyond MAX_TENANTS count as OTHER: Redis may be away for long."""
        for name, count in more.fleet.items():
            self.fleet[name] = self.fleet.get(name, 0) + count
        for url, counts in more.workers.items():
            worker = self.workers.setdefault(url, WorkerStats())
            worker.jobs += counts.jobs
            worker.failures += counts.failures
            worker.busy_ms += counts.busy_ms
        for name, tenant in more.tenants.items():
            is_one_too_many = name not in self.tenants and len(self.tenants) >= MAX_TENANTS
            self.tenants.setdefault(OTHER if is_one_too_many else name, TenantStats()).add(tenant)

    def take(self) -> "Stats":
        """Remove and return the fleet's counts, and those of as many workers and tenants as one call takes."""
        taken = Stats(self.fleet, oldest(self.workers, ENTRIES_A_CALL), oldest(self.tenants, ENTRIES_A_CALL))
        self.fleet = {}
        return taken


def oldest(entries: dict[str, _Value], most: int) -> dict[str, _Value]:
    """Remove and return the oldest entries, at most so many."""
    return {name: entries.pop(name) for name in list(islice(entries, most))}


class WorkerUsage(msgspec.Struct, frozen=True, array_like=True):
    """One worker at a moment. `breaker_failures` are in a row; `ejected_until` is a Unix time, 0 if it never was."""

    leases: int
    breaker_failures: int
    ejected_until: float
    stats: WorkerStats


class TenantUsage(msgspec.Struct, frozen=True, array_like=True):
    """One tenant at a moment, fleet-wide: the leases that it has, and its pending jobs, also by pool."""

    running: int
    waiting: int
    stats: TenantStats
    pools: dict[str, int] = {}


class Usage(msgspec.Struct, frozen=True):
    """The fleet at a moment: pending jobs, retries that the budget holds, the counts, each worker and each tenant.

    `at_ms` is that moment by Redis' clock (Unix ms); 0: it is not known. `events` counts what has happened, by kind.
    """

    waiting: int
    retries_left: float
    fleet: dict[str, int] = {}
    workers: dict[str, WorkerUsage] = {}
    tenants: dict[str, TenantUsage] = {}
    at_ms: int = 0
    events: dict[str, int] = {}


def took(bound_s: float) -> str:
    """Return the name of the count of jobs that took at most `bound_s`, but longer than the bound below.

    >>> took(0.05), took(math.inf)
    ('le_0.05', 'le_inf')
    """
    return f"le_{bound_s:g}"


def waited(bound_s: float) -> str:
    """Return the name of the count of waits for a lease, as `took` does for jobs."""
    return f"wait_{took(bound_s)}"


def quantile_s(
    fleet: Mapping[str, int], bounds_s: Sequence[float], share: float, name: Callable[[float], str] = took
) -> float | None:
    """Return the time within which `share` of the jobs counted in `fleet` ended; None if there were no jobs.

    With `waited` as `name`, they are waits for a lease. Between two bounds, times count as spread evenly. Above the
    last bound, that bound is returned.

    >>> quantile_s({"le_1": 50, "le_2": 50}, (1, 2), 0.75)
    1.5
    """
    counts = [fleet.get(name(bound_s), 0) for bound_s in (*bounds_s, math.inf)]
    wanted, lower_s = share * sum(counts), 0.0
    for count, upper_s in zip(counts, (*bounds_s, bounds_s[-1]), strict=True):
        if count and count >= wanted:
            return lower_s + (upper_s - lower_s) * wanted / count
        wanted -= count
        lower_s = upper_s
    return None
