"""Measures what counting costs: for each job, for each second's writing, in Redis, and for a scrape.

`python -m bench.tally_cost [WORKERS]`
"""

import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

from bench.support.fleet import urls, write_fleet
from bench.support.report import save, show
from router.config.settings import RedisSettings
from router.fleet.counters import Counters
from router.fleet.model import Worker
from router.fleet.redis_client import RedisClient
from router.fleet.snapshot import FleetView
from router.fleet.stats import Stats
from router.policy.verdict import Kind, Outcome
from router.telemetry.multiprocess import SharedCounts
from router.telemetry.prometheus import Metrics
from router.telemetry.publisher import for_fleet
from router.telemetry.recorder import Recorder
from tests.support.programs import Valkey

DEFAULT_WORKERS = 1000
JOBS = 20_000
ROUNDS = 9
_PATIENCE_S = 10.0


def count_jobs(recorder: Recorder, workers: list[str]) -> None:
    """Do for JOBS jobs what the router does for each: count three times, and read the clock four times."""
    for number in range(JOBS):
        for _ in range(4):
            perf_counter()
        recorder.waited(0.0004, "")
        recorder.attempt_ended(workers[number % len(workers)], Kind.RESULT, 0.027, "")
        recorder.job_ended("/run_code", 200, Outcome.RESULT, 0.0275, "")


def do_nothing(workers: list[str]) -> None:
    """Run the same loops without counting."""
    for number in range(JOBS):
        for _ in range(4):
            pass
        workers[number % len(workers)]


def cpu_ms(work: Callable[[], object]) -> float:
    """Return the ms of CPU that `work` takes in this process."""
    since = process_time()
    work()
    return (process_time() - since) * 1000


async def redis_cpu_ms(valkey: Valkey, work: Callable[[], Awaitable[object]]) -> float:
    """Return the ms of CPU that `work` takes in Redis: the median of ROUNDS runs."""
    spent = []
    async with valkey.client() as redis:
        for _ in range(ROUNDS):
            before = await redis.info("cpu")
            await work()
            after = await redis.info("cpu")
            spent.append(sum(float(after[part] - before[part]) for part in ("used_cpu_user", "used_cpu_sys")) * 1000)
    return statistics.median(spent)


async def main(count: int) -> None:
    """Measure, print and save."""
    with TemporaryDirectory() as folder:
        workers, recorder, metrics = urls(count), Recorder(), Metrics(SharedCounts(Path(folder)))
        rounds = []
        for _ in range(ROUNDS):
            job_us = (cpu_ms(lambda: count_jobs(recorder, workers)) - cpu_ms(lambda: do_nothing(workers))) * 1000 / JOBS
            counts = recorder.take()
            write_ms = cpu_ms(partial(metrics.add, counts)) + cpu_ms(partial(for_fleet, counts)) + cpu_ms(metrics.share)
            rounds.append((job_us, write_ms))
        job_us, write_ms = (statistics.median(column) for column in zip(*rounds, strict=True))
        async with Valkey(Path(folder)) as valkey:
            await write_fleet(valkey.url, [Worker(url, max_concurrency=8) for url in workers])
            client = RedisClient.connect(RedisSettings(url=valkey.url), _PATIENCE_S)

            async def tell() -> None:
                told = Stats()
                told.add(for_fleet(counts))
                await Counters(client).count(told.take())

            tell_ms = await redis_cpu_ms(valkey, tell)
            usage_ms = await redis_cpu_ms(valkey, lambda: Counters(client).usage(workers))
            view, usage = FleetView(client, ()), await Counters(client).usage(workers)
            await view.refresh()
            page_ms = statistics.median(
                cpu_ms(lambda: metrics.page(view.snapshot, usage, (), "")) for _ in range(ROUNDS)
            )
            await client.close()
    costs = {
        "router process, a job, µs": job_us,
        "router process, writing each second, ms": write_ms,
        "Redis, each process' counts each second, ms": tell_ms,
        "Redis, a scrape, ms": usage_ms,
        "router process, a scrape's page, ms": page_ms,
    }
    show([f"{count} workers", "CPU"], [[name, cost] for name, cost in costs.items()])
    save("tally_cost", workers=count, cpu=costs)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_WORKERS))
