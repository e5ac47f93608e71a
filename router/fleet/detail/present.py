"""What runs and waits at this moment, one by one: leases, router processes, and each pool's pending jobs."""

from collections import Counter
from collections.abc import Mapping

import msgspec

from router.config.bounds import MAX_COUNT, whole_number
from router.fleet.redis_client import RedisClient, RefusedCommand, pairs
from router.policy.tenants import DEFAULT


class Lease(msgspec.Struct, frozen=True):
    """One job that runs. `process` is the router process that holds the lease, `ends_at` when it ends at the latest.

    `ends_at` is a Unix time of Redis' clock. `memory_mb` 0: its memory is not counted.
    """

    process: str
    tenant: str
    memory_mb: int
    ends_at: float


class Process(msgspec.Struct, frozen=True):
    """One living router process, and how many leases and pending jobs it had at its last heartbeat."""

    name: str
    running: int
    waiting: int


class Present:
    """Reads the present state in parts. Each method may raise RedisUnavailable."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._keys = redis.keys

    async def leases(self, url: str) -> list[Lease]:
        """Return the leases on the worker at `url`, the one that ends first at first."""
        self._redis.expect_present()
        (held,) = await self._redis.ask_all(("ZRANGE", self._keys.leases(url), "0", "-1", "WITHSCORES"))
        return [_lease(str(name), float(ends_ms)) for name, ends_ms in pairs(held)]

    async def processes(self) -> list[Process]:
        """Return the router processes that live, by name. One that cannot reach Redis is missing after 2 s."""
        self._redis.expect_present()
        (names,) = await self._redis.ask_all(("ZRANGE", self._keys.processes, "0", "-1"))
        states = await self._redis.ask_each(
            *(("HMGET", self._keys.process(name), "leases", "waiting") for name in sorted(names))
        )
        # The set also names dead processes, until a living one removes them; their own keys are gone.
        return [
            Process(name, _number(state[0]), _number(state[1]))
            for name, state in zip(sorted(names), states, strict=True)
            if not isinstance(state, RefusedCommand) and state[0] is not None
        ]

    async def pending(self) -> Mapping[str, int]:
        """Return how many jobs are pending in each pool that has any; the pool of all workers has the empty name."""
        self._redis.expect_present()
        keys, counts = self._keys, Counter[str]()
        counts[""], lines = await self._redis.ask_all(("ZCARD", keys.queue), ("ZRANGE", keys.lines, "0", "-1"))
        split = [line.partition("/")[::2] for line in lines]  # tenant/pool
        answers = await self._redis.ask_each(*(("ZCARD", keys.queue_of(pool, tenant)) for tenant, pool in split))
        for (_, pool), count in zip(split, answers, strict=True):
            counts[pool] += 0 if isinstance(count, RefusedCommand) else int(count)
        return {pool: count for pool, count in counts.items() if count}


def _lease(name: str, ends_ms: float) -> Lease:
    """Return the lease of this name: `process:number`, or `process:number tenant MB`.

    >>> _lease("host-7-a1b2:12 run-7 512", 2000.0)
    Lease(process='host-7-a1b2', tenant='run-7', memory_mb=512, ends_at=2.0)
    """
    job, *more = name.split(" ")
    tenant, memory = more if len(more) == 2 else (DEFAULT, "0")  # noqa: PLR2004
    return Lease(job.rpartition(":")[0] or job, tenant or DEFAULT, _number(memory), ends_ms / 1000)


def _number(text: object) -> int:
    """Return a count as Redis holds it; 0 if anything else was written there by hand."""
    return whole_number(str(text), 0, MAX_COUNT) or 0
