"""The counts of one process."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from router.fleet.journal.failed_job import MOST, FailedJob
from router.fleet.stats import BOUNDS_S
from router.policy.verdict import Kind, Outcome
from router.telemetry.recorder import STEADY_FAILURES, Recorder, TenantCounts, Timing

TIMES = st.lists(st.one_of(st.floats(0, 1000), st.sampled_from(BOUNDS_S)), max_size=30)


@given(TIMES, TIMES)
def test_sum_of_timings_has_all_times(first: list[float], second: list[float]) -> None:
    """The sum equals one timing of all times."""
    parts, whole = (Timing(), Timing()), Timing()
    for timing, times in zip(parts, (first, second), strict=True):
        for seconds in times:
            timing.add(seconds)
            whole.add(seconds)
    assert Timing.sum(parts).counts == whole.counts
    assert Timing.sum(parts).count == len(first) + len(second)


def test_each_count_is_taken_once() -> None:
    """Each count is in exactly one taking."""
    recorder = Recorder()
    recorder.attempt_ended("http://a", Kind.RESULT, 0.5, "")
    recorder.attempt_ended("http://a", Kind.FAULT, 0.25, "")
    recorder.job_ended("/run_code", 200, Outcome.RESULT, 0.75, "")
    first = recorder.take()
    recorder.answer_cut("http://a", "")
    second, third = recorder.take(), recorder.take()
    assert [counts.jobs["/run_code", 200, Outcome.RESULT].count for counts in (first, second)] == [1, 0]
    worker = first.workers["http://a"]
    assert (worker.jobs, worker.failures, worker.seconds) == (2, 1, 0.75)
    assert second.workers["http://a"].failures == second.cut_answers == 1
    assert not third.workers


def test_bounds_are_three_a_decade_and_rise() -> None:
    """A percentile computed from them is wrong by a factor of at most 2.5."""
    assert all(1 < high / low <= 2.5 for low, high in itertools.pairwise(BOUNDS_S))


def test_tenant_has_its_jobs_waits_and_the_time_of_its_workers() -> None:
    """A client that leaves is no failure; an answer that breaks off is one after all."""
    recorder = Recorder()
    for tenant, outcome in (("a", Outcome.RESULT), ("a", Outcome.CLIENT_LEFT), ("a", Outcome.DEADLINE), ("", "error")):
        recorder.job_ended("/run_code", 200, Outcome(outcome), 0.75, tenant)
    recorder.attempt_ended("http://a", Kind.BUSY, 0.5, "a")
    recorder.attempt_ended("http://b", Kind.RESULT, 0.25, "a")
    recorder.attempt_ended("http://b", Kind.RESULT, 2.0, "")
    recorder.waited(0.125, "a")
    recorder.answer_cut("http://b", "a")
    counts = recorder.take()
    assert counts.tenants == {"a": TenantCounts(3, 2, 0.75, 0.125), "": TenantCounts(1, 1, 2.0)}
    assert sum(worker.seconds for worker in counts.workers.values()) == 2.75


def test_of_a_flood_of_failed_jobs_some_are_kept() -> None:
    """The first ones are all kept, as many as the journal has; then some between two takings, until it is quiet."""
    recorder, job = Recorder(), FailedJob("a", "default", "/run_code", "", 503, "all_failed")

    def kept(jobs: int) -> int:
        for _ in range(jobs):
            if recorder.keeps_failures:
                recorder.job_failed(5.0, job)
        return len(recorder.take().failures)

    assert [kept(3000) for _ in range(3)] == [MOST, STEADY_FAILURES, STEADY_FAILURES]
    assert [kept(0) for _ in range(MOST // STEADY_FAILURES)] == [0] * (MOST // STEADY_FAILURES)
    assert [kept(3000) for _ in range(2)] == [MOST, STEADY_FAILURES]
