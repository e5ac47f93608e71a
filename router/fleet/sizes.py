"""What the fleet has learned in Redis: how long jobs of a key take, and how fast workers are.

All router processes add to it. Means are merged in one atomic step, so no process has to know what others have seen.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from router.config.bounds import MAX_COUNT, MAX_EXPECTED_MS
from router.fleet.model import Ratios
from router.fleet.redis_client import RedisClient
from router.policy.sizes import MAX_WEIGHT

# One script call takes at most so many sizes, and as many workers, so that it does not hold up the routers' calls.
ENTRIES_A_CALL = 500
# Keys that no job has had for so long leave.
STAYS_S = 7 * 24 * 3600
# What is known of a worker's speed counts half after this time: minutes after its repair a worker is known as normal.
HALF_LIFE_S = 60.0


class Mean(msgspec.Struct, frozen=True):
    """The mean of a key's sizes, and for how many of them it counts."""

    ms: float
    count: float


class Lessons(msgspec.Struct):
    """What one call says: `sizes` are each a key, a mean (ms) and a number; `speeds` a URL and its Ratios' fields."""

    sizes: Sequence[tuple[str, float, float]] = ()
    speeds: Sequence[tuple[str, float, float, float]] = ()


_encode = msgspec.json.Encoder().encode


class FleetSizes:
    """The sizes and speeds in Redis; of sizes at most `most` keys."""

    def __init__(self, redis: RedisClient, most: int) -> None:
        self._redis = redis
        self._most = most
        self._learn = redis.register(
            "learn", ENTRIES_A_CALL=ENTRIES_A_CALL, MAX_WEIGHT=MAX_WEIGHT, HALF_LIFE_MS=HALF_LIFE_S * 1000
        )

    @property
    def available(self) -> bool:
        """Whether Redis is not in trouble."""
        return self._redis.available

    async def means(self, keys: Collection[str]) -> list[Mean | None]:
        """Return the means of these keys, None for one that is not known. Raises RedisUnavailable."""
        pipeline = self._redis.pipeline()
        pipeline.hmget(self._redis.keys.sizes, list(keys))
        (held,) = await self._redis.ask(pipeline.execute())
        return [_mean(text) for text in held]

    async def learn(self, lessons: Lessons) -> list[Mean | None]:
        """Add what a process has learned, at most ENTRIES_A_CALL of a kind. Raises RedisUnavailable.

        Returns the means of its keys, in their order, as they are now.
        """
        return [_mean(text) for text in await self._redis.ask(self._learn(_encode(lessons), self._most, STAYS_S))]


class Speeds:
    """What processes have seen of workers' speeds, for the sidecar."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def ratios(self, urls: Collection[str]) -> Mapping[str, Ratios]:
        """Return what is known of the workers at `urls`; forget all others. Raises RedisUnavailable."""
        key = self._redis.keys.speeds
        seconds, micros = await self._redis.transaction(("TIME",))  # a Cluster's pipeline takes no TIME
        (held,) = await self._redis.ask_all(("HGETALL", key))
        if gone := sorted(held.keys() - set(urls)):
            await self._redis.command(["HDEL", key, *gone])
        now_ms = int(seconds) * 1000 + int(micros) / 1000
        return {url: _faded(text, now_ms) for url, text in held.items() if url in urls}


def _faded(text: str, now_ms: float) -> Ratios:
    """Read what the key `speeds` holds of one worker, as it counts now; what cannot be read counts as nothing."""
    try:
        total, squares, count, at_ms = (float(word) for word in text.split())
    except ValueError:
        return Ratios()
    left = 0.5 ** max(0.0, (now_ms - at_ms) / (HALF_LIFE_S * 1000))
    read = total * left, squares * left, count * left
    return Ratios(*read) if all(abs(number) < MAX_COUNT for number in read) else Ratios()


def _mean(text: str | None) -> Mean | None:
    """Read a mean and its count; None if there is none, also after a slip with redis-cli."""
    try:
        ms, count = (float(word) for word in (text or "").split())
    except ValueError:
        return None
    return Mean(ms, count) if 0 < ms <= MAX_EXPECTED_MS and count >= 1 else None
