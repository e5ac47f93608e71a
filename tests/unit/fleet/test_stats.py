"""Counts on their way to Redis, and quantiles of the counts in Redis."""

import pytest

from router.fleet.stats import BOUNDS_S, ENTRIES_A_CALL, Stats, TenantStats, WorkerStats, quantile_s, took
from router.policy.tenants import MAX_TENANTS, OTHER


def test_one_call_sends_the_workers_that_have_waited_longest() -> None:
    """A call's cost is bounded, no worker waits for ever, and nothing is lost or sent twice."""
    urls = [f"http://{number}" for number in range(ENTRIES_A_CALL + 10)]
    stats = Stats({"jobs": 1}, {url: WorkerStats(1) for url in urls})
    first = stats.take()
    stats.add(Stats({"jobs": 4}, {urls[0]: WorkerStats(2), urls[-1]: WorkerStats(2)}))
    second = stats.take()
    assert (list(first.workers), list(second.workers)) == (urls[:-10], [*urls[-10:], urls[0]])
    assert (first.fleet, second.fleet) == ({"jobs": 1}, {"jobs": 4})
    assert second.workers[urls[-1]] == WorkerStats(3)
    assert not stats


def test_one_call_takes_a_part_of_many_tenants_too() -> None:
    """Their counts add up until they are taken."""
    stats = Stats(tenants={f"run-{number}": TenantStats(1) for number in range(ENTRIES_A_CALL + 1)})
    stats.add(Stats(tenants={"run-0": TenantStats(1, 1, 10, 20)}))
    first, second = stats.take(), stats.take()
    assert len(first.tenants) == ENTRIES_A_CALL
    assert first.tenants["run-0"] == TenantStats(2, 1, 10, 20)
    assert list(second.tenants) == [f"run-{ENTRIES_A_CALL}"]
    assert not stats


def test_tenants_that_wait_for_redis_are_bounded() -> None:
    """However many names there are while it is away, nothing is lost."""
    stats = Stats()
    for hour in range(3):
        stats.add(Stats(tenants={f"run-{hour}-{number}": TenantStats(1) for number in range(MAX_TENANTS)}))
    assert len(stats.tenants) == MAX_TENANTS + 1
    assert stats.tenants[OTHER] == TenantStats(2 * MAX_TENANTS)


@pytest.mark.parametrize(("share", "seconds"), [(0.5, 0.02), (0.25, 0.015), (0.99, 490.0), (1.0, 500.0), (0.0, 0.01)])
def test_quantile_lies_within_its_bucket(share: float, seconds: float) -> None:
    """A quantile is interpolated between the bounds of its bucket."""
    fleet = {took(0.02): 50, took(500): 50, "jobs": 100}
    found = quantile_s(fleet, BOUNDS_S, share)
    assert found is not None
    assert abs(found - seconds) < 5 if seconds > 1 else abs(found - seconds) < 1e-9


def test_quantile_beyond_all_bounds_and_of_nothing() -> None:
    """Beyond all bounds only the last bound is known, and without jobs nothing is."""
    assert quantile_s({"le_inf": 1}, BOUNDS_S, 0.99) == BOUNDS_S[-1]
    assert quantile_s({}, BOUNDS_S, 0.99) is None
