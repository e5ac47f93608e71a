"""A job's progress: its failed attempts, the workers to avoid, and overdue jobs."""

import asyncio
import time

import pytest

from router.jobs import job
from router.jobs.job import FailedAttempt, JobRun, Unanswered
from router.policy.verdict import NEVER_RAN, Kind
from tests.support.eventually import eventually
from tests.support.jobs import made_job


def begun() -> JobRun:
    """Return a job that waits for room until 50."""
    return JobRun(made_job(), 20, 50, lambda _answer: None)


def attempt(kind: Kind, worker: str = "http://a") -> FailedAttempt:
    """Return an attempt with this end."""
    return FailedAttempt(worker, "cause", kind, None)


@pytest.mark.parametrize("kind", Kind)
def test_attempt_that_never_ran_counts_as_neither_attempt_nor_wait(kind: Kind) -> None:
    """The job may wait for room as long as before; a failed attempt leaves its kind and worker."""
    run = begun()
    run.fail(attempt(kind), 3)
    if kind in NEVER_RAN:
        assert (run.never_ran, run.kinds, run.tried, run.room_by) == (kind, [], (), 53)
    else:
        assert (run.never_ran, run.kinds, run.tried, run.room_by) == (None, [kind], ("http://a",), 50)
    assert run.is_suspect is (kind is Kind.DIED)


@pytest.mark.parametrize("kind", sorted(NEVER_RAN))
def test_unreachable_worker_is_not_tried_again_by_a_failed_job(kind: Kind) -> None:
    """An unreachable worker counts as tried; one without room may have room later."""
    run = begun()
    run.fail(attempt(Kind.FAULT, "http://a"), 1)
    run.fail(attempt(kind, "http://b"), 1)
    run.fail(attempt(kind, "http://c"), 1)
    unreached = ("http://b", "http://c") if kind is Kind.NOT_SENT else ()
    assert run.tried == ("http://a", *unreached)
    assert run.kinds == [Kind.FAULT]


def test_new_job_has_no_attempt() -> None:
    """A new job has neither attempts nor tried workers."""
    run = begun()
    assert (run.is_awaited, run.is_retry, run.never_ran, run.kinds) == (False, False, None, [])
    assert (run.since, run.ends_at, run.ticket, run.queue_ms) == (20, 20, 0, 0)
    assert (run.pending, run.lease, run.timer, run.late_share, run.doubts) == (None, None, None, None, ())


def due_in(left_s: float) -> JobRun:
    """Return a job whose client gets an answer within this many seconds."""
    run = JobRun(made_job(), time.monotonic() - 100, 0, lambda _answer: None)
    run.ends_at = time.monotonic() + left_s
    return run


class Jobs:
    """Jobs without an answer; `broken` has those that were broken off, with the reason."""

    def __init__(self) -> None:
        self.broken: list[tuple[JobRun, str]] = []
        self.all = Unanswered(self._break_off)

    def _break_off(self, run: JobRun, error: Exception) -> None:
        self.broken.append((run, f"{type(error).__name__}: {error}"))
        del self.all[run]


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_LOOK_EVERY_S", 0.005)


@pytest.mark.usefixtures("_often")
async def test_job_that_is_overdue_is_broken_off_and_no_other() -> None:
    """A job is overdue only some seconds after its deadline, because timers may be late."""
    jobs = Jobs()
    overdue, late, early = due_in(-6), due_in(-4), due_in(100)
    jobs.all.update(dict.fromkeys((overdue, late, early)))
    jobs.all.watch()
    await eventually(lambda: jobs.broken)
    assert jobs.broken == [(overdue, "TimeoutError: no answer for 100 s")]
    assert list(jobs.all) == [late, early]


@pytest.mark.usefixtures("_often")
async def test_jobs_are_watched_until_there_are_none() -> None:
    """A job that becomes overdue meanwhile is found; a job after the last one must start the watch again."""
    jobs = Jobs()
    assert not jobs.all.is_watched
    jobs.all[first := due_in(100)] = None
    jobs.all.watch()
    assert jobs.all.is_watched
    await asyncio.sleep(0.05)
    assert jobs.all.is_watched
    first.ends_at -= 200
    await eventually(lambda: not jobs.all.is_watched)
    assert [run for run, _ in jobs.broken] == [first]
    jobs.all[due_in(-6)] = None
    await asyncio.sleep(0.05)
    assert len(jobs.broken) == 1
