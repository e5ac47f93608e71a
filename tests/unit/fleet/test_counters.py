"""What all routers count together in a fake Redis."""

import json

import msgspec
import pytest
from fakeredis import FakeAsyncRedis
from redis.exceptions import ResponseError

from router.api.schemas import FleetCounts
from router.fleet.counters import Counters
from router.fleet.detail.present import Present
from router.fleet.redis_client import SCHEDULE, RedisClient, RedisUnavailable
from router.fleet.stats import ENTRIES_A_CALL, TENANT_STAYS_S, Stats, TenantStats, TenantUsage, WorkerStats
from router.policy.tenants import MAX_TENANTS, OTHER

# A lease until this moment (Unix ms) is not over.
LATER_MS = 9_999_999_999_999


async def test_counts_of_processes_add_up(redis: RedisClient) -> None:
    """Counts of two processes make one sum, and a worker without counts is at 0."""
    await Counters(redis).count(Stats({"jobs": 2, "errors": 1}, {"http://a": WorkerStats(2, 1, 500)}))
    await Counters(redis).count(Stats({"jobs": 3}, {"http://a": WorkerStats(3, 0, 250)}))
    usage = await Counters(redis).usage(["http://a", "http://b"])
    assert usage.fleet == {"jobs": 5, "errors": 1}
    assert usage.workers["http://a"].stats == WorkerStats(5, 1, 750)
    assert usage.workers["http://b"].stats == WorkerStats()


