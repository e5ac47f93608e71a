"""Which workers get jobs last because they are slow, and how many slots a worker has that comes back."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from router.fleet.model import Health, Member, Worker
from router.policy.strategy import Strategy
from router.policy.verdict import Blame
from router.scheduling.messages import Arrival, Call, Ended, Reply, Rules
from tests.support.lua_scheduler import START, A, Ask, B, C, MakeMembers

LONG_MS = 60_000


def came(ask: Ask, first: int, count: int, now: int = START, pool: str = "") -> Reply:
    """Let jobs come together."""
    arrived = (Arrival(number, LONG_MS, LONG_MS, pool=pool) for number in range(first, first + count))
    return ask(Call("p", arrived=tuple(arrived)), now)


def fleet(cap: int, slow: str) -> list[Member]:
    """Return three workers, one of which is slow."""
    return [Member(Worker(url, max_concurrency=cap), speed=0.5 if url == slow else 1.0) for url in (A, B, C)]


@pytest.mark.parametrize("strategy", list(Strategy))
def test_slow_worker_gets_what_the_others_cannot_take(make_members: MakeMembers, strategy: Strategy) -> None:
    """Whatever the strategy, and whichever worker it is."""
    for slow in (A, B, C):
        ask, _ = make_members(fleet(2, slow), Rules(strategy=strategy))
        assert slow not in {grant.url for number in range(4) for grant in came(ask, number + 1, 1).granted}
        assert [grant.url for grant in came(ask, 5, 3).granted] == [slow, slow]


def test_round_robin_stays_exact_among_the_others(make_members: MakeMembers) -> None:
    """The slow worker has no places among theirs."""
    ask, _ = make_members(fleet(100, A), Rules())
    assert [grant.url for grant in came(ask, 1, 6).granted] in ([B, C] * 3, [C, B] * 3)


def test_several_slow_workers_share_what_is_left(make_members: MakeMembers) -> None:
    """They have a ring of their own, by weight."""
    members = [
        Member(Worker(A, max_concurrency=1)),
        *(Member(Worker(url, max_concurrency=9), speed=0.3) for url in (B, C)),
    ]
    ask, _ = make_members(members, Rules())
    assert Counter(grant.url for grant in came(ask, 1, 7).granted) == {A: 1, B: 3, C: 3}


def test_where_all_are_slow_none_is(make_members: MakeMembers) -> None:
    """Also in a pool of its own, whose other workers are elsewhere."""
    gpu = [Member(Worker(url, max_concurrency=9, labels=("gpu",)), speed=0.4) for url in (A, B)]
    ask, _ = make_members([*gpu, Member(Worker(C, max_concurrency=1))], Rules())
    assert Counter(grant.url for grant in came(ask, 1, 4, pool="gpu").granted) == {A: 2, B: 2}
    assert [grant.url for grant in came(ask, 11, 1).granted] == [C]


@pytest.mark.parametrize(("speed", "is_last"), [(0.66, True), (0.67, False), (3.0, False)])
def test_limit_is_the_rule_s(make_members: MakeMembers, speed: float, is_last: bool) -> None:
    """A worker is slow if it takes more than 1.5 times as long as most."""
    members = [Member(Worker(A, max_concurrency=9), speed=speed), Member(Worker(B, max_concurrency=9))]
    ask, _ = make_members(members, Rules(slower_than=1.5))
    assert (A in {grant.url for grant in came(ask, 1, 4).granted}) is not is_last


def ill_then_well(make_members: MakeMembers, cap: int, rules: Rules) -> Ask:
    """Return a scheduler whose worker A was well, then not, and comes back at START; B has one slot."""
    members = [Member(Worker(A, max_concurrency=cap or None)), Member(Worker(B, max_concurrency=1))]
    ask, set_fleet = make_members(members, rules)
    set_fleet([replace(members[0], health=Health.UNHEALTHY), members[1]])
    ask(Call("p"), START)
    set_fleet(members)
    return ask


def test_worker_that_comes_back_gets_its_slots_over_time(make_members: MakeMembers) -> None:
    """Never more than its share of the time, each as soon as a step is due, and jobs that wait get them."""
    ask = ill_then_well(make_members, 20, Rules(slow_start_ms=10_000))
    reply = came(ask, 1, 40)
    running = Counter(grant.url for grant in reply.granted)
    assert running == {A: 1, B: 1}
    now = START
    while now < START + 10_000:
        assert reply.look_in_ms > 0
        now += reply.look_in_ms
        reply = ask(Call("p"), now)
        running.update(grant.url for grant in reply.granted)
        assert running[A] <= max(1, math.ceil(20 * (now - START) / 10_000))
        if running[A] == 20:
            break
    assert 9_000 <= now - START <= 10_000
    assert running == {A: 20, B: 1}
    assert reply.look_in_ms == 0


def test_worker_that_the_breaker_lets_back_gets_its_slots_over_time(make_members: MakeMembers) -> None:
    """After its trial."""
    members = [Member(Worker(A, max_concurrency=10)), Member(Worker(B, max_concurrency=1))]
    ask, _ = make_members(members, Rules(failures=1, base_ms=1000, slow_start_ms=10_000))
    ask(Call("p", ended=(Ended(A, 900, Blame.FAULT),)), START)
    (first, trial) = came(ask, 1, 2, START + 1000).granted
    trial = first if first.url == A else trial
    assert trial.url == A
    ask(Call("p", ended=(Ended(A, trial.number, Blame.OK),)), START + 1100)
    assert [grant.url for grant in came(ask, 11, 20, START + 1100).granted] == [A]
    assert len(ask(Call("p"), START + 1100 + 5000).granted) == 4


@pytest.mark.parametrize("condition", [Health.UNKNOWN, Health.DRAINING])
def test_worker_that_is_new_or_was_drained_has_all_its_slots(make_members: MakeMembers, condition: Health) -> None:
    """Also one that is unhealthy at first, as at the start of a fleet."""
    well = [Member(Worker(A, max_concurrency=10)), Member(Worker(B, max_concurrency=1))]
    first = replace(well[0], is_draining=True) if condition is Health.DRAINING else replace(well[0], health=condition)
    ask, set_fleet = make_members([first, *well[1:]], Rules())
    for member in (replace(first, health=Health.UNHEALTHY), first):
        set_fleet([member, *well[1:]])
        ask(Call("p"), START)
    set_fleet(well)
    assert Counter(grant.url for grant in came(ask, 1, 20).granted) == {A: 10, B: 1}


def test_fleet_that_starts_has_all_its_slots(make_members: MakeMembers) -> None:
    """Workers get jobs unchecked as long as none is healthy; their first failed checks are no illness."""
    unchecked = [Member(Worker(A, max_concurrency=10), Health.UNKNOWN)]
    ask, set_fleet = make_members(unchecked, Rules())
    for health in (Health.UNHEALTHY, Health.HEALTHY):
        set_fleet([replace(unchecked[0], health=health)])
        ask(Call("p"), START)
    assert len(came(ask, 1, 20).granted) == 10


@pytest.mark.parametrize(("cap", "slow_start_ms"), [(0, 10_000), (10, 0), (1, 10_000)])
def test_without_a_cap_or_the_rule_there_is_no_slow_start(
    make_members: MakeMembers, cap: int, slow_start_ms: int
) -> None:
    """A worker without a cap has no slots to give over time; one slot is the least."""
    ask = ill_then_well(make_members, cap, Rules(slow_start_ms=slow_start_ms))
    granted = Counter(grant.url for grant in came(ask, 1, 20).granted)
    assert granted[A] == (cap or 19)


def test_second_illness_begins_the_start_anew(make_members: MakeMembers) -> None:
    """From the moment at which the worker comes back again; a new cap counts at once."""
    members = [Member(Worker(A, max_concurrency=10)), Member(Worker(B, max_concurrency=1))]
    ask, set_fleet = make_members(members, Rules(slow_start_ms=10_000))
    for begin in (START, START + 9000):
        set_fleet([replace(members[0], health=Health.UNHEALTHY), members[1]])
        ask(Call("p"), begin)
        set_fleet(members)
        ask(Call("p"), begin)
    assert Counter(grant.url for grant in came(ask, 1, 20, START + 9500).granted) == {A: 1, B: 1}
    set_fleet([Member(Worker(A, max_concurrency=40)), members[1]])
    assert len(ask(Call("p"), START + 9500).granted) == 1
