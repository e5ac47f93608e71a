"""What runs and waits at this moment, read from a fake Redis."""

from collections.abc import AsyncIterator

import pytest
from fakeredis import FakeAsyncRedis

from router.fleet.detail.present import Lease, Present, Process
from router.fleet.redis_client import RedisClient

WORKER = "http://a:8080"


@pytest.fixture
async def redis() -> AsyncIterator[FakeAsyncRedis]:
    """A fake Redis."""
    async with FakeAsyncRedis(decode_responses=True) as client:
        yield client


@pytest.fixture
def present(redis: FakeAsyncRedis) -> Present:
    """What reads it."""
    return Present(RedisClient(redis, "sfr", timeout_s=5))


async def test_leases_tell_whose_they_are_and_when_they_end(redis: FakeAsyncRedis, present: Present) -> None:
    """A lease without a tenant in its name is one of `default`; what redis-cli has added harms nothing."""
    held = {"h-1-ab:7 run-7 512": 9000.0, "h-1-ab:8": 4000.0, "h-2-cd:1 run-7 many": 12000.0}
    await redis.zadd(f"sfr:leases:{WORKER}", held)
    assert await present.leases(WORKER) == [
        Lease("h-1-ab", "default", 0, 4.0),
        Lease("h-1-ab", "run-7", 512, 9.0),
        Lease("h-2-cd", "run-7", 0, 12.0),
    ]
    assert await present.leases("http://unknown") == []


async def test_only_living_processes_are_listed(redis: FakeAsyncRedis, present: Present) -> None:
    """The set of processes may name a dead one, whose own key is gone."""
    await redis.zadd("sfr:processes", {"h-2-cd": 1.0, "h-1-ab": 2.0, "h-3-dead": 0.0})
    await redis.hset("sfr:process:h-1-ab", mapping={"leases": 3, "waiting": 1})
    await redis.hset("sfr:process:h-2-cd", mapping={"leases": 0, "waiting": "?"})
    assert await present.processes() == [Process("h-1-ab", 3, 1), Process("h-2-cd", 0, 0)]


async def test_pending_jobs_of_a_pool_are_those_of_all_its_tenants(redis: FakeAsyncRedis, present: Present) -> None:
    """The queue of jobs that run anywhere counts for the pool of all workers."""
    await redis.zadd("sfr:queue", {"a:1": 1, "a:2": 2})
    await redis.zadd("sfr:lines", {"run-7/": 1, "run-7/gpu;python": 2, "run-8/gpu;python": 3, "run-9/;cpp": 4})
    for line, count in (("/run-7", 1), ("gpu;python/run-7", 2), ("gpu;python/run-8", 3)):
        await redis.zadd(f"sfr:queue:{line}", {f"a:{number}": number for number in range(count)})
    assert await present.pending() == {"": 3, "gpu;python": 5}
