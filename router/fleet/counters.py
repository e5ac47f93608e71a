"""What all router processes together have counted, of the fleet, each worker and each tenant, and how busy they are."""

from collections.abc import Sequence

import msgspec

from router.fleet.redis_client import RedisClient
from router.fleet.stats import COUNTS_TTL_S, ENTRIES_A_CALL, TENANT_STAYS_S, Stats, Usage
from router.policy.tenants import DEFAULT, MAX_TENANTS, OTHER


class _Part(Usage, frozen=True):
    """What one call reads. `unread`: tenants that another call has to read."""

    unread: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Part).decode


class Counters:
    """The fleet's counters in Redis. Routers add to them; dashboards and commands read them."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        stays_ms = TENANT_STAYS_S * 1000
        self._count = redis.register("count", OTHER=OTHER, MAX_TENANTS=MAX_TENANTS, TENANT_STAYS_MS=stays_ms)
        self._usage = redis.register("usage", OTHER=OTHER, DEFAULT=DEFAULT, ENTRIES_A_CALL=ENTRIES_A_CALL)

    async def count(self, stats: Stats) -> None:
        """Add `stats`, as `Stats.take` returns them, to the counters. Raises RedisUnavailable."""
        await self._redis.ask(self._count(_encode(stats), COUNTS_TTL_S))

    async def usage(self, urls: Sequence[str]) -> Usage:
        """Return how busy the fleet, the workers at `urls` and all tenants are, and what is counted.

        Raises RedisUnavailable.
        """
        self._redis.expect_present()
        read = [await self._read(urls[:ENTRIES_A_CALL])]
        while (start := len(read) * ENTRIES_A_CALL) < len(urls) or read[-1].unread:
            read.append(await self._read(urls[start : start + ENTRIES_A_CALL], read[-1].unread))
        last = read[-1]
        workers = {url: worker for part in read for url, worker in part.workers.items()}
        tenants = {name: tenant for part in read for name, tenant in part.tenants.items()}
        in_order = {url: workers[url] for url in urls}
        by_name = dict(sorted(tenants.items()))
        return Usage(last.waiting, last.retries_left, last.fleet, in_order, by_name, last.at_ms, last.events)

    async def _read(self, urls: Sequence[str], tenants: Sequence[str] | None = None) -> _Part:
        """Read these workers and tenants; None: the tenants are those that Redis knows."""
        names = b"" if tenants is None else _encode(tenants)
        return _decode(await self._redis.ask(self._usage(_encode(urls), names)))
