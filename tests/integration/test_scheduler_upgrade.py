"""The script beside that of the last release, over one Redis: what a rolling upgrade looks like for minutes."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from redis import Redis

from router.fleet.model import Member, Worker
from router.fleet.schema import SCHEMA_VERSION
from router.policy.strategy import Strategy
from router.policy.tenants import LONGEST_FIRST, TenantRule
from router.policy.verdict import Blame
from router.scheduling.messages import Arrival, Beat, Call, Claim, Ended, Grant, Reply, Rules, Wish
from tests.support.last_release import SCHEDULER
from tests.support.lua_scheduler import START, A, B, C, LuaScheduler

LONG_MS = 60_000
CAPS = {A: 1, B: 2, C: 3}


class LastRelease(LuaScheduler):
    """The scheduler of the last release."""

    def __init__(self, redis: Redis, rules: Rules) -> None:
        super().__init__(redis, rules)
        self._last = redis.register_script(SCHEDULER)

    def step(self, call: Call, now: int) -> Reply:
        """Run the last release's script once at the moment `now` (ms)."""
        args: list[Any] = [msgspec.json.encode(call), msgspec.json.encode(self.rules), now]
        return msgspec.json.decode(self._last(keys=["sfr:plan"], args=args), type=Reply)


@dataclass
class Router:
    """A router process: it claims what it is given, and ends its jobs when the test says so."""

    name: str
    scheduler: LuaScheduler
    held: dict[int, Grant] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    asked: set[int] = field(default_factory=set)
    done: Counter[int] = field(default_factory=Counter)

    def call(self, now: int, **said: Any) -> Reply:
        """Make a call with a heartbeat."""
        claims, self.claims = self.claims, ()
        reply = self.scheduler.step(Call(self.name, claims=claims, beat=Beat(), **said), now)
        for claim in claims:
            if claim.number in reply.claimed:
                self.held[claim.number] = Grant(claim.number, claim.url, 0, claim.tenant, claim.memory_mb)
        self.held |= {grant.number: grant for grant in reply.granted}
        self.asked |= {arrival.number for arrival in said.get("arrived", ())}
        return reply

    def hear_grants(self, redis: Any) -> None:
        """Claim with the next call what other routers have granted."""
        texts = redis.lpop(f"sfr:grants:{self.name}", 1000) or ()
        grants = (msgspec.json.decode(text, type=Grant) for text in texts)
        self.claims = tuple(Claim(one.url, one.number, LONG_MS, one.tenant, one.memory_mb) for one in grants)

    def end(self, number: int, now: int) -> None:
        """End a job well."""
        grant = self.held.pop(number)
        self.done[number] += 1
        ended = Ended(grant.url, number, Blame.OK, tenant=grant.tenant, memory_mb=grant.memory_mb)
        self.call(now, ended=(ended,))


def both(redis: Redis, strategy: Strategy = Strategy.ROUND_ROBIN) -> tuple[Router, Router]:
    """Return a router of the last release and one of this, over one fleet."""
    rules = Rules(strategy=strategy)
    old, new = Router("old", LastRelease(redis, rules)), Router("new", LuaScheduler(redis, rules))
    workers = [Worker(url, 1, cap) for url, cap in CAPS.items()]
    workers[2] = Worker(C, 1, CAPS[C], labels=("gpu",), memory_mb=1000)
    new.scheduler.set_fleet([Member(worker) for worker in workers])
    old.call(START - 10_000)
    return old, new


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("seed", range(2))
def test_caps_hold_over_both_and_no_job_is_lost(redis: Redis, strategy: Strategy, seed: int) -> None:
    """Whichever of them plans, grants, serves the other's queue and ends, also if this one's longest jobs go first."""
    dice = random.Random(seed)
    routers = old, new = both(redis, strategy)
    new.scheduler.set_tenants({"default": TenantRule(order=LONGEST_FIRST)} if seed else {})
    now, number, tickets = START, 0, []
    for step in range(400):
        now += dice.choice([0, 1, 20])
        router = dice.choice(routers)
        is_late = step > 250
        if not is_late and dice.random() < 0.6:
            number += 1
            kind = {} if router is old or dice.random() < 0.4 else _kind(dice)
            reply = router.call(now, arrived=(Arrival(number, LONG_MS, LONG_MS, **kind),), **_sized(router, number))
            tickets += [*(grant.ticket for grant in reply.granted if grant.number == number), *reply.queued[1::2]]
        elif router.held:
            router.end(dice.choice(sorted(router.held)), now)
        if dice.random() < 0.05:
            redis.hset("sfr:plan:head", "stale", 1)
        for each in routers:
            each.hear_grants(redis)
            each.call(now)
        for url, cap in CAPS.items():
            assert redis.zcard(f"sfr:leases:{url}") <= cap
    for _ in range(number):
        for router in routers:
            for held in sorted(router.held):
                router.end(held, now)
            router.hear_grants(redis)
            router.call(now)
    assert {router.name: set(router.done) for router in routers} == {router.name: router.asked for router in routers}
    assert max(old.done.values()) == max(new.done.values()) == 1
    assert len(set(tickets)) == len(tickets)
    assert not redis.exists("sfr:queue", "sfr:waiting", "sfr:lines")


