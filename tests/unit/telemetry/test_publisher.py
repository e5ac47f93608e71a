"""What of a process' counts goes to the fleet's, and what becomes of failed jobs while Redis is away."""

import time

from fakeredis import FakeAsyncRedis, FakeServer
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.journal.failed_job import MOST, FailedJob
from router.fleet.journal.failures import Failures
from router.fleet.redis_client import RedisClient
from router.fleet.snapshot import FleetView
from router.fleet.stats import TenantStats
from router.policy.tenants import DEFAULT
from router.policy.verdict import Kind, Outcome
from router.telemetry.multiprocess import SharedCounts
from router.telemetry.prometheus import Metrics, ProcessState
from router.telemetry.publisher import Publisher, for_fleet
from router.telemetry.recorder import Recorder
from router.telemetry.scaling import Scaling

ATTEMPTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y"]), st.floats(0, 0.1)), min_size=1, max_size=60
)


@given(ATTEMPTS)
def test_worker_seconds_of_tenants_are_those_of_workers(attempts: list[tuple[str, str, float]]) -> None:
    """This holds for attempts shorter than the unit of the counts, too; the two may differ by one ms in all."""
    recorder = Recorder()
    for url, tenant, seconds in attempts:
        recorder.attempt_ended(url, Kind.RESULT, seconds, tenant)
    stats = for_fleet(recorder.take())
    by_worker = sum(worker.busy_ms for worker in stats.workers.values())
    by_tenant = sum(tenant.busy_ms for tenant in stats.tenants.values())
    assert abs(by_worker - by_tenant) <= 1
    assert abs(by_tenant - 1000 * sum(seconds for *_, seconds in attempts)) <= 1


def test_jobs_without_a_tenant_count_for_the_default_one() -> None:
    """Its name is spelled out in Redis."""
    recorder = Recorder()
    recorder.job_ended("/run_code", 200, Outcome.RESULT, 0.5, "")
    recorder.waited(0.25, "")
    assert for_fleet(recorder.take()).tenants == {DEFAULT: TenantStats(1, 0, 0, 250)}


def test_waits_are_counted_beside_the_times_of_jobs() -> None:
    """Both are histograms of the whole fleet, so that percentiles are not averages of processes' percentiles."""
    recorder = Recorder()
    recorder.job_ended("/run_code", 200, Outcome.RESULT, 0.5, "")
    recorder.waited(0.0002, "")
    recorder.waited(900, "")
    assert for_fleet(recorder.take()).fleet == {"jobs": 1, "le_0.5": 1, "wait_le_0.0002": 1, "wait_le_inf": 1}


def failed(number: int) -> FailedJob:
    """Return a failed job of its own."""
    return FailedJob(f"job-{number}", "default", "/run_code", "", 503, "all_failed")


async def test_failures_are_kept_while_redis_is_away() -> None:
    """The last ones are written when it is back, with the times at which the jobs ended; none is written twice."""
    server, recorder = FakeServer(), Recorder()
    async with FakeAsyncRedis(server=server, decode_responses=True) as fake:
        redis = RedisClient(fake, "sfr", timeout_s=5)
        view, metrics = FleetView(redis, ()), Metrics(SharedCounts(None))
        around = recorder, metrics, redis, view
        publisher = Publisher(*around, lambda: ProcessState(0, 0, is_alone=True), Scaling(10))
        server.connected = False
        for number in range(MOST):
            recorder.job_failed(time.monotonic() - 3600, failed(number))
        await publisher.finish()
        for number in range(MOST, MOST + 7):
            recorder.job_failed(time.monotonic(), failed(number))
        await publisher.finish()
        server.connected = True
        await publisher.finish()
        await publisher.finish()
        found = await Failures(redis).last()
        assert await fake.xlen("sfr:failures") == MOST
    assert {each.job.request_id for each in found} == {f"job-{number}" for number in range(7, MOST + 7)}
    assert {round((found[0].at - each.at).total_seconds() / 600) for each in found[7:]} == {6}
