"""Tenants in Redis: the rules in force, and what is set at run time. Redis is a fake."""

import asyncio
import json

import pytest
from fakeredis import FakeAsyncRedis

from router.config.tenants import TenantOverrides, TenantSettings
from router.fleet.intents import Intents
from router.fleet.leadership import Leadership, Term
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.fleet.schema import SCHEMA_VERSION
from router.fleet.tenants import Tenants, rules_in_force
from router.policy.tenants import MAX_TENANTS, TenantRule
from tests.support.records import NEW, NOW

RULES = {
    "run-7": TenantRule(weight=3, max_running=5, labels=("gpu", "ib"), client_budget="job+2"),
    "eval": TenantRule(priority=-1, max_waiting=0, client_budget=12.0),
    "default": TenantRule(),
}


@pytest.fixture
def tenants(redis: RedisClient) -> Tenants:
    """The tenants of the fake."""
    return Tenants(redis)


async def test_published_rules_are_those_that_routers_load(
    tenants: Tenants, redis: RedisClient, term: Term, client: FakeAsyncRedis
) -> None:
    """Every field comes through, and only those that differ from the defaults stand in Redis."""
    await Records(redis).record(term, NOW, [NEW], [], changed=True)
    assert await tenants.publish(term, RULES)
    state = await Records(redis).load()
    assert (state.tenants, state.schema) == (RULES, SCHEMA_VERSION)
    assert json.loads(await client.hget("sfr:tenants", "eval") or "") == {
        "priority": -1,
        "max_waiting": 0,
        "client_budget": 12.0,
    }
    assert await client.hget("sfr:tenants", "default") == "{}"


async def test_routers_and_scheduler_are_told_of_changes_only(
    tenants: Tenants, term: Term, client: FakeAsyncRedis
) -> None:
    """The sidecar publishes every second; who has nothing new to say writes nothing."""
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("sfr:changes")
        for rules in (RULES, RULES, {}, {}, RULES):
            assert await tenants.publish(term, rules)
            await client.hdel("sfr:plan:head", "stale") if rules is RULES else None
        heard = [await pubsub.get_message(timeout=0.1) for _ in range(6)]
    assert [message["type"] for message in heard if message] == ["subscribe", *["message"] * 3]


async def test_plan_is_made_anew_after_a_change(tenants: Tenants, term: Term, client: FakeAsyncRedis) -> None:
    """The scheduler reads the rules with the plan."""
    await tenants.publish(term, RULES)
    assert await client.hget("sfr:plan:head", "stale") == "1"
    await client.delete("sfr:plan:head")
    await tenants.publish(term, RULES)
    assert not await client.exists("sfr:plan:head")


async def test_former_leader_publishes_nothing(tenants: Tenants, redis: RedisClient, client: FakeAsyncRedis) -> None:
    """The fencing token of a term that is over is refused."""
    old = await Leadership(redis).lead("old", 3)
    assert old is not None
    await Leadership(redis).resign(old)
    new = await Leadership(redis).lead("new", 3)
    assert new is not None
    assert await tenants.publish(new, {"run-7": TenantRule(weight=2)})
    assert not await tenants.publish(old, RULES)
    assert await client.hgetall("sfr:tenants") == {"run-7": '{"weight":2}'}


@pytest.mark.parametrize(
    "slip",
    [
        ("SET", "sfr:tenants", "x"),
        ("HSET", "sfr:tenants", "run-7", '{"weight":0}'),
        ("HDEL", "sfr:tenants", "eval"),
        ("HSET", "sfr:tenants", "other", "{}"),
        ("DEL", "sfr:tenants"),
        ("HSET", "sfr:fleet", "schema", "1"),
        ("HDEL", "sfr:fleet", "tenants_at"),
    ],
    ids=" ".join,
)
async def test_slip_in_published_rules_is_corrected(
    tenants: Tenants, redis: RedisClient, term: Term, slip: tuple[str, ...]
) -> None:
    """Whatever redis-cli does there, the next round of the sidecar writes the rules again."""
    await Records(redis).record(term, NOW, [NEW], [], changed=True)
    await tenants.publish(term, RULES)
    await redis.command(slip)
    await tenants.publish(term, RULES)
    state = await Records(redis).load()
    assert (state.tenants, state.schema) == (RULES, SCHEMA_VERSION)


async def test_most_tenants_are_published_at_once(tenants: Tenants, redis: RedisClient, term: Term) -> None:
    """As many as there may be fit into one call."""
    await Records(redis).record(term, NOW, [NEW], [], changed=True)
    many = {f"run-{number}": TenantRule(weight=1 + number % 9) for number in range(MAX_TENANTS)}
    assert await tenants.publish(term, many)
    assert (await Records(redis).load()).tenants == many


async def test_fields_are_set_and_taken_back_one_by_one(tenants: Tenants, client: FakeAsyncRedis) -> None:
    """What a change does not name stays; the last field leaves nothing behind."""
    await tenants.override("run-7", {"weight": 3, "labels": ["ib", "gpu"]})
    await tenants.override("run-7", {"priority": -5, "client_budget": "none"})
    _, held = await tenants.standing()
    assert held["run-7"] == TenantOverrides(weight=3, priority=-5, labels=("gpu", "ib"), client_budget="none")
    await tenants.override("run-7", {"weight": None, "client_budget": None})
    _, held = await tenants.standing()
    assert held["run-7"] == TenantOverrides(priority=-5, labels=("gpu", "ib"))
    await tenants.override("run-7", {"priority": None, "labels": None})
    assert not await client.exists("sfr:tenants:intent")


