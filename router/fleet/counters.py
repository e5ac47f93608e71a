"""What all router processes together have counted: jobs, attempts and times, of the fleet and of each worker."""

from collections.abc import Sequence

import msgspec

from router.fleet.lua_source import lua
from router.fleet.redis_client import RedisClient
from router.fleet.stats import WORKER_TTL_S, WORKERS_A_CALL, Stats, Usage

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Usage).decode


class Counters:
    """The fleet's counters in Redis."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._keys = redis.keys
        self._count = redis.register(lua("router.fleet", "count"))
        self._usage = redis.register(lua("router.fleet", "usage"))

    async def count(self, stats: Stats) -> None:
        """Add `stats` to what all processes have counted; at most WORKERS_A_CALL workers. Raises RedisUnavailable."""
        await self._redis.ask(
            self._count(keys=[self._keys.stats], args=[self._keys.prefix, _encode(stats), WORKER_TTL_S])
        )

    async def usage(self, urls: Sequence[str]) -> Usage:
        """Return how the fleet and the workers at `urls` are used now. Raises RedisUnavailable."""
        read: list[Usage] = []
        for start in range(0, max(1, len(urls)), WORKERS_A_CALL):
            part = _encode(urls[start : start + WORKERS_A_CALL])
            answer = await self._redis.ask(self._usage(keys=[self._keys.stats], args=[self._keys.prefix, part]))
            read.append(_decode(answer))
        workers = {url: worker for usage in read for url, worker in usage.workers.items()}
        return msgspec.structs.replace(read[-1], workers={url: workers[url] for url in urls})
