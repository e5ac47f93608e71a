"""What the fleet has learned of sizes and speeds, in a real Valkey."""

import asyncio
import math
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from router.fleet import sizes
from router.fleet.model import Ratios
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.fleet.sizes import ENTRIES_A_CALL, HALF_LIFE_S, FleetSizes, Lessons, Mean, Speeds
from router.policy.sizes import MAX_WEIGHT, merged
from tests.support.programs import Valkey


@pytest.fixture
async def client(lasting_valkey: Valkey) -> AsyncIterator[Redis]:
    """A client of a real, empty Valkey."""
    async with lasting_valkey.client() as redis:
        await redis.flushall()
        yield redis


@pytest.fixture
def redis(client: Redis) -> RedisClient:
    """The same, as the router has it."""
    return RedisClient(client, "sfr", timeout_s=5)


async def test_means_of_processes_become_one(redis: RedisClient) -> None:
    """Each process' mean counts by its number of sizes, in whatever order they come."""
    one, other = FleetSizes(redis, 100), FleetSizes(redis, 100)
    assert await one.learn(Lessons([("a", 100.0, 1), ("b", 7.0, 2)])) == [Mean(100.0, 1), Mean(7.0, 2)]
    assert await other.learn(Lessons([("a", 200.0, 3)])) == [Mean(175.0, 4)]
    assert await one.means(["b", "none", "a"]) == [Mean(7.0, 2), None, Mean(175.0, 4)]


async def test_simultaneous_lessons_are_all_counted(redis: RedisClient) -> None:
    """No lesson overwrites another one."""
    each = [FleetSizes(redis, 100).learn(Lessons([("a", float(number), 1)])) for number in range(1, MAX_WEIGHT + 1)]
    await asyncio.gather(*each)
    (mean,) = await FleetSizes(redis, 100).means(["a"])
    assert mean is not None
    assert mean.count == MAX_WEIGHT
    assert mean.ms == pytest.approx((MAX_WEIGHT + 1) / 2, abs=2)


async def test_script_merges_like_the_process(redis: RedisClient) -> None:
    """So what a process knows before it has told Redis is what it knows after."""
    fleet, mean, count = FleetSizes(redis, 100), 0.0, 0.0
    for ms, times in ((1000.0, 1), (500.0, 2), (80.0, 40), (9000.0, 1), (10.0, 1)):
        mean, count = merged(mean, count, ms, times)
        (held,) = await fleet.learn(Lessons([("a", ms, times)]))
        assert held is not None
        assert held.count == count
        assert held.ms == pytest.approx(mean, abs=1)


async def test_a_mean_follows_when_jobs_change(redis: RedisClient) -> None:
    """However many sizes it counts for, some hundred new ones outweigh them."""
    fleet = FleetSizes(redis, 100)
    await fleet.learn(Lessons([("a", 10.0, 1_000_000)]))
    for _ in range(100):
        (mean,) = await fleet.learn(Lessons([("a", 1000.0, 1)]))
    assert mean is not None
    assert mean.ms > 900


async def test_oldest_keys_make_room(redis: RedisClient, client: Redis) -> None:
    """No more than `most` keys are kept, and those learned last stay."""
    fleet = FleetSizes(redis, 10)
    for number in range(20):
        await fleet.learn(Lessons([(f"k{number}", 5.0, 1), ("steady", 5.0, 1)]))
    assert (await client.hlen("sfr:sizes"), await client.zcard("sfr:sizes:used")) == (10, 10)
    assert await fleet.means(["k0", "k10", "k19", "steady"]) == [None, None, Mean(5.0, 1), Mean(5.0, 20)]


