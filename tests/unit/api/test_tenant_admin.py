"""The endpoints for tenants: what they show, what they write to Redis, which is a fake, and each refusal."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from router.api.admin import create_tenant_admin
from router.auth.access import AdminGate
from router.fleet.counters import Counters
from router.fleet.redis_client import RedisClient
from router.fleet.stats import Stats, TenantStats
from router.fleet.tenants import Tenants
from router.policy.tenants import MAX_TENANTS
from tests.support.endpoints import ask, serving

TOKEN = "secret"
PLAIN = {"weight": 1, "priority": 0, "order": "arrival", "labels": []}
NO_LIMIT = {"max_running": None, "max_waiting": None, "client_budget": None}
UNSET = dict.fromkeys((*PLAIN, *NO_LIMIT, "reuse"))
NO_REUSE = {"reuse": {"seconds": 0, "max_kb": 64}}
COUNTS = ("running", "waiting", "jobs", "failures", "busy_ms", "queue_ms", "reused", "saved_ms")


class Desk:
    """The endpoints over a fake Redis, which the test may write to, as with redis-cli."""

    def __init__(self, redis: "FakeAsyncRedis") -> None:
        self.redis = redis
        self.key: tuple[tuple[bytes, bytes], ...] = ((b"authorization", f"Bearer {TOKEN}".encode()),)
        gate = AdminGate(TOKEN, allow_loopback=False)
        self.client = RedisClient(redis, "sfr", timeout_s=5)
        self.app = serving(create_tenant_admin(Tenants(self.client), Counters(self.client), gate))

    async def ask(self, method: str, name: str | None = None, body: object = None) -> tuple[int, Any]:
        """Send one request; return the status and the body."""
        params = {} if name is None else {"name": name}
        return (await ask(self.app, method, "/admin/tenants", params, body, self.key, "10.0.0.9"))[:2]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """Two tenants, as a sidecar has published them."""
    async with FakeAsyncRedis(decode_responses=True) as redis:
        await redis.hset("sfr:tenants", mapping={"run-7": '{"weight":3}', "default": '{"max_waiting":9}'})
        yield Desk(redis)


async def test_tenants_are_listed_with_default_first(desk: Desk) -> None:
    """Those with a rule of their own; any other name has the rule of `default`."""
    status, tenants = await desk.ask("GET")
    assert (status, [each["name"] for each in tenants]) == (200, ["default", "run-7"])
    assert tenants[1] == {
        **PLAIN,
        **NO_LIMIT,
        **NO_REUSE,
        "name": "run-7",
        "listed": True,
        "weight": 3,
        "overrides": UNSET,
        "counts": dict.fromkeys((*COUNTS, "adopted"), 0),
    }
    status, (new,) = await desk.ask("GET", "new")
    assert (status, new["listed"], new["max_waiting"]) == (200, False, 9)


async def test_tenants_show_what_they_have_used(desk: Desk) -> None:
    """Those with counts are listed, too, whether or not they have a rule of their own."""
    stats = {"run-7": TenantStats(9, 2, 500, 30), "new": TenantStats(1), "default": TenantStats(3)}
    await Counters(desk.client).count(Stats(tenants=stats))
    _, tenants = await desk.ask("GET")
    assert [(each["name"], each["listed"], each["counts"]["jobs"]) for each in tenants] == [
        ("default", True, 3),
        ("new", False, 1),
        ("run-7", True, 9),
    ]
    _, (found,) = await desk.ask("GET", "run-7")
    assert (found["counts"]["failures"], found["counts"]["busy_ms"], found["counts"]["queue_ms"]) == (2, 500, 30)


async def test_change_holds_in_its_own_answer(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Before the sidecar has published it; a tenant that config.yaml does not name begins with `default`'s rule."""
    caplog.set_level("INFO")
    status, new = await desk.ask("PATCH", "new", body={"priority": 2, "labels": ["ib", "gpu"], "client_budget": 12})
    assert (status, new["priority"], new["labels"], new["max_waiting"]) == (200, 2, ["gpu", "ib"], 9)
    assert new["overrides"] == {**UNSET, "priority": 2, "labels": ["gpu", "ib"], "client_budget": 12}
    assert json.loads(await desk.redis.hget("sfr:tenants:intent", "new") or "") == {
        "priority": 2,
        "labels": ["gpu", "ib"],
        "client_budget": 12.0,
    }
    status, new = await desk.ask("PATCH", "new", body={"priority": None, "weight": 5})
    assert (new["priority"], new["weight"], new["labels"]) == (0, 5, ["gpu", "ib"])
    assert "Tenant new set to {'weight': 5, 'priority': None}, by 10.0.0.9" in caplog.text
    assert [each["name"] for each in (await desk.ask("GET"))[1]] == ["default", "new", "run-7"]