async def test_usage_has_leases_queue_breaker_and_budget(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """The usage is read from the scheduler's own keys."""
    await client.zadd("sfr:leases:http://a", {"p:1": 1, "p:2": 1})
    await client.zadd("sfr:queue", {"p:3": 7})
    await client.hset("sfr:waiting", "p:3", "1000 9 @1")
    await client.hset("sfr:breaker:http://a", mapping={"failures": 5, "times": 1, "ejected_until": "1700000030.500"})
    await client.hset("sfr:budget", "saved", "12.345")
    usage = await Counters(redis).usage(["http://a"])
    assert (usage.waiting, usage.retries_left) == (1, 12.345)
    worker = usage.workers["http://a"]
    assert (worker.leases, worker.breaker_failures, worker.ejected_until) == (2, 5, 1700000030.5)


async def test_api_s_counts_are_those_of_redis(redis: RedisClient) -> None:
    """A command that asks a router shows the same as one that asks Redis."""
    workers, tenants = {"http://a": WorkerStats(2, 1, 500)}, {"run-7": TenantStats(2, 1, 500, 30)}
    await Counters(redis).count(Stats({"jobs": 2, "le_0.05": 2}, workers, tenants))
    usage = await Counters(redis).usage(["http://a", "http://b"])
    told = FleetCounts.model_validate_json(FleetCounts.of(usage).model_dump_json())
    assert told.usage() == usage
    assert (told.running, told.workers["http://a"].failures, told.tenants["run-7"].queue_ms) == (0, 1, 30)


async def test_usage_of_no_worker_and_of_many(redis: RedisClient) -> None:
    """Neither an empty fleet nor one that needs several calls is a special case."""
    assert (await Counters(redis).usage([])).workers == {}
    urls = [f"http://{number}" for number in range(2 * ENTRIES_A_CALL + 1)]
    assert list((await Counters(redis).usage(urls)).workers) == urls


async def test_counts_of_workers_and_tenants_expire(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """A worker's and a tenant's counts have a time to live, and the fleet's have none."""
    await Counters(redis).count(Stats({"jobs": 1}, {"http://a": WorkerStats(1, 0, 5)}, {"run-7": TenantStats(1)}))
    assert await client.ttl("sfr:stats:http://a") == await client.ttl("sfr:tenant:run-7") == 24 * 3600
    assert await client.ttl("sfr:stats") == -1


async def test_tenants_counts_of_processes_add_up(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """Two processes make one sum for each tenant; all tenants with counts are read, in the order of their names."""
    await Counters(redis).count(Stats(tenants={"run-7": TenantStats(2, 1, 500, 90), "default": TenantStats(1)}))
    await Counters(redis).count(Stats(tenants={"run-7": TenantStats(3, 0, 250, 10)}))
    await client.zadd("sfr:queue", {"p:3": 7})
    await client.hset("sfr:waiting", "p:3", "1000 9 @1")
    usage = await Counters(redis).usage([])
    assert usage.tenants == {
        "default": TenantUsage(0, 1, TenantStats(1), {"": 1}),
        "run-7": TenantUsage(0, 0, TenantStats(5, 1, 750, 100)),
    }


async def test_usage_tells_what_tenants_have_now(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """Leases, and pending jobs of all pools; also of a tenant that has had no lease so far."""
    await Counters(redis).count(Stats(tenants={"run-7": TenantStats(2), "default": TenantStats(1)}))
    await _lease(client, "run-7", "p:1 run-7 0", "p:2 run-7 0")
    await _lease(client, "default", "p:3")
    await client.zadd("sfr:queue", {"p:4": 7, "p:5": 8})
    for line, key in (("run-7/", "/run-7"), ("run-7/gpu;python", "gpu;python/run-7"), ("new/gpu", "gpu/new")):
        await client.zadd("sfr:lines", {line: 0})
        await client.zadd(f"sfr:queue:{key}", {"p:6": 9})
    tenants = (await Counters(redis).usage([])).tenants
    assert tenants["run-7"].pools == {"": 1, "gpu;python": 1}
    assert {name: (tenant.running, tenant.waiting) for name, tenant in tenants.items()} == {
        "default": (1, 2),
        "run-7": (2, 2),
        "new": (0, 1),
    }


async def test_all_leases_are_those_of_a_default_tenant_that_is_alone(
    redis: RedisClient, client: FakeAsyncRedis
) -> None:
    """Then the scheduler need not count them by tenant."""
    await Counters(redis).count(Stats(tenants={"default": TenantStats(1)}))
    await client.zadd("sfr:leases:http://a", {"p:1": 1, "p:2": 1})
    await client.zadd("sfr:lapse", {"http://a": 1})
    assert (await Counters(redis).usage([])).tenants["default"].running == 2


async def test_leases_that_are_over_do_not_run(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """Routers of 0.2 end leases of the default tenant, and drop those of any, without a word to the tenants' counts."""
    await Counters(redis).count(Stats(tenants={"run-7": TenantStats(2), "default": TenantStats(1)}))
    await _lease(client, "run-7", "p:1 run-7 0")
    await _lease(client, "default", "p:3")
    await client.zadd("sfr:running:default", {"old:1": LATER_MS, "old:2": LATER_MS})
    await client.zadd("sfr:running:run-7", {"p:2 run-7 0": 1})
    tenants = (await Counters(redis).usage([])).tenants
    assert (tenants["default"].running, tenants["run-7"].running) == (1, 1)


async def _lease(client: FakeAsyncRedis, tenant: str, *names: str) -> None:
    leases = dict.fromkeys(names, LATER_MS)
    await client.zadd("sfr:leases:http://a", leases)
    await client.zadd(f"sfr:running:{tenant}", leases)
    await client.zadd("sfr:lapse", {"http://a": LATER_MS})


async def test_tenants_beyond_the_limit_share_a_name(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """No count is lost. Those that had a name keep it while they are in use; one that is idle makes room."""
    stats = Stats(tenants={f"run-{number}": TenantStats(1) for number in range(MAX_TENANTS)})
    while stats:
        await Counters(redis).count(stats.take())
    for name in ("late", "later", OTHER, "run-0"):
        await Counters(redis).count(Stats(tenants={name: TenantStats(1, busy_ms=5)}))
    tenants = (await Counters(redis).usage([])).tenants
    assert len(tenants) == MAX_TENANTS + 1
    assert (tenants[OTHER].stats, tenants["run-0"].stats) == (TenantStats(3, 0, 15), TenantStats(2, 0, 5))
    assert await client.zcard("sfr:tenants:known") == MAX_TENANTS
    seen_at = await client.zscore("sfr:tenants:known", "run-5")
    assert seen_at is not None
    await client.zadd("sfr:tenants:known", {"run-5": seen_at - TENANT_STAYS_S * 1000 - 1})
    await Counters(redis).count(Stats(tenants={"late": TenantStats(1)}))
    tenants = (await Counters(redis).usage([])).tenants
    assert tenants["late"].stats == TenantStats(1)
    assert "run-5" not in tenants
    assert not await client.exists("sfr:tenant:run-5")
    await client.zadd("sfr:tenants:known", {"run-6": 1})
    await Counters(redis).count(Stats(tenants={"late": TenantStats(1)}))
    assert "run-6" not in (await Counters(redis).usage([])).tenants


async def test_many_tenants_are_read_with_few_workers_and_many(redis: RedisClient) -> None:
    """Each call reads a part of both."""
    names = [f"run-{number:03}" for number in range(2 * ENTRIES_A_CALL + 1)]
    stats = Stats(tenants={name: TenantStats(1) for name in names})
    while stats:
        await Counters(redis).count(stats.take())
    for urls in ([], ["http://a"], [f"http://{number}" for number in range(4 * ENTRIES_A_CALL)]):
        usage = await Counters(redis).usage(urls)
        assert (list(usage.tenants), list(usage.workers)) == (names, urls)


async def test_invalid_counts_start_again(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """Values written by hand make neither adding nor reading fail."""
    for word in ("NaN", "1e400", "1.5", "many", "-3", "9" * 400):
        await client.hset("sfr:stats", "jobs", word)
        await client.hset("sfr:stats:http://a:1", mapping={"jobs": word, "busy_ms": word})
        await client.hset("sfr:breaker:http://a:1", mapping={"failures": word, "ejected_until": word})
        await client.hset("sfr:budget", "saved", word)
        await client.hset("sfr:tenant:run-7", mapping={"jobs": word, "queue_ms": word})
        await client.zadd("sfr:tenants:known", {"run-7": 4e12})
        usage = await Counters(redis).usage(["http://a:1"])
        json.dumps(msgspec.to_builtins(usage), allow_nan=False)
        await Counters(redis).count(
            Stats({"jobs": 2}, {"http://a:1": WorkerStats(1, 1, 5)}, {"run-7": TenantStats(1, 1, 5, 5)})
        )
        assert (await Counters(redis).usage(["http://a:1"])).fleet["jobs"] >= 0
    assert redis.available


async def test_what_is_now_is_not_told_while_redis_takes_no_writes(redis: RedisClient) -> None:
    """A full Redis answers how it was when it was full: whoever scales by that would take away busy workers."""
    redis.failed(ResponseError("OOM command not allowed"), SCHEDULE)
    for asked in (Counters(redis).usage([]), Present(redis).processes(), Present(redis).leases("http://a")):
        with pytest.raises(RedisUnavailable, match="OOM command not allowed"):
            await asked
    redis.succeeded(SCHEDULE)
    assert (await Counters(redis).usage([])).waiting == 0
