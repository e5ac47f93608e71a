"""Which workers get the jobs of a pool, in the script and in its twin."""

from dataclasses import replace

import pytest
from redis import Redis

from router.fleet.model import Health, Member, Worker
from router.policy.placement import MAX_POOLS
from router.policy.strategy import Strategy
from router.policy.verdict import Blame
from router.scheduling.messages import Arrival, Beat, Call, Ended, Reply, Rules
from tests.support.lua_scheduler import START, Ask, LuaScheduler, MakeMembers

LONG_MS = 60_000
CPU, GPU, BOTH, IB = (f"http://{name}" for name in ("cpu", "gpu", "both", "ib"))


def fleet(*caps: int) -> list[Member]:
    """Return four workers of these caps; one cap is for all."""
    workers = [
        Worker(CPU),
        Worker(GPU, labels=("gpu",)),
        Worker(BOTH, labels=("gpu",), languages=("cpp", "python")),
        Worker(IB, labels=("gpu", "ib"), languages=("python",)),
    ]
    each = caps if len(caps) == len(workers) else caps * len(workers)
    return [Member(replace(worker, max_concurrency=cap or None)) for worker, cap in zip(workers, each, strict=True)]


def come(ask: Ask, pool: str, *numbers: int, tried: tuple[str, ...] = (), now: int = START) -> Reply:
    """Let jobs of a pool come."""
    return ask(
        Call("p", arrived=tuple(Arrival(number, LONG_MS, LONG_MS, 0, tried, pool=pool) for number in numbers)), now
    )


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize(
    ("pool", "fits"),
    [
        ("", {CPU, GPU, BOTH, IB}),
        ("gpu", {GPU, BOTH, IB}),
        ("gpu,ib", {IB}),
        (";python", {CPU, GPU, BOTH, IB}),
        (";cpp", {CPU, GPU, BOTH}),
        ("gpu;cpp", {GPU, BOTH}),
    ],
)
def test_jobs_of_a_pool_run_on_its_workers_alone(
    make_members: MakeMembers, strategy: Strategy, pool: str, fits: set[str]
) -> None:
    """Those that have all its labels, and its language or no languages; as many jobs as they have slots."""
    ask, _ = make_members(fleet(2), Rules(strategy=strategy))
    reply = come(ask, pool, *range(1, 10))
    assert sorted(grant.url for grant in reply.granted) == sorted([*fits, *fits])
    assert len(reply.queued) == 2 * (9 - 2 * len(fits))


def test_pools_that_cannot_be_reached_are_named(make_members: MakeMembers) -> None:
    """Only open pools of some workers, all of which are away; the others may still reach one."""
    ask, _ = make_members(fleet(2), Rules(max_ejected_percent=0))
    for number, pool in enumerate(("", "gpu", "gpu,ib", "gpu;cpp", "no"), 1):
        come(ask, pool, number)
    replies = [
        ask(Call("p", ended=(Ended(url, 90 + number, Blame.AWAY),)), START)
        for number, url in enumerate((IB, GPU, BOTH, CPU))
    ]
    assert [(reply.away, reply.unreached) for reply in replies] == [
        (1, ("gpu,ib",)),
        (2, ("gpu,ib",)),
        (3, ("gpu", "gpu,ib", "gpu;cpp")),
        (4, ("gpu", "gpu,ib", "gpu;cpp")),
    ]


def test_full_pool_holds_up_no_other(make_members: MakeMembers) -> None:
    """Jobs of another pool, and those of all workers, get their leases at once."""
    ask, _ = make_members(fleet(1), Rules())
    assert len(come(ask, "gpu,ib", *range(1, 100)).granted) == 1
    assert [grant.url for grant in come(ask, ";cpp", 101).granted] != [IB]
    assert come(ask, "", 102).granted


def test_worker_serves_all_its_pools_and_takes_the_older_job(make_members: MakeMembers) -> None:
    """The slot that becomes free is for the lowest ticket of all lines of the pools that have it."""
    ask, _ = make_members(fleet(1), Rules())
    (grant,) = come(ask, "gpu,ib", 1).granted
    come(ask, "gpu", 2, 3)
    come(ask, "", 4, 5)
    come(ask, "gpu,ib", 6)
    waiting = ask(Call("p", ended=(Ended(grant.url, 1, Blame.OK),)), START)
    assert [granted.number for granted in waiting.granted] == [5]
    waiting = ask(Call("p", ended=(Ended(grant.url, 5, Blame.OK),)), START)
    assert [granted.number for granted in waiting.granted] == [6]


