"""Computes rates, percentiles and means from two readings of the fleet's counts.

Pure: its callers read the counts. A Redis that lost its memory counts from 0 again, and a worker without jobs for a day
is forgotten (fleet/stats.py). So if a count has fallen, all of the later count is new.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.fleet.stats import BOUNDS_S, TenantUsage, Usage, WorkerStats, quantile_s, waited


@dataclass(frozen=True, slots=True)
class WorkerRates:
    """One worker's attempts a second, those of them without a result, and how long an attempt took (mean)."""

    jobs: float = 0.0
    failures: float = 0.0
    mean_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """The fleet's jobs, errors, attempts and retries a second, and the times within which 50 % and 99 % of jobs ended.

    `queue_p50_s` and `queue_p99_s` are those of the waits for a lease. A time is None if nothing ended. `workers` are
    those of the later reading, by URL.
    """

    jobs: float = 0.0
    errors: float = 0.0
    attempts: float = 0.0
    retries: float = 0.0
    p50_s: float | None = None
    p99_s: float | None = None
    queue_p50_s: float | None = None
    queue_p99_s: float | None = None
    workers: Mapping[str, WorkerRates] = field(default_factory=dict)


def rates(before: Usage, after: Usage, seconds: float) -> Rates:
    """Return the rates over the `seconds` (above 0) between two readings.

    A worker that is only in the later reading has a rate of 0: its counts may be from an earlier time.

    >>> rates(Usage(0, 0, {"jobs": 10, "le_1": 10}), Usage(0, 0, {"jobs": 30, "le_1": 10, "le_2": 20}), 4).jobs
    5.0
    """
    is_wiped = has_fallen(before.fleet, after.fleet)
    new = dict(after.fleet) if is_wiped else _since(before.fleet, after.fleet)
    workers = {}
    for url, worker in after.workers.items():
        earlier = before.workers.get(url)
        held = worker.stats if earlier is None else WorkerStats() if is_wiped else earlier.stats
        workers[url] = _worker(held, worker.stats, seconds)
    return Rates(
        jobs=new.get("jobs", 0) / seconds,
        errors=new.get("errors", 0) / seconds,
        attempts=new.get("attempts", 0) / seconds,
        retries=new.get("retries", 0) / seconds,
        p50_s=quantile_s(new, BOUNDS_S, 0.5),
        p99_s=quantile_s(new, BOUNDS_S, 0.99),
        queue_p50_s=quantile_s(new, BOUNDS_S, 0.5, waited),
        queue_p99_s=quantile_s(new, BOUNDS_S, 0.99, waited),
        workers=workers,
    )


def tenant_rates(
    before: Mapping[str, TenantUsage], after: Mapping[str, TenantUsage], seconds: float
) -> dict[str, float]:
    """Return how many jobs of each tenant ended a second. A tenant that is only in the later reading counts from 0."""
    ended = ({name: tenant.stats.jobs for name, tenant in each.items()} for each in (before, after))
    return {name: jobs / seconds for name, jobs in grown(*ended).items()}


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return by how much each count has grown. One that is only in `after` counts from 0, as does one that has fallen.

    >>> grown({"a": 5, "b": 5}, {"a": 7, "b": 2, "c": 1})
    {'a': 2, 'b': 2, 'c': 1}
    """
    return {name: count - had if count >= (had := before.get(name, 0)) else count for name, count in after.items()}


def _worker(before: WorkerStats, after: WorkerStats, seconds: float) -> WorkerRates:
    if after.jobs < before.jobs or after.failures < before.failures or after.busy_ms < before.busy_ms:
        before = WorkerStats()
    jobs = after.jobs - before.jobs
    mean_s = (after.busy_ms - before.busy_ms) / jobs / 1000 if jobs else None
    return WorkerRates(jobs / seconds, (after.failures - before.failures) / seconds, mean_s)


def has_fallen(before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    """Whether any count is lower than before: Redis has begun to count from 0 again."""
    return any(after.get(name, 0) < count for name, count in before.items())


def _since(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items()}