async def test_change_of_default_changes_all_that_have_no_rule(desk: Desk) -> None:
    """And none that has one."""
    await desk.ask("PATCH", "default", body={"weight": 2})
    assert [(await desk.ask("GET", name))[1][0]["weight"] for name in ("default", "new", "run-7")] == [2, 2, 3]


async def test_reset_forgets_what_was_set(desk: Desk) -> None:
    """All of it; a second reset is no error."""
    await desk.ask("PATCH", "run-7", body={"weight": 5, "priority": 1})
    assert await desk.ask("DELETE", "run-7") == (204, None)
    assert await desk.ask("DELETE", "run-7") == (204, None)
    assert (await desk.ask("GET", "run-7"))[1][0]["overrides"] == UNSET


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "expected one or more of weight, priority, max_running"),
        ({"weight": 0}, "greater than or equal to 1"),
        ({"weight": 1001}, "less than or equal to 1000"),
        ({"weight": 2.5}, "valid integer"),
        ({"weight": "2"}, "valid integer"),
        ({"weight": True}, "valid integer"),
        ({"priority": -101}, "greater than or equal to -100"),
        ({"max_running": 0}, "greater than or equal to 1"),
        ({"max_running": 10**9 + 1}, "less than or equal to 1000000000"),
        ({"max_waiting": -1}, "greater than or equal to 0"),
        ({"order": "size"}, "'arrival'"),
        ({"labels": "gpu"}, "expected a list"),
        ({"labels": ["a b"]}, "1 to 64 letters"),
        ({"labels": [f"l{number}" for number in range(65)]}, "64"),
        ({"client_budget": "soon"}, "expected none, job, job+N or N"),
        ({"wait": 1}, "unknown key"),
        ([], "expected keys and values"),
    ],
)
async def test_bad_change_is_refused_and_changes_nothing(desk: Desk, body: object, told: str) -> None:
    """422, which says what was expected."""
    status, problem = await desk.ask("PATCH", "run-7", body=body)
    assert status == 422
    assert told in str(problem)
    assert await desk.redis.hgetall("sfr:tenants:intent") == {}


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "é"])
async def test_bad_name_is_refused(desk: Desk, name: str) -> None:
    """No tenant can have it."""
    for method in ("GET", "PATCH", "DELETE"):
        status, problem = await desk.ask(method, name, {"weight": 2} if method == "PATCH" else None)
        assert status == 422
        assert "expected a name of 1 to 64 characters" in str(problem)


async def test_change_needs_the_token(desk: Desk) -> None:
    """Everybody may look."""
    desk.key = ()
    assert (await desk.ask("GET"))[0] == 200
    assert (await desk.ask("PATCH", "run-7", body={"weight": 2}))[0] == 401
    assert (await desk.ask("DELETE", "run-7"))[0] == 401
    assert await desk.redis.hgetall("sfr:tenants:intent") == {}


async def test_one_tenant_too_many_is_refused(desk: Desk) -> None:
    """Those that have a rule can still be changed."""
    await desk.redis.hset("sfr:tenants", mapping={f"t{number}": "{}" for number in range(MAX_TENANTS - 2)})
    status, problem = await desk.ask("PATCH", "new", body={"weight": 2})
    assert (status, problem["detail"]) == (
        409,
        "new can have no rule of its own: 1000 tenants have one, and more may not",
    )
    assert (await desk.ask("PATCH", "t5", body={"weight": 2}))[0] == 200


async def test_key_of_another_type_is_told(desk: Desk) -> None:
    """As any other trouble with Redis."""
    await desk.redis.set("sfr:tenants:intent", "x")
    status, problem = await desk.ask("PATCH", "run-7", body={"weight": 2})
    assert status == 503
    assert "Redis is unavailable: " in problem["detail"]
    assert "WRONGTYPE" in problem["detail"]