def test_round_robin_of_a_pool_is_exact_whatever_other_pools_do(make_members: MakeMembers) -> None:
    """Each pool counts its own turns."""
    ask, _ = make_members(fleet(0), Rules())
    urls = []
    for number in range(1, 13, 3):
        urls += [grant.url for grant in come(ask, "gpu;cpp", number).granted]
        come(ask, "", number + 1, number + 2)
    assert urls == [BOTH, GPU, BOTH, GPU]


def test_jobs_that_have_tried_all_workers_of_their_pool_are_exhausted(make_members: MakeMembers) -> None:
    """However many other workers there are."""
    ask, _ = make_members(fleet(1), Rules())
    assert come(ask, "gpu;cpp", 1, tried=(GPU, CPU)).granted
    assert come(ask, "gpu;cpp", 2, tried=(GPU, BOTH)).exhausted == (2,)


def test_job_waits_while_its_pool_has_no_worker(make_members: MakeMembers) -> None:
    """And runs when one comes that fits: the fleet's change is heard with the next call."""
    ask, set_fleet = make_members(fleet(1), Rules())
    set_fleet([replace(fleet(1)[3], health=Health.UNHEALTHY), *fleet(1)[:3]])
    assert come(ask, "gpu,ib", 1).queued
    assert come(ask, "", 2).granted
    set_fleet(fleet(1))
    assert [grant.url for grant in ask(Call("p"), START).granted] == [IB]


def test_more_pools_than_may_be_are_refused_while_all_are_in_use(make_members: MakeMembers) -> None:
    """Pools without pending jobs make room for new ones."""
    ask, _ = make_members(fleet(1), Rules())
    come(ask, "gpu,ib", 1)
    for number in range(2, MAX_POOLS + 2):
        assert come(ask, f"gpu,ib;{number}", number).queued if number < 3 else come(ask, f"no{number}", number).queued
    assert come(ask, "one-more", 99).unpooled == (99,)
    assert come(ask, "", 100).granted
    ask(Call("p", left=(7,)), START)
    assert come(ask, "one-more", 101).queued


def test_pools_of_the_same_workers_share_a_room(redis: Redis) -> None:
    """Sixteen languages over a uniform fleet cost no more than one: all have the room of all workers."""
    scheduler = LuaScheduler(redis, Rules())
    scheduler.set_fleet([Member(Worker(CPU, languages=("cpp", "python"))), Member(Worker(GPU))])
    for number, pool in enumerate((";cpp", ";python", ";go", "x", "y"), 1):
        come(scheduler.step, pool, number)
    rooms = {pool: text.split()[0] for pool, text in redis.hgetall("sfr:pools").items()}
    assert rooms == {";cpp": "0", ";python": "0", ";go": "1", "x": "2", "y": "2"}


def test_rooms_that_a_router_of_the_last_release_has_not_kept_are_put_right(redis: Redis) -> None:
    """A worker that is full gets no job of a pool, and a heartbeat finds the room of one that has some."""
    scheduler = LuaScheduler(redis, Rules())
    scheduler.set_fleet(fleet(1))
    scheduler.step(Call("p"), START - 10_000)
    assert come(scheduler.step, "gpu,ib", 1).granted
    assert come(scheduler.step, "gpu,ib", 2).queued
    redis.zadd("sfr:room:1", {f"0 1 1 {IB}": 0})
    assert not scheduler.step(Call("p"), START).granted
    assert redis.exists("sfr:room:1") == 0
    assert scheduler.step(Call("p", ended=(Ended(IB, 1, Blame.OK),)), START).granted
    scheduler.step(Call("p", ended=(Ended(IB, 2, Blame.OK),)), START)
    redis.delete("sfr:room:1")
    assert come(scheduler.step, "gpu,ib", 3).queued
    assert scheduler.step(Call("p", beat=Beat()), START).granted
