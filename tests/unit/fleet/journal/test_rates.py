"""Rates between two readings of the fleet's counts."""

from router.fleet.journal.rates import Rates, WorkerRates, rates, tenant_rates
from router.fleet.stats import TenantStats, TenantUsage, Usage, WorkerStats, WorkerUsage


def reading(fleet: dict[str, int], **workers: WorkerStats) -> Usage:
    """Return a reading with these counts."""
    return Usage(0, 0.0, fleet, {url: WorkerUsage(0, 0, 0.0, stats) for url, stats in workers.items()})


def test_rates_are_differences_over_the_time_between() -> None:
    """This holds for the fleet and each worker, and percentiles are those of the jobs in between."""
    before = reading({"jobs": 1000, "errors": 10, "attempts": 1200, "le_0.01": 1000}, a=WorkerStats(1000, 5, 9000))
    after = reading(
        {"jobs": 1100, "errors": 12, "attempts": 1306, "retries": 4, "le_0.01": 1050, "le_100": 50},
        a=WorkerStats(1010, 6, 9500),
    )
    found = rates(before, after, 2.0)
    assert (found.jobs, found.errors, found.attempts, found.retries) == (50, 1, 53, 2)
    assert found.p50_s == 0.01
    assert found.p99_s == 50 + 50 * 49 / 50
    assert found.workers == {"a": WorkerRates(5.0, 0.5, 0.05)}


def test_without_jobs_there_is_no_time() -> None:
    """Rates are 0, and times are None."""
    same = reading({"jobs": 5, "le_1": 5}, a=WorkerStats(5, 0, 10))
    assert rates(same, same, 1.0) == Rates(workers={"a": WorkerRates(0.0, 0.0, None)})
    assert rates(reading({}), reading({}), 1.0) == Rates()


def test_wiped_redis_makes_no_rate_negative_and_none_too_small() -> None:
    """If one count of the fleet has fallen, all counts are new, even those that are higher again."""
    before = reading({"jobs": 100, "retries": 1, "le_1": 100}, a=WorkerStats(1, 0, 10), b=WorkerStats(9, 0, 90))
    after = reading({"jobs": 20, "retries": 4, "le_2": 20}, a=WorkerStats(4, 2, 80), b=WorkerStats(2, 0, 4))
    found = rates(before, after, 2.0)
    assert (found.jobs, found.retries, found.p50_s) == (10, 2, 1.5)
    assert found.workers == {"a": WorkerRates(2.0, 1.0, 0.02), "b": WorkerRates(1.0, 0.0, 0.002)}
    assert rates(before, reading({}), 1.0) == Rates()


def test_worker_forgotten_meanwhile_counts_from_zero() -> None:
    """A worker's counts expire by themselves."""
    before = reading({"jobs": 100}, a=WorkerStats(90, 8, 1000))
    after = reading({"jobs": 103}, a=WorkerStats(3, 0, 1500))
    assert rates(before, after, 1.0).workers == {"a": WorkerRates(3.0, 0.0, 0.5)}


def test_new_worker_has_no_rate() -> None:
    """Its earlier counts are no rate, and a worker that has left is not shown."""
    before = reading({"jobs": 5}, gone=WorkerStats(5, 0, 5))
    found = rates(before, reading({"jobs": 5}, back=WorkerStats(4000, 1, 9)), 1.0)
    assert found.workers == {"back": WorkerRates()}


def test_tenants_have_jobs_a_second() -> None:
    """A new tenant counts from 0, as does one that was forgotten meanwhile."""

    def ended(**jobs: int) -> dict[str, TenantUsage]:
        return {name: TenantUsage(0, 0, TenantStats(count)) for name, count in jobs.items()}

    found = tenant_rates(ended(a=10, b=90, idle=5, gone=1), ended(a=30, b=2, idle=5, new=4), 2.0)
    assert found == {"a": 10.0, "b": 1.0, "idle": 0.0, "new": 2.0}
