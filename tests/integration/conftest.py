"""The scheduler both as the script on a real Valkey and as its Python twin: tests of these fixtures run on both."""

import pytest
from redis import Redis

from router.fleet.model import Member, Worker
from router.scheduling.local.scheduler import LocalScheduler
from router.scheduling.messages import SETTLE_MS, Call, Rules
from tests.support.lua_scheduler import START, THREE, Ask, LuaScheduler, Make, MakeMembers, SetFleet
from tests.support.tenant_jobs import MakeJobs


@pytest.fixture(params=["script", "twin"])
def make_members(request: pytest.FixtureRequest, redis: "Redis") -> MakeMembers:
    """Make a settled scheduler of these workers and rules; return it, with a function that changes the workers."""

    def made(members: list[Member], rules: Rules) -> tuple[Ask, SetFleet]:
        redis.flushall()
        scheduler = LuaScheduler(redis, rules) if request.param == "script" else LocalScheduler(rules, SETTLE_MS)
        scheduler.set_fleet(members)
        scheduler.step(Call("p"), START - SETTLE_MS)
        return scheduler.step, scheduler.set_fleet

    return made


@pytest.fixture(params=["script", "twin"])
def make_jobs(request: pytest.FixtureRequest, redis: Redis) -> MakeJobs:
    """Make a scheduler over one worker, as the script and as its twin."""
    return MakeJobs(redis, request.param)


@pytest.fixture
def make(make_members: MakeMembers) -> Make:
    """Make a settled scheduler of three workers with these rules and this cap."""

    def made(rules: Rules, cap: int = 0) -> Ask:
        ask, _ = make_members([Member(Worker(url, max_concurrency=cap or None)) for url in THREE], rules)
        return ask

    return made
