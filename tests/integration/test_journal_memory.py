"""How much of a real Valkey's memory the journal takes at most; docs/metrics.md and docs/failures.md state it."""

import msgspec
from redis import Redis

from router.fleet.journal.failed_job import MOST, FailedJob, FailedTry
from router.fleet.journal.failures import Failures
from router.fleet.journal.points import DAY, HOUR, MOST_TENANTS, NUMBERS, Mark, Point
from router.fleet.redis_client import RedisClient
from router.fleet.stats import BOUNDS_S, took, waited
from router.policy.tenants import MAX_TENANTS, OTHER
from tests.support.programs import Valkey

MB = 10**6


def taken(redis: Redis, keys: str) -> int:
    """Return how many bytes these keys take together."""
    return sum(int(str(redis.memory_usage(key, samples=0))) for key in redis.scan_iter(keys))


def test_history_is_bounded(redis: Redis) -> None:
    """A day with 1,000 tenants, each name of 64 characters and each number with all its digits, takes at most 8 MB."""
    names = [f"{number:064}" for number in range(MOST_TENANTS)]
    numbers = dict.fromkeys(NUMBERS, 99_999.123)
    point = Point(1_800_000_000, **numbers, tenants=dict.fromkeys([*names, OTHER], 99_999.12))
    for key, series in (("hour", HOUR), ("day", DAY)):
        redis.rpush(f"sfr:history:{key}", *[msgspec.json.encode(point)] * series.kept)
    fleet = {name(bound_s): 10**12 for bound_s in BOUNDS_S for name in (took, waited)}
    mark = Mark(1_800_000_000_000, fleet, {f"{number:064}": 10**12 for number in range(MAX_TENANTS)}, 6, 10**6, 10**6)
    redis.set("sfr:history:mark", msgspec.json.encode({"hour": mark, "day": mark}))
    assert 4 * MB < taken(redis, "sfr:history:*") < 8 * MB


async def test_failures_are_bounded(redis: Redis, lasting_valkey: Valkey) -> None:
    """500 jobs with as many and as long texts as are kept take at most 3 MB."""
    long = FailedTry("h" * 999, "c" * 999, 10**9)
    said = "i" * 128, "t" * 64, "/" * 999, "l" * 64, 503, "quarantined", 10**9, 10**9, "d" * 999
    async with lasting_valkey.client() as client:
        failures = Failures(RedisClient(client, "sfr", timeout_s=5))
        for _ in range(MOST // 100):
            await failures.add([(0, FailedJob(*said, (long,) * 99))] * 100, now=10**6)
    assert redis.xlen("sfr:failures") == MOST
    assert taken(redis, "sfr:failures") < 3 * MB
