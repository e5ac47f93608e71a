"""The scheduler, as the script on a real Valkey and as its twin: a test that takes one of these holds both."""

import pytest
from redis import Redis

from router.fleet.model import Member, Worker
from router.scheduling.local_scheduler import LocalScheduler
from router.scheduling.messages import SETTLE_MS, Call, Rules
from tests.support.lua_scheduler import START, THREE, Ask, Make, MakeMembers, Script, SetFleet


@pytest.fixture(params=["script", "twin"])
def make_members(request: pytest.FixtureRequest, redis: "Redis") -> MakeMembers:
    """Make a scheduler of these workers by these rules, its memory settled; return it, and what changes them."""

    def made(members: list[Member], rules: Rules) -> tuple[Ask, SetFleet]:
        redis.flushall()
        scheduler = Script(redis, rules) if request.param == "script" else LocalScheduler(rules, SETTLE_MS)
        scheduler.set_fleet(members)
        scheduler.step(Call("p"), START - SETTLE_MS)
        return scheduler.step, scheduler.set_fleet

    return made


@pytest.fixture
def make(make_members: MakeMembers) -> Make:
    """Make a scheduler of three workers with these rules and this cap, its memory settled."""

    def made(rules: Rules, cap: int = 0) -> Ask:
        ask, _ = make_members([Member(Worker(url, max_concurrency=cap or None)) for url in THREE], rules)
        return ask

    return made
