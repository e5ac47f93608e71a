"""What all router processes together have counted, of the fleet and of each worker, and how busy these are now."""

from collections.abc import Sequence

import msgspec

from router.fleet.redis_client import RedisClient
from router.fleet.stats import WORKER_TTL_S, WORKERS_A_CALL, Stats, Usage

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Usage).decode


class Counters:
    """The fleet's counters in Redis. Routers add to them; dashboards and commands read them."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._count = redis.register("count")
        self._usage = redis.register("usage")

    async def count(self, stats: Stats) -> None:
        """Add `stats`, which is of at most WORKERS_A_CALL workers, to the counters. Raises RedisUnavailable."""
        await self._redis.ask(self._count(_encode(stats), WORKER_TTL_S))

    async def usage(self, urls: Sequence[str]) -> Usage:
        """Return how busy the fleet and the workers at `urls` are, and what is counted. Raises RedisUnavailable."""
        read: list[Usage] = []
        for start in range(0, max(1, len(urls)), WORKERS_A_CALL):
            part = _encode(urls[start : start + WORKERS_A_CALL])
            read.append(_decode(await self._redis.ask(self._usage(part))))
        workers = {url: worker for usage in read for url, worker in usage.workers.items()}
        return msgspec.structs.replace(read[-1], workers={url: workers[url] for url in urls})
