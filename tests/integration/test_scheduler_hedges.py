"""Second runs beside the first: when the script and its twin grant them."""

from itertools import count

from router.fleet.model import Member, Worker
from router.policy.verdict import Blame
from router.scheduling.messages import Arrival, Beat, Call, Ended, Reply, Rules, Wish
from tests.support.lua_scheduler import START, THREE, A, Ask, B, Make, MakeMembers

NUMBERS = count(1)
HALF = Rules(hedge_percent=50.0, failures=1, base_ms=1000)


def arrive(ask: Ask, jobs: int, wait_ms: int = 60_000, at: int = START) -> Reply:
    """Let jobs arrive that take a minute."""
    return ask(Call("p", arrived=tuple(Arrival(next(NUMBERS), 60_000, wait_ms) for _ in range(jobs))), at)


def hedge(ask: Ask, *tried: str, at: int = START, beside: int = 0) -> str | None:
    """Ask for a second run for a job that has tried these workers; return where it runs."""
    number = next(NUMBERS)
    others = tuple(Arrival(next(NUMBERS), 60_000, 60_000) for _ in range(beside))
    arrived = (Arrival(number, 60_000, 0, 1, tried), *others)
    reply = ask(Call("p", arrived=arrived, wishes=(Wish(number, is_hedge=True),)), at)
    urls = [grant.url for grant in reply.granted if grant.number == number]
    assert reply.unhedged == (() if urls else (number,))
    assert number not in reply.queued[::2]
    return urls[0] if urls else None


def test_second_runs_are_within_their_share_of_all_jobs(make: Make) -> None:
    """Half as many second runs as jobs, with this rule, and no more."""
    ask = make(HALF, 0)
    ask(Call("p", beat=Beat()), START)
    arrive(ask, 6)
    assert [hedge(ask, A) is None for _ in range(5)] == [False, False, False, True, True]
    arrive(ask, 2)
    assert hedge(ask, A) is not None


def test_second_run_takes_a_free_slot_on_an_untried_worker(make: Make) -> None:
    """It counts against the cap like any lease."""
    ask = make(HALF, 2)
    ask(Call("p", beat=Beat()), START)
    arrive(ask, 5)  # of six slots
    free = hedge(ask)
    assert free is not None
    assert hedge(ask) is None
    assert len(arrive(ask, 1).queued) == 2


def test_second_run_is_refused_where_all_workers_are_tried(make: Make) -> None:
    """It is not told that it has tried all, and does not wait."""
    ask = make(HALF, 0)
    ask(Call("p", beat=Beat()), START)
    arrive(ask, 6)
    assert hedge(ask, *THREE) is None


def test_jobs_that_wait_go_before(make: Make) -> None:
    """Also those that arrive in the same call, and those that have tried the free worker."""
    ask = make(HALF, 2)
    ask(Call("p", beat=Beat()), START)
    arrive(ask, 5)
    assert hedge(ask, beside=1) is None
    ask = make(HALF, 1)
    ask(Call("p", beat=Beat()), START)
    taken = {grant.url for grant in arrive(ask, 2).granted}
    (free,) = set(THREE) - taken
    ask(Call("p", arrived=(Arrival(next(NUMBERS), 60_000, 60_000, 0, (free,)),)), START)
    assert hedge(ask) is None


def test_second_run_is_no_trial(make_members: MakeMembers) -> None:
    """The one job that tries an ejected worker decides whether it comes back, so it is a job of its own."""
    ask, _ = make_members([Member(Worker(A)), Member(Worker(B))], HALF)
    ask(Call("p", beat=Beat()), START)
    grants = arrive(ask, 6).granted
    failed = next(grant for grant in grants if grant.url == B)
    ask(Call("p", ended=(Ended(B, failed.number, Blame.FAULT),)), START)
    assert hedge(ask, A, at=START + 1500) is None
    assert {grant.url for grant in arrive(ask, 2, at=START + 1500).granted} == {A, B}
