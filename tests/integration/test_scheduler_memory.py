"""Memory of workers, in the script and in its twin."""

import pytest

from router.fleet.model import Health, Member, Worker
from router.policy.verdict import Blame
from router.scheduling.messages import PASSED_OVER_AT_MOST, Arrival, Beat, Call, Ended, Grant, Held, Reply, Rules
from tests.support.lua_scheduler import START, A, Ask, B, MakeMembers

LONG_MS = 60_000


def come(ask: Ask, *sizes: int, first: int, tenant: str = "", tried: tuple[str, ...] = ()) -> Reply:
    """Let jobs of these sizes (MB) come, numbered from `first` on."""
    jobs = (
        Arrival(number, LONG_MS, LONG_MS, 0, tried, "", tenant, "", size) for number, size in enumerate(sizes, first)
    )
    return ask(Call("p", arrived=tuple(jobs)), START)


def end(ask: Ask, grant: Grant) -> list[int]:
    """End a job; return the numbers of those that get a lease."""
    ended = Ended(grant.url, grant.number, Blame.OK, tenant=grant.tenant, memory_mb=grant.memory_mb)
    return [granted.number for granted in ask(Call("p", ended=(ended,)), START).granted]


def test_jobs_on_a_worker_take_no_more_memory_than_it_has(make_members: MakeMembers) -> None:
    """The sum of their limits never passes it, and a job without a limit is not counted."""
    ask, _ = make_members([Member(Worker(A, memory_mb=1000))], Rules())
    reply = come(ask, 400, 0, 600, 0, first=1)
    assert [(grant.number, grant.memory_mb) for grant in reply.granted] == [(1, 400), (2, 0), (3, 600), (4, 0)]
    assert come(ask, 1, first=5).queued


def test_job_goes_where_it_fits(make_members: MakeMembers) -> None:
    """Past workers with a slot but too little memory; those without a limit take any."""
    ask, _ = make_members([Member(Worker(A, memory_mb=500)), Member(Worker(B))], Rules())
    assert [grant.url for grant in come(ask, *[501] * 4, first=1).granted] == [B] * 4
    assert [grant.url for grant in come(ask, 500, 500, first=5, tried=(B,)).granted] == [A]


def test_small_jobs_do_not_starve_a_large_one(make_members: MakeMembers) -> None:
    """The worker that it has reserved takes no other job until the large one fits there."""
    ask, _ = make_members([Member(Worker(A, memory_mb=1000))], Rules())
    small = come(ask, 300, 300, 300, first=1, tenant="small").granted
    assert come(ask, 900, first=10, tenant="large").queued
    assert come(ask, *[100] * 5, first=20, tenant="small").granted == ()
    assert [end(ask, grant) for grant in small] == [[], [], [10, 20]]


def test_worker_with_the_most_free_memory_is_reserved(make_members: MakeMembers) -> None:
    """Of those that are large enough at all; the others go on."""
    members = [Member(Worker(A, memory_mb=1000)), Member(Worker(B, memory_mb=800))]
    ask, _ = make_members(members, Rules())
    (on_a,) = come(ask, 600, first=1, tried=(B,)).granted
    (on_b,) = come(ask, 100, first=2, tried=(A,)).granted
    assert come(ask, 900, first=3).queued
    assert [grant.url for grant in come(ask, 100, 100, first=4, tenant="eval").granted] == [B, B]
    assert end(ask, on_b) == []
    assert end(ask, on_a) == [3]


@pytest.mark.parametrize("held", [(1,), ()], ids=["its worker has no slot", "its worker is away"])
def test_large_jobs_hold_up_no_other_tenant(make_members: MakeMembers, held: tuple[int, ...]) -> None:
    """However many wait for the one worker that is large enough, others get the free slots of smaller ones."""
    away = Health.HEALTHY if held else Health.UNHEALTHY
    large = Member(Worker(A, max_concurrency=1, memory_mb=1000), away)
    ask, _ = make_members([large, Member(Worker(B, max_concurrency=5, memory_mb=100))], Rules())
    assert [grant.url for grant in come(ask, *[1000] * len(held), first=1, tenant="large").granted] == [A] * len(held)
    assert come(ask, *[1000] * 2 * PASSED_OVER_AT_MOST, first=10, tenant="large").granted == ()
    assert [grant.url for grant in come(ask, *[10] * 6, first=60, tenant="small").granted] == [B] * 5


def test_job_that_has_tried_all_large_workers_is_exhausted(make_members: MakeMembers) -> None:
    """Smaller ones do not count: no other worker could take it, and so it may go to any again."""
    ask, _ = make_members([Member(Worker(A, memory_mb=1000)), Member(Worker(B, memory_mb=100))], Rules())
    assert come(ask, 101, first=1, tried=(A,)).exhausted == (1,)
    assert [grant.url for grant in come(ask, 100, first=2, tried=(A,)).granted] == [B]
    assert come(ask, 1, first=3, tried=(A,)).queued  # for B, which has no memory free


def test_reservation_ends_with_the_job_that_waits_for_it(make_members: MakeMembers) -> None:
    """When its client hangs up, the worker has room for all again."""
    ask, _ = make_members([Member(Worker(A, memory_mb=1000))], Rules())
    come(ask, 300, first=1)
    come(ask, 900, first=2, tenant="large")
    assert come(ask, 100, first=3).queued
    assert [grant.number for grant in ask(Call("p", left=(2,)), START).granted] == [3]


def test_reservation_ends_when_its_worker_rests(make_members: MakeMembers) -> None:
    """A job does not wait for one that cannot be reached while another one could have it."""
    members = [Member(Worker(A, memory_mb=1000)), Member(Worker(B, max_concurrency=1, memory_mb=1000))]
    ask, _ = make_members(members, Rules())
    come(ask, 300, first=1, tried=(B,))
    (on_b,) = come(ask, 300, first=2, tried=(A,)).granted
    assert come(ask, 900, first=3).queued
    ask(Call("p", ended=(Ended(A, 99, Blame.AWAY),)), START)
    assert end(ask, on_b) == [3]


def test_memory_of_leases_that_are_handed_in_counts(make_members: MakeMembers) -> None:
    """After a loss of Redis no worker gets more than it can hold."""
    ask, _ = make_members([Member(Worker(A, memory_mb=1000))], Rules())
    ask(Call("p", beat=Beat(held=(Held(A, 90, 9000, "", 800),))), START)
    assert come(ask, 300, first=1).queued
    assert [grant.number for grant in come(ask, 100, first=2, tenant="small").granted] == []
    assert end(ask, Grant(90, A, 0, "", 800)) == [1, 2]


@pytest.mark.parametrize("size", [1, 2**30])
def test_worker_without_memory_takes_any_job(make_members: MakeMembers, size: int) -> None:
    """Memory counts only where a worker names it."""
    ask, _ = make_members([Member(Worker(A))], Rules())
    assert come(ask, size, size, first=1).granted