async def test_a_lower_limit_is_reached_in_steps(redis: RedisClient, client: Redis) -> None:
    """A call removes at most twice what it can add, so that none takes long."""
    for start in range(0, 3 * ENTRIES_A_CALL, ENTRIES_A_CALL):
        await FleetSizes(redis, 10**6).learn(Lessons([(f"k{start + n}", 5.0, 1) for n in range(ENTRIES_A_CALL)]))
    few = FleetSizes(redis, 7)
    await few.learn(Lessons([("k1", 5.0, 1)]))
    assert await client.hlen("sfr:sizes") == ENTRIES_A_CALL
    await few.learn(Lessons([("k1", 5.0, 1)]))
    assert await client.hlen("sfr:sizes") == await client.zcard("sfr:sizes:used") == 7


async def test_unused_keys_leave_after_a_week(redis: RedisClient, client: Redis) -> None:
    """With the next lesson; and all of them where no lesson comes."""
    fleet = FleetSizes(redis, 100)
    await fleet.learn(Lessons([("old", 5.0, 1), ("new", 5.0, 1)]))
    week_ago = (time.time() - sizes.STAYS_S - 5) * 1000
    await client.zadd("sfr:sizes:used", {"old": week_ago})
    await fleet.learn(Lessons([("other", 5.0, 1)]))
    assert await client.hkeys("sfr:sizes") == ["new", "other"]
    for key in ("sfr:sizes", "sfr:sizes:used"):
        assert 0 < await client.ttl(key) <= sizes.STAYS_S


async def test_values_written_by_hand_count_as_absent(redis: RedisClient, client: Redis) -> None:
    """The next lesson corrects them."""
    fleet, urls = FleetSizes(redis, 100), ["http://a"]
    for word in ("", "many", "1", "nan nan", "-5 3", "1e400 2", "5 0", "1 2 3", "0x10 0x2 inf nan"):
        await client.hset("sfr:sizes", "a", word)
        await client.hset("sfr:speeds", "http://a", word)
        assert (await fleet.means(["a"]), await Speeds(redis).ratios(urls)) == ([None], {"http://a": Ratios()})
        assert await fleet.learn(Lessons([("a", 100.0, 1)], [("http://a", 1.0, 1.0, 1)])) == [Mean(100.0, 1)]
        assert (await Speeds(redis).ratios(urls))["http://a"].count == pytest.approx(1, abs=0.1)


async def test_a_key_of_another_type_is_an_error_that_passes(redis: RedisClient, client: Redis) -> None:
    """Redis itself still counts as available."""
    await client.set("sfr:sizes", "x")
    fleet = FleetSizes(redis, 100)
    with pytest.raises(RedisUnavailable):
        await fleet.learn(Lessons([("a", 100.0, 1)]))
    assert fleet.available


async def test_ratios_of_processes_add_up_and_fade(redis: RedisClient, client: Redis) -> None:
    """After the half-life what was known counts half, in the script as for the sidecar."""
    fleet, speeds = FleetSizes(redis, 100), Speeds(redis)
    await fleet.learn(Lessons(speeds=[("http://a", 8.0, 6.0, 8)]))
    *sums, at_ms = str(await client.hget("sfr:speeds", "http://a")).split()
    earlier = int(at_ms) - int(HALF_LIFE_S * 1000)
    await client.hset("sfr:speeds", "http://a", " ".join([*sums, str(earlier)]))
    seen = (await speeds.ratios(["http://a"]))["http://a"]
    assert (seen.total, seen.squares, seen.count) == pytest.approx((4, 3, 4), rel=0.05)
    await fleet.learn(Lessons(speeds=[("http://a", 1.0, 1.0, 1)]))
    seen = (await speeds.ratios(["http://a"]))["http://a"]
    assert (seen.total, seen.squares, seen.count) == pytest.approx((5, 4, 5), rel=0.05)
    assert not math.isnan(seen.total)


async def test_workers_that_have_left_are_forgotten(redis: RedisClient, client: Redis) -> None:
    """So a fleet whose workers come and go leaves nothing behind."""
    await FleetSizes(redis, 100).learn(Lessons(speeds=[("http://a", 1.0, 1.0, 1), ("http://b", 1.0, 1.0, 1)]))
    assert (await Speeds(redis).ratios(["http://b"])).keys() == {"http://b"}
    assert await client.hkeys("sfr:speeds") == ["http://b"]
