"""What all routers count together in a fake Redis."""

import json

import msgspec
from fakeredis import FakeAsyncRedis

from router.api.schemas import FleetCounts
from router.fleet.counters import Counters
from router.fleet.redis_client import RedisClient
from router.fleet.stats import WORKERS_A_CALL, Stats, WorkerStats


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
    await client.hset("sfr:breaker:http://a", mapping={"failures": 5, "times": 1, "ejected_until": "1700000030.500"})
    await client.hset("sfr:budget", "saved", "12.345")
    usage = await Counters(redis).usage(["http://a"])
    assert (usage.waiting, usage.retries_left) == (1, 12.345)
    worker = usage.workers["http://a"]
    assert (worker.leases, worker.breaker_failures, worker.ejected_until) == (2, 5, 1700000030.5)


async def test_api_s_counts_are_those_of_redis(redis: RedisClient) -> None:
    """A command that asks a router shows the same as one that asks Redis."""
    await Counters(redis).count(Stats({"jobs": 2, "le_0.05": 2}, {"http://a": WorkerStats(2, 1, 500)}))
    usage = await Counters(redis).usage(["http://a", "http://b"])
    told = FleetCounts.model_validate_json(FleetCounts.of(usage).model_dump_json())
    assert told.usage() == usage
    assert (told.running, told.workers["http://a"].failures) == (0, 1)


async def test_usage_of_no_worker_and_of_many(redis: RedisClient) -> None:
    """Neither an empty fleet nor one that needs several calls is a special case."""
    assert (await Counters(redis).usage([])).workers == {}
    urls = [f"http://{number}" for number in range(2 * WORKERS_A_CALL + 1)]
    assert list((await Counters(redis).usage(urls)).workers) == urls


async def test_counts_of_workers_expire(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """A worker's counts have a time to live, and the fleet's have none."""
    await Counters(redis).count(Stats({"jobs": 1}, {"http://a": WorkerStats(1, 0, 5)}))
    assert await client.ttl("sfr:stats:http://a") == 24 * 3600
    assert await client.ttl("sfr:stats") == -1


async def test_invalid_counts_start_again(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """Values written by hand make neither adding nor reading fail."""
    for word in ("NaN", "1e400", "1.5", "many", "-3", "9" * 400):
        await client.hset("sfr:stats", "jobs", word)
        await client.hset("sfr:stats:http://a:1", mapping={"jobs": word, "busy_ms": word})
        await client.hset("sfr:breaker:http://a:1", mapping={"failures": word, "ejected_until": word})
        await client.hset("sfr:budget", "saved", word)
        usage = await Counters(redis).usage(["http://a:1"])
        json.dumps(msgspec.to_builtins(usage), allow_nan=False)
        await Counters(redis).count(Stats({"jobs": 2}, {"http://a:1": WorkerStats(1, 1, 5)}))
        assert (await Counters(redis).usage(["http://a:1"])).fleet["jobs"] >= 0
    assert redis.available
