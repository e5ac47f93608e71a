"""What of a process' counts goes to the fleet's."""

from hypothesis import given
from hypothesis import strategies as st

from router.fleet.stats import TenantStats
from router.policy.tenants import DEFAULT
from router.policy.verdict import Kind, Outcome
from router.telemetry.publisher import for_fleet
from router.telemetry.recorder import Recorder

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
