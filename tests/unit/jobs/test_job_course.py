"""What a job keeps in mind of its attempts: which were some, whom it need not ask again, how long it may wait."""

import asyncio

import pytest

from router.jobs.body_budget import BodyBudget
from router.jobs.job import Course, FailedAttempt, Job
from router.policy.verdict import NEVER_RAN, Kind


async def _stays() -> None:
    await asyncio.Event().wait()


def begun() -> Course:
    """Return a job that waits for room until 50."""
    job = Job(b"POST", "/run_code", b"/run_code", b"", b"", b"id", _stays, BodyBudget(1).share())
    return Course(job, 20, 50, lambda _answer: None)


def attempt(kind: Kind, worker: str = "http://a") -> FailedAttempt:
    """Return an attempt that ended so."""
    return FailedAttempt(worker, "cause", kind, None)


@pytest.mark.parametrize("kind", Kind)
def test_attempt_that_never_ran_is_none_and_its_time_no_wait(kind: Kind) -> None:
    """The job waits for room as long as before; of a failed one, its kind and its worker are kept."""
    course = begun()
    course.fail(attempt(kind), 3)
    if kind in NEVER_RAN:
        assert (course.never_ran, course.kinds, course.tried, course.room_by) == (kind, [], (), 53)
    else:
        assert (course.never_ran, course.kinds, course.tried, course.room_by) == (None, [kind], ("http://a",), 50)
    assert course.is_suspect is (kind is Kind.DIED)


@pytest.mark.parametrize("kind", sorted(NEVER_RAN))
def test_worker_that_a_failed_job_does_not_get_to_is_not_asked_again(kind: Kind) -> None:
    """It is as good as tried; one without room may have some later, and a host without means says nothing of it."""
    course = begun()
    course.fail(attempt(Kind.FAULT, "http://a"), 1)
    course.fail(attempt(kind, "http://b"), 1)
    course.fail(attempt(kind, "http://c"), 1)
    unreached = ("http://b", "http://c") if kind is Kind.NOT_SENT else ()
    assert course.tried == ("http://a", *unreached)
    assert course.kinds == [Kind.FAULT]


def test_job_that_has_just_come_has_no_attempt_under_way() -> None:
    """Nor anything else behind it."""
    course = begun()
    assert (course.is_awaited, course.is_retry, course.never_ran, course.kinds) == (False, False, None, [])
    assert (course.since, course.ends_at, course.ticket, course.queue_ms) == (20, 20, 0, 0)
    assert (course.waits, course.lease, course.timer, course.late_share, course.doubts) == (None, None, None, None, ())
