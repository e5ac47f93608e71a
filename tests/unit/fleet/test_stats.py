"""What all processes count together in Redis. Redis is a fake, but for its Lua."""

from collections.abc import AsyncIterator

import pytest
from fakeredis import FakeAsyncRedis

from router.api.schemas import FleetCounts
from router.fleet.counters import Counters
from router.fleet.redis_client import RedisClient
from router.fleet.stats import WORKERS_A_CALL, Stats, WorkerStats, quantile_s, took
from router.telemetry.recorder import BOUNDS_S


@pytest.fixture
async def client() -> AsyncIterator[FakeAsyncRedis]:
    """A fake Redis with Lua, empty."""
    async with FakeAsyncRedis(decode_responses=True) as redis:
        yield redis


@pytest.fixture
def redis(client: FakeAsyncRedis) -> RedisClient:
    """A client of the fake."""
    return RedisClient(client, "sfr", timeout_s=5)


async def test_counts_of_processes_add_up(redis: RedisClient) -> None:
    """Two processes, one sum; a worker that nobody has counted is at 0."""
    await Counters(redis).count(Stats({"jobs": 2, "errors": 1}, {"http://a": WorkerStats(2, 1, 500)}))
    await Counters(redis).count(Stats({"jobs": 3}, {"http://a": WorkerStats(3, 0, 250)}))
    usage = await Counters(redis).usage(["http://a", "http://b"])
    assert usage.fleet == {"jobs": 5, "errors": 1}
    assert usage.workers["http://a"].stats == WorkerStats(5, 1, 750)
    assert usage.workers["http://b"].stats == WorkerStats()


async def test_usage_tells_what_is_in_use(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """Leases, the line, the breaker and the budget as the scheduler keeps them."""
    await client.zadd("sfr:leases:http://a", {"p:1": 1, "p:2": 1})
    await client.zadd("sfr:queue", {"p:3": 7})
    await client.hset("sfr:breaker:http://a", mapping={"failures": 5, "times": 1, "ejected_until": "1700000030.500"})
    await client.hset("sfr:budget", "saved", "12.345")
    usage = await Counters(redis).usage(["http://a"])
    assert (usage.waiting, usage.retries_left) == (1, 12.345)
    worker = usage.workers["http://a"]
    assert (worker.leases, worker.breaker_failures, worker.ejected_until) == (2, 5, 1700000030.5)


async def test_api_s_counts_are_those_of_redis(redis: RedisClient) -> None:
    """A command that asks a router sees what one that asks Redis does."""
    await Counters(redis).count(Stats({"jobs": 2, "le_0.05": 2}, {"http://a": WorkerStats(2, 1, 500)}))
    usage = await Counters(redis).usage(["http://a", "http://b"])
    told = FleetCounts.model_validate_json(FleetCounts.of(usage).model_dump_json())
    assert told.usage() == usage
    assert (told.running, told.workers["http://a"].failures) == (0, 1)


async def test_usage_of_nobody_and_of_many(redis: RedisClient) -> None:
    """No workers at all, and more than one call takes."""
    assert (await Counters(redis).usage([])).workers == {}
    urls = [f"http://{number}" for number in range(2 * WORKERS_A_CALL + 1)]
    assert list((await Counters(redis).usage(urls)).workers) == urls


async def test_workers_without_jobs_are_forgotten(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """What is counted of a worker has a time to live; what is counted of the fleet has none."""
    await Counters(redis).count(Stats({"jobs": 1}, {"http://a": WorkerStats(1, 0, 5)}))
    assert await client.ttl("sfr:stats:http://a") == 24 * 3600
    assert await client.ttl("sfr:stats") == -1


def test_one_call_takes_the_workers_that_have_waited_longest() -> None:
    """A call's cost is bounded; no worker waits for ever, and nothing is lost or told twice."""
    urls = [f"http://{number}" for number in range(WORKERS_A_CALL + 10)]
    stats = Stats({"jobs": 1}, {url: WorkerStats(1) for url in urls})
    first = stats.take()
    stats.add(Stats({"jobs": 4}, {urls[0]: WorkerStats(2), urls[-1]: WorkerStats(2)}))
    second = stats.take()
    assert (list(first.workers), list(second.workers)) == (urls[:-10], [*urls[-10:], urls[0]])
    assert (first.fleet, second.fleet) == ({"jobs": 1}, {"jobs": 4})
    assert second.workers[urls[-1]] == WorkerStats(3)
    assert not stats


@pytest.mark.parametrize(("share", "seconds"), [(0.5, 0.02), (0.25, 0.015), (0.99, 490.0), (1.0, 500.0), (0.0, 0.01)])
def test_quantile_lies_within_its_bucket(share: float, seconds: float) -> None:
    """50 jobs of 10 to 20 ms, 50 of 200 to 500 s."""
    fleet = {took(0.02): 50, took(500): 50, "jobs": 100}
    found = quantile_s(fleet, BOUNDS_S, share)
    assert found is not None
    assert abs(found - seconds) < 5 if seconds > 1 else abs(found - seconds) < 1e-9


def test_quantile_beyond_all_bounds_and_of_nothing() -> None:
    """The last bound is all that is known; without jobs nothing is."""
    assert quantile_s({"le_inf": 1}, BOUNDS_S, 0.99) == BOUNDS_S[-1]
    assert quantile_s({}, BOUNDS_S, 0.99) is None
