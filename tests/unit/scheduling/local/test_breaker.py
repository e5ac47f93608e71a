"""What ejects a worker, for how long, and what its trial changes, tested on the breakers alone."""

import pytest

from router.policy.verdict import Blame
from router.scheduling.local.breaker import Breakers
from router.scheduling.messages import REST_MAX_MS, Ended, Rules

A, B, C = URLS = ("http://a", "http://b", "http://c")


class Fleet:
    """Three workers and their breakers; `full_until` has the full workers, and when they will have room."""

    def __init__(self, failures: int = 1, max_ejected_percent: int = 100) -> None:
        self.full_until: dict[str, int] = {}
        rules = Rules(failures=failures, base_ms=100, max_ms=500, max_ejected_percent=max_ejected_percent)
        self.breakers = Breakers(rules, self.full_until.get)
        self._numbers = 0

    def end(self, url: str, blame: Blame, now: int = 0, *, job: str = "", name: str = "", ms: int = 0) -> bool:
        """Let an attempt end with this blame; return whether the worker is ejected."""
        self._numbers += 1
        ended = Ended(url, self._numbers, blame, job=job, cause=f"because {self._numbers}", ms=ms)
        self.breakers.judge(ended, name or f"p:{self._numbers}", now, len(URLS))
        return self.breakers.is_ejected(url)

    def try_out(self, url: str, blame: Blame, now: int, *, ms: int = 0) -> bool:
        """Let the open trial end with this blame."""
        self.breakers.open_trials(now)
        assert self.breakers.allows(url)
        self.breakers.begin_trial(url, "p:trial", now + 1000)
        assert not self.breakers.allows(url)
        assert self.breakers.is_tried_by(url, "p:trial")
        assert not self.breakers.is_tried_by(url, "p:other")
        return self.end(url, blame, now, name="p:trial", ms=ms)

    def opens_at(self, url: str, now: int) -> int:
        """Return when the worker's next trial opens."""
        for moment in range(now, now + 20_000):
            self.breakers.open_trials(moment)
            if self.breakers.allows(url):
                return moment
        raise AssertionError("never")


def test_failures_in_a_row_eject() -> None:
    """One good job starts the count again, and ends without fault do not count."""
    fleet = Fleet(failures=3)
    for blame in (Blame.FAULT, Blame.DIED, Blame.OK, Blame.FAULT, Blame.NONE, Blame.BUSY, Blame.DOUBT, Blame.FAULT):
        assert not fleet.end(A, blame)
    assert fleet.breakers.ejected() == {}
    assert not fleet.breakers.has_changed
    assert fleet.end(A, Blame.FAULT)
    assert fleet.breakers.has_changed
    assert [(url, breaker.cause) for url, breaker in fleet.breakers.ejected().items()] == [(A, "because 9")]
    assert not fleet.breakers.allows(A)
    assert fleet.breakers.allows(B)
    assert not fleet.breakers.is_tried_by(B, "")


def test_errors_of_one_job_are_one() -> None:
    """An error of one job counts once, and an error of another job counts again."""
    fleet = Fleet(failures=2)
    assert not fleet.end(A, Blame.ERROR, job="x")
    assert not fleet.end(A, Blame.ERROR, job="x")
    assert fleet.end(A, Blame.ERROR, job="y")


@pytest.mark.parametrize(("percent", "ejected"), [(100, 3), (99, 2), (67, 2), (66, 1), (34, 1), (33, 0), (0, 0)])
def test_no_more_than_a_share_of_the_fleet_is_ejected(percent: int, ejected: int) -> None:
    """The share holds however many workers fail."""
    fleet = Fleet(max_ejected_percent=percent)
    assert sum([fleet.end(url, Blame.FAULT) for url in URLS]) == ejected


def test_ejections_double_until_a_trial_goes_well() -> None:
    """The ejection doubles up to a bound, and ends of jobs from before it change nothing."""
    fleet = Fleet()
    assert fleet.end(A, Blame.FAULT)
    lasted, now = [], 0
    for _ in range(5):
        assert fleet.end(A, Blame.OK, now)
        assert fleet.end(A, Blame.FAULT, now)
        opened = fleet.opens_at(A, now)
        lasted.append(opened - now)
        now = opened
        assert fleet.try_out(A, Blame.FAULT, now)
        assert not fleet.breakers.allows(A)
        assert not fleet.breakers.is_tried_by(A, "p:trial")
    assert lasted == [100, 200, 400, 500, 500]
    assert not fleet.try_out(A, Blame.OK, now + 500)
    assert fleet.end(A, Blame.FAULT, now + 500)
    assert fleet.opens_at(A, now + 500) == now + 600


@pytest.mark.parametrize(
    ("blame", "ms", "opens_at"),
    [
        (Blame.NONE, 0, 100),
        (Blame.BUSY, 0, 100 + REST_MAX_MS),
        (Blame.BUSY, 9000, 9100),
        (Blame.DOUBT, 0, 1100),  # the latest end of the trial
        (Blame.DIED, 0, 300),
    ],
)
def test_trial_that_decides_nothing_is_repeated(blame: Blame, ms: int, opens_at: int) -> None:
    """The next trial opens at once, or when a full worker may have room; a failed trial doubles the ejection."""
    fleet = Fleet()
    fleet.end(A, Blame.FAULT)
    assert fleet.try_out(A, blame, 100, ms=ms)
    assert fleet.opens_at(A, 100) == opens_at


def test_trial_waits_until_the_worker_has_room() -> None:
    """Jobs that timed out on it may still run."""
    fleet = Fleet()
    fleet.end(A, Blame.FAULT)
    fleet.full_until[A] = 700
    fleet.breakers.has_changed = False
    fleet.breakers.open_trials(100)
    fleet.full_until.clear()
    fleet.breakers.open_trials(699)
    assert not fleet.breakers.allows(A)
    assert not fleet.breakers.has_changed
    fleet.breakers.open_trials(700)
    assert fleet.breakers.allows(A)
    assert fleet.breakers.has_changed


def test_ejection_ends_when_the_worker_leaves_and_failures_stay() -> None:
    """A worker that returns is not ejected, one that stayed keeps its ejection, and a count of failures stays."""
    fleet = Fleet()
    for url in (A, B):
        fleet.end(url, Blame.FAULT)
    fleet.breakers.forget_ejected_but({B, C})
    assert [fleet.breakers.is_ejected(url) for url in URLS] == [False, True, False]
    fleet = Fleet(failures=2)
    fleet.end(A, Blame.FAULT)
    fleet.breakers.forget_ejected_but(())
    assert fleet.end(A, Blame.FAULT)
