"""Writes a fleet into Redis that looks busy: leases begin and end on each worker, and jobs are counted.

There are no workers and no jobs. It is for pictures of the dashboard, and for measuring what the dashboard costs.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis

from bench.support.fleet import urls
from router.config.settings import RedisSettings
from router.fleet.counters import Counters
from router.fleet.leadership import Leadership, Term
from router.fleet.model import Health, Worker, WorkerRecord
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient
from router.fleet.stats import BOUNDS_S, ENTRIES_A_CALL, Stats, TenantStats, WorkerStats, took

CAP = 8
_LEADER, _LEAD_S = "busyfleet", 60.0
_TIMEOUT_S = 10.0
# One worker in this many is unhealthy, draining, or ejected.
_UNHEALTHY, _DRAINING, _EJECTED = 250, 320, 400
_ERRORS = (
    "cannot be reached: Connection refused",
    "no answer within 5 s",
    "answered 502 Bad Gateway",
)


@asynccontextmanager
async def busy_fleet(redis_url: str, count: int, tenants: Mapping[str, int] | None = None) -> AsyncIterator[list[str]]:
    """Keep a fleet of `count` workers busy while the block runs; yields their URLs when all are in Redis.

    `tenants` have the jobs, each as many parts of the whole as it says.
    """
    client = RedisClient.connect(RedisSettings(url=redis_url), _TIMEOUT_S)
    async with Redis.from_url(redis_url, decode_responses=True) as redis:
        term = await Leadership(client).lead(_LEADER, _LEAD_S)
        assert term is not None
        records = _records(count)
        assert await Records(client).record(term, datetime.now(UTC), records, (), changed=True)
        await _trouble(redis, [record.worker.url for record in records])
        working = asyncio.create_task(_work(client, redis, term, records, tenants or {}))
        try:
            yield [record.worker.url for record in records]
        finally:
            while not working.done():  # redis-py may swallow a cancellation
                working.cancel()
                await asyncio.wait([working], timeout=1)
            await client.close()
            with suppress(asyncio.CancelledError):
                working.result()


def _records(count: int) -> list[WorkerRecord]:
    now = datetime.now(UTC)
    records = []
    for place, url in enumerate(urls(count)):
        is_well = place % _UNHEALTHY != _UNHEALTHY - 1
        since = now - timedelta(seconds=random.randint(20, 90_000))
        worker = Worker(url, weight=1 + place % 2, max_concurrency=CAP * (1 + place % 2))
        health = Health.HEALTHY if is_well else Health.UNHEALTHY
        error = "" if is_well else random.choice(_ERRORS)
        records.append(WorkerRecord(worker, health, since, now, 2.5, failures=0 if is_well else 4, last_error=error))
    return records


async def _trouble(redis: Redis, all_urls: Sequence[str]) -> None:
    for url in all_urls[_DRAINING - 1 :: _DRAINING]:
        await redis.sadd("sfr:drain", url)
    for url in all_urls[_EJECTED - 2 :: _EJECTED]:
        until_s = time.time() + 290
        fields: dict[Any, Any] = {
            "failures": 5,
            "times": 1,
            "ejected_until": until_s,
            "cause": "returned 503: Service Unavailable",
        }
        await redis.hset(f"sfr:breaker:{url}", mapping=fields)
        await redis.zadd("sfr:ejected", {url: until_s * 1000})


async def _work(
    client: RedisClient, redis: Redis, term: Term, records: Sequence[WorkerRecord], tenants: Mapping[str, int]
) -> None:
    """Each second, count ended jobs on every healthy worker and write new leases."""
    while True:
        due = asyncio.get_running_loop().time() + 1
        assert await Leadership(client).lead(_LEADER, _LEAD_S) == term
        await Records(client).record(term, datetime.now(UTC), records[:1], (), changed=False)
        for start in range(0, len(records), ENTRIES_A_CALL):
            part = [record for record in records[start : start + ENTRIES_A_CALL] if record.health is Health.HEALTHY]
            stats = _second(part)
            stats.tenants = _divided(stats, tenants)
            await Counters(client).count(stats)
            pipeline = redis.pipeline(transaction=False)
            for record in part:
                key, ends_ms = f"sfr:leases:{record.worker.url}", (time.time() + 60) * 1000
                running = random.randint(2, record.worker.max_concurrency or CAP)
                pipeline.delete(key)
                pipeline.zadd(key, {f"busy:{number}": ends_ms for number in range(running)})
            pipeline.delete("sfr:queue")
            pipeline.zadd("sfr:queue", {f"busy:{number}": number for number in range(random.randint(1, 40))})
            await pipeline.execute()
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))


def _second(records: Sequence[WorkerRecord]) -> Stats:
    """Return the counts of one second's jobs on these workers."""
    stats = Stats()
    for record in records:
        mean_s = 0.4 * random.lognormvariate(0, 0.25)
        jobs = random.randint(4, 12) * record.worker.weight
        failures = int(random.random() < 0.01)
        stats.workers[record.worker.url] = WorkerStats(jobs, failures, round(jobs * mean_s * 1000))
        _add(stats.fleet, "jobs", jobs)
        _add(stats.fleet, "attempts", jobs + failures)
        _add(stats.fleet, "retries", failures)
        _add(stats.fleet, "errors", int(random.random() < 0.002))
        for _ in range(jobs):
            seconds = mean_s * random.lognormvariate(0, 0.7)
            _add(stats.fleet, took(next(bound for bound in BOUNDS_S if bound >= seconds)), 1)
    return stats


def _divided(stats: Stats, tenants: Mapping[str, int]) -> dict[str, TenantStats]:
    """Return what each tenant has of a second's jobs."""
    jobs, failures, busy_ms = (
        sum(getattr(worker, name) for worker in stats.workers.values()) for name in ("jobs", "failures", "busy_ms")
    )
    shares = {name: parts / sum(tenants.values()) for name, parts in tenants.items()}
    return {
        name: TenantStats(*(round(share * count) for count in (jobs, failures, busy_ms, busy_ms // 3)))
        for name, share in shares.items()
    }


def _add(counts: dict[str, int], name: str, number: int) -> None:
    counts[name] = counts.get(name, 0) + number