async def test_reset_forgets_one_tenant(tenants: Tenants) -> None:
    """Others stay; to reset what is not set is no error."""
    await tenants.override("run-7", {"weight": 3})
    await tenants.override("eval", {"weight": 2})
    await tenants.reset("run-7")
    await tenants.reset("run-7")
    _, held = await tenants.standing()
    assert held == {"eval": TenantOverrides(weight=2)}


async def test_sidecar_is_told_of_each_change(tenants: Tenants, client: FakeAsyncRedis) -> None:
    """It follows at once."""
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("sfr:wishes")
        await tenants.override("run-7", {"weight": 3})
        await tenants.reset("run-7")
        heard = [await pubsub.get_message(timeout=0.1) for _ in range(4)]
    assert [message["data"] for message in heard if message and message["type"] == "message"] == ["run-7", "run-7"]


async def test_operators_who_change_one_tenant_at_once_lose_nothing(tenants: Tenants) -> None:
    """Each sets another field; all of them hold."""
    fields = {"weight": 3, "priority": 2, "max_running": 4, "max_waiting": 5, "order": "arrival"}
    await asyncio.gather(*(tenants.override("run-7", {name: value}) for name, value in fields.items()))
    _, held = await tenants.standing()
    assert held["run-7"].model_dump(exclude_none=True) == fields


@pytest.mark.parametrize(
    ("name", "text", "kept", "told"),
    [
        ("a b", "{}", None, "tenant 'a b': expected a name of 1 to 64 characters, each of A-Z a-z 0-9 . _ -"),
        ("a", "weight=3", {}, "tenant a: Invalid JSON"),
        ("a", "[3]", {}, "tenant a: expected keys and values: [3]"),
        (
            "a",
            '{"weight":0,"priority":2}',
            {"priority": 2},
            "tenant a: weight: expected greater than or equal to 1, got 0",
        ),
        ("a", '{"weight":"3","priority":2}', {"priority": 2}, "tenant a: weight: expected a valid integer, got '3'"),
        ("a", '{"wait":1,"priority":2}', {"priority": 2}, "tenant a: wait: unknown key"),
        ("a", '{"labels":["a b"],"weight":2}', {"weight": 2}, "tenant a: labels[0]: expected "),
        ("a", '{"max_running":1e99,"weight":2}', {"weight": 2}, "tenant a: max_running: expected a valid integer"),
    ],
)
async def test_slip_in_what_is_set_is_named_and_costs_one_field(
    redis: RedisClient, term: Term, client: FakeAsyncRedis, name: str, text: str, kept: dict[str, int] | None, told: str
) -> None:
    """Other fields of the tenant, and other tenants, keep what is set of them."""
    del term  # with it, Redis has a memory
    await client.hset("sfr:tenants:intent", mapping={name: text, "b": '{"weight":2}'})
    intent = await Intents(redis).read()
    assert intent.tenants is not None
    assert intent.tenants["b"] == TenantOverrides(weight=2)
    assert intent.tenants.get(name) == (None if kept is None else TenantOverrides.model_validate(kept))
    assert any(problem.startswith(told) for problem in intent.problems), intent.problems


async def test_change_replaces_an_entry_that_cannot_be_read(tenants: Tenants, client: FakeAsyncRedis) -> None:
    """The operator need not mend it with redis-cli."""
    await client.hset("sfr:tenants:intent", "a", '{"weight":0,"priority":2}')
    await tenants.override("a", {"max_running": 3})
    _, held = await tenants.standing()
    assert held["a"] == TenantOverrides(priority=2, max_running=3)


async def test_key_of_another_type_is_an_error_for_an_operator(tenants: Tenants, client: FakeAsyncRedis) -> None:
    """Nothing is overwritten unseen."""
    await client.set("sfr:tenants:intent", "x")
    with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
        await tenants.override("a", {"weight": 3})


async def test_entry_that_is_no_text_can_be_reset() -> None:
    """A change of it ends with an error that says so."""
    async with FakeAsyncRedis(decode_responses=True, encoding_errors="backslashreplace") as client:
        tenants = Tenants(RedisClient(client, "sfr", timeout_s=5))
        await client.hset("sfr:tenants:intent", "a", b"\xff")
        with pytest.raises(RedisUnavailable, match="what it holds of a cannot be read: reset it first"):
            await tenants.override("a", {"weight": 3})
        await tenants.reset("a")
        await tenants.override("a", {"weight": 3})
        assert await tenants.standing() == ({}, {"a": TenantOverrides(weight=3)})


async def test_marks_that_cannot_be_read_are_told(tenants: Tenants, term: Term, client: FakeAsyncRedis) -> None:
    """A fleet's key of another type is as if Redis were away."""
    await client.set("sfr:fleet", "x")
    with pytest.raises(RedisUnavailable, match="sfr:fleet: WRONGTYPE"):
        await tenants.publish(term, RULES)


def test_tenant_of_config_yaml_does_not_take_over_what_default_says() -> None:
    """`default` is for tenants that are not named."""
    configured = {"run-7": TenantSettings(weight=3), "default": TenantSettings(max_waiting=5)}
    rules, _ = rules_in_force(configured, {"run-7": TenantOverrides(priority=1), "new": TenantOverrides(weight=2)})
    assert rules["run-7"] == TenantRule(weight=3, priority=1)
    assert rules["new"] == TenantRule(weight=2, max_waiting=5)
