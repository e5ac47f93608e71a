"""The exchange, as the script on a real Valkey and as its twin: a test that takes one of these holds both."""

import pytest
from redis import Redis

from router.fleet.exchange import SETTLE_MS, Call, Rules
from router.fleet.model import Worker
from router.policy.exchange import Exchange
from router.policy.plan import Member
from tests.exchanges import START, THREE, Ask, Make, MakeMembers, Script, SetFleet


@pytest.fixture(params=["script", "twin"])
def make_members(request: pytest.FixtureRequest, redis: "Redis") -> MakeMembers:
    """Make an exchange of these workers by these rules, its memory settled; return it, and what changes them."""

    def made(members: list[Member], rules: Rules) -> tuple[Ask, SetFleet]:
        redis.flushall()
        exchange = Script(redis, rules) if request.param == "script" else Exchange(rules, SETTLE_MS)
        exchange.set_fleet(members)
        exchange.exchange(Call("p"), START - SETTLE_MS)
        return exchange.exchange, exchange.set_fleet

    return made


@pytest.fixture
def make(make_members: MakeMembers) -> Make:
    """Make an exchange of three workers with these rules and this cap, its memory settled."""

    def made(rules: Rules, cap: int = 0) -> Ask:
        ask, _ = make_members([Member(Worker(url, max_concurrency=cap or None)) for url in THREE], rules)
        return ask

    return made
