"""Jobs that should have had their answer long ago are broken off, and nobody looks where there are none."""

import asyncio
import time

import pytest

from router.jobs import unanswered
from router.jobs.body_budget import BodyBudget
from router.jobs.job import Course, Job
from router.jobs.unanswered import Unanswered
from tests.support.eventually import eventually


async def _stays() -> None:
    await asyncio.Event().wait()


def course(left_s: float) -> Course:
    """Return a job whose client has its answer in so long, at the latest."""
    share = BodyBudget(1).share()
    job = Job(b"POST", "/run_code", b"/run_code", b"", b"", b"id", _stays, share)
    made = Course(job, time.monotonic() - 100, 0, lambda _answer: None)
    made.ends_at = time.monotonic() + left_s
    return made


class Jobs:
    """Jobs without an answer, and which of them were broken off, and why."""

    def __init__(self) -> None:
        self.broken: list[tuple[Course, str]] = []
        self.all = Unanswered(self._break_off)

    def _break_off(self, course: Course, error: Exception) -> None:
        self.broken.append((course, f"{type(error).__name__}: {error}"))
        del self.all[course]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be looked often."""
    monkeypatch.setattr(unanswered, "_LOOK_EVERY_S", 0.005)


async def test_job_that_is_overdue_is_broken_off_and_no_other() -> None:
    """A few seconds after its client's answer was due, for timers are late at times."""
    jobs = Jobs()
    overdue, late, early = course(-6), course(-4), course(100)
    jobs.all.update(dict.fromkeys((overdue, late, early)))
    jobs.all.watch()
    await eventually(lambda: jobs.broken)
    assert jobs.broken == [(overdue, "TimeoutError: no answer for 100 s")]
    assert list(jobs.all) == [late, early]


async def test_they_are_looked_at_again_and_again_until_there_are_none() -> None:
    """What gets late in the meantime is found, and who comes after the last one has to ask to be watched."""
    jobs = Jobs()
    assert not jobs.all.is_watched
    jobs.all[first := course(100)] = None
    jobs.all.watch()
    assert jobs.all.is_watched
    await asyncio.sleep(0.05)
    assert jobs.all.is_watched
    first.ends_at -= 200
    await eventually(lambda: not jobs.all.is_watched)
    assert [its for its, _ in jobs.broken] == [first]
    jobs.all[course(-6)] = None
    await asyncio.sleep(0.05)
    assert len(jobs.broken) == 1