def _sized(router: Router, number: int) -> dict[str, Any]:
    """Return the wish that a router of this release has; sizes are in no order."""
    return {} if router.name == "old" else {"wishes": (Wish(number, number * 37 % 1000),)}


def _kind(dice: random.Random) -> dict[str, Any]:
    return {
        "tenant": dice.choice(["", "run-7", "eval"]),
        "pool": dice.choice(["", "gpu"]),
        "memory_mb": dice.choice([0, 0, 600]),
    }


def test_jobs_of_the_last_release_have_their_turns(redis: Redis) -> None:
    """They wait in the line of the tenant `default`, which has its share of what routers of this release free."""
    old, new = both(redis)
    new.call(START, arrived=tuple(Arrival(number, LONG_MS, LONG_MS, tenant="run-7") for number in range(1, 20)))
    old.call(START, arrived=tuple(Arrival(number, LONG_MS, LONG_MS) for number in range(21, 40)))
    for _ in range(4):
        new.end(min(new.held), START)
        old.hear_grants(redis)
        old.call(START)
    assert (len(old.held), len(new.held)) == (3, 3)


def test_limits_and_priority_hold_beside_the_last_release(redis: Redis) -> None:
    """For the jobs of routers that know them."""
    old, new = both(redis)
    new.scheduler.set_tenants({"run-7": TenantRule(max_running=2)})
    new.call(START, arrived=tuple(Arrival(number, LONG_MS, LONG_MS, tenant="run-7") for number in range(1, 10)))
    old.call(START, arrived=tuple(Arrival(number, LONG_MS, LONG_MS) for number in range(11, 20)))
    assert (len(new.held), len(old.held)) == (2, 4)


def test_breaker_holds_over_both(redis: Redis) -> None:
    """A worker that one of them ejects gets no job from the other."""
    old, new = both(redis)
    fault = tuple(Ended(A, 900 + number, Blame.FAULT) for number in range(5))
    old.call(START, ended=fault)
    new.call(START, arrived=tuple(Arrival(number, LONG_MS, LONG_MS) for number in range(1, 10)))
    assert Counter(grant.url for grant in new.held.values()) == {B: 2, C: 3}


def test_newer_schema_is_left_alone(redis: Redis) -> None:
    """A router that does not know the keys of a later release does nothing, and says which version it has met."""
    _, new = both(redis)
    redis.hset("sfr:fleet", "schema", SCHEMA_VERSION + 1)
    before = redis.get("sfr:ticket")
    assert new.call(START, arrived=(Arrival(1, 1000, 1000),)) == Reply(newer_schema=SCHEMA_VERSION + 1)
    assert redis.get("sfr:ticket") == before
    redis.hset("sfr:fleet", "schema", SCHEMA_VERSION)
    assert new.call(START, arrived=(Arrival(2, 1000, 1000),)).granted
