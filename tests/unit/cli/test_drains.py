"""`sfr workers drain`: which workers it chooses, and how it waits for their jobs."""

from collections.abc import Sequence
from typing import cast

import pytest

from router.api.schemas import AdminWorker
from router.cli.failure import Exit, Failed
from router.cli.fleet.drains import chosen, still_running, wait_for
from router.cli.router_client import Fleet
from router.fleet.model import Health
from tests.unit.cli.test_fleet_commands import worker

A, B = "http://a:1", "http://b:1"
AWAY = Failed("the router cannot be reached", Exit.UNREACHABLE)


def drained(url: str, running: int, *, draining: bool = True) -> AdminWorker:
    """A worker on which so many jobs run."""
    health = Health.DRAINING if draining else Health.HEALTHY
    return worker(url, health, draining=draining).model_copy(update={"running": running})


class Told:
    """A fleet that tells one state after the other; of the last one it tells again and again."""

    def __init__(self, *states: Sequence[AdminWorker] | Failed) -> None:
        self._states = list(states)

    def workers(self) -> Sequence[AdminWorker]:
        """Return the next state, or raise it."""
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        if isinstance(state, Failed):
            raise state
        return state


def waits(told: Told, timeout_s: float | None = None) -> float:
    """Return how long the command waits, by a clock that only its pauses move."""
    now = [0.0]

    def sleep(pause_s: float) -> None:
        now[0] += pause_s

    wait_for(lambda: still_running(cast(Fleet, told), [A, B]), timeout_s, lambda: now[0], sleep)
    return now[0]


def test_waits_until_no_job_runs_on_any_worker() -> None:
    """Other workers' jobs do not count."""
    other = drained("http://c:1", 9, draining=False)
    states = [[drained(A, first), drained(B, second), other] for first, second in ((2, 1), (0, 1), (0, 0))]
    assert waits(Told(states[-1])) == 0
    assert waits(Told(*states)) == pytest.approx(0.1 + 0.2)


def test_redis_that_has_lost_what_it_held_ends_no_wait() -> None:
    """Workers are gone, then resumed, then drained without jobs, before routers have told again which jobs run."""
    runs, emptied = [drained(A, 1), drained(B, 0)], [drained(A, 0, draining=False)]
    known_again = [emptied, [drained(A, 0), drained(B, 0)], runs, runs, runs, [drained(A, 0), drained(B, 0)]]
    assert waits(told := Told(runs, [], *known_again)) > 5
    assert waits(told) == 0
    assert waits(Told(runs, AWAY, [drained(A, 0), drained(B, 0)], runs, runs, [drained(A, 0), drained(B, 0)])) > 5


def test_worker_that_has_left_the_fleet_is_empty() -> None:
    """It may be gone because Redis has lost what it held, so this must last."""
    assert 5 <= waits(Told([drained(A, 2), drained(B, 0)], [drained(B, 0)])) < 10


def test_waits_through_a_router_that_restarts_but_not_for_ever() -> None:
    """Nothing is known of the jobs meanwhile; after 30 s the command ends with the reason."""
    assert waits(Told([drained(A, 1)], AWAY, AWAY, [drained(A, 0)])) > 0.2
    with pytest.raises(Failed, match="cannot be reached"):
        waits(Told([drained(A, 1)], AWAY))
    with pytest.raises(Failed, match="cannot be reached"):  # a timeout is no longer wait
        waits(Told([drained(A, 1)], AWAY), 5)


def test_timeout_names_the_jobs_that_still_run() -> None:
    """The status is 1, and the workers stay drained."""
    with pytest.raises(Failed) as failed:
        waits(Told([drained(A, 2), drained(B, 1)]), 5)
    assert failed.value.status == 1
    told = f"jobs still run after 5 s: 2 on {A}, 1 on {B}; the workers stay drained"
    assert str(failed.value) == told


def test_worker_that_somebody_resumes_ends_the_wait() -> None:
    """Waiting on would be for ever: it gets new jobs."""
    with pytest.raises(Failed, match=f"{A}: resumed by somebody else"):
        waits(Told([drained(A, 2)], [drained(A, 2, draining=False)]))


@pytest.fixture
def fleet() -> Fleet:
    """A fleet of a healthy and a draining worker."""
    return cast(Fleet, Told([drained(A, 0, draining=False), drained(B, 0)]))


def test_chooses_by_url_by_health_or_all(fleet: Fleet) -> None:
    """A URL counts once in whatever spelling; --health alone, or with --all, means those of all workers."""
    assert chosen(fleet, [f"{A}/", A], everyone=False, health=None) == [A]
    assert chosen(fleet, None, everyone=True, health=None) == [A, B]
    for everyone in (False, True):
        assert chosen(fleet, None, everyone=everyone, health=["draining"]) == [B]
    with pytest.raises(Failed, match="no worker is ejected or unhealthy"):
        chosen(fleet, None, everyone=False, health=["unhealthy", "ejected"])
