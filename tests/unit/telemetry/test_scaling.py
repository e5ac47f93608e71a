"""How the fleet's members and counts become what it needs."""

import pytest

from router.fleet.model import Health, Worker, WorkerRecord
from router.fleet.records import FleetState
from router.fleet.snapshot import Snapshot
from router.fleet.stats import TenantStats, TenantUsage, Usage, WorkerStats, WorkerUsage
from router.telemetry.scaling import ASSUMED_JOB_S, HALF_LIFE_S, MeanTimes, Scaling


def counted(jobs: int, busy_ms: int, failures: int = 0) -> TenantUsage:
    """A tenant with these counts."""
    return TenantUsage(0, 0, TenantStats(jobs, failures, busy_ms))


def test_mean_time_follows_a_tenant_s_latest_jobs() -> None:
    """After a step with longer jobs their time counts, although the day before had many short ones."""
    times = MeanTimes()
    assert times.take({"a": counted(100_000, 50_000_000)}, 0.0) == {"a": 0.5}
    longer = {"a": counted(100_100, 50_000_000 + 100 * 30_000)}
    assert times.take(longer, 10.0)["a"] == pytest.approx(30.0)
    assert times.take(longer, 10.0 + 20 * HALF_LIFE_S)["a"] == pytest.approx(0.5, rel=0.1)  # all that are counted


def test_unknown_tenant_s_jobs_take_as_long_as_all_others() -> None:
    """Before any job has ended a second is assumed; jobs without a result, such as 504 in the queue, do not count."""
    assert MeanTimes().take({"a": counted(0, 0)}, 0.0) == {"a": ASSUMED_JOB_S}
    found = MeanTimes().take({"a": counted(10, 40_000), "new": counted(0, 0), "late": counted(20, 40_000, 10)}, 0.0)
    assert found == {"a": 4.0, "new": 4.0, "late": 4.0}


def test_counts_that_begin_anew_are_new_jobs() -> None:
    """Redis has lost its memory, or the tenant was idle for a day."""
    times = MeanTimes()
    times.take({"a": counted(1000, 1_000_000)}, 0.0)
    assert times.take({"a": counted(10, 30_000)}, 1.0) == {"a": 3.0}


def test_slots_are_those_of_workers_that_may_get_jobs_and_running_jobs_all() -> None:
    """A draining worker's jobs are still asked for, but its slots are going."""
    workers = [
        WorkerRecord(Worker("http://a:1", max_concurrency=8), Health.HEALTHY),
        WorkerRecord(Worker("http://b:1", max_concurrency=8), Health.HEALTHY),
        WorkerRecord(Worker("http://c:1", max_concurrency=4, labels=("gpu",)), Health.UNHEALTHY),
    ]
    snapshot = Snapshot(FleetState(tuple(workers), draining=frozenset({"http://b:1"})))
    leases = {each.worker.url: WorkerUsage(5, 0, 0.0, WorkerStats()) for each in workers}
    tenants = {"a": TenantUsage(5, 3, TenantStats(10, 0, 20_000), {"": 1, "gpu": 2})}
    plain, gpu = Scaling(10.0).wanted(snapshot, Usage(3, 0.0, workers=leases, tenants=tenants))
    assert (plain.pool, plain.has.workers, plain.has.slots, plain.has.running, plain.waiting_s) == ("", 1, 8, 10, 2.0)
    assert (gpu.pool, gpu.has.workers, gpu.has.slots, gpu.has.running, gpu.slots_wanted) == ("gpu", 0, 0, 5, 5.4)
