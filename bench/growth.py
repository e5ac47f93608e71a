"""Measures how the router's CPU grows with its fleet and its processes, and what a large fleet costs the sidecar.

`python -m bench.growth [ROUNDS]`: CPU µs a request of all router processes, Redis and the sidecar, for 3 to 1,000
workers and 1 to 16 processes. All have the same load, in turn within each round. The result is the median of the
rounds' ratios to the smallest case. The router has one CPU, everything else has another.

`python -m bench.growth sidecar`: a sidecar checks 5,000 workers every 10 s. The result is the share of one core that it
takes, and whether each check came in time.
"""

import asyncio
import os
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.peers import measure
from bench.support.constworker import constant_workers
from bench.support.load import Load, send
from bench.support.meter import allow_many_files, cpu_s, pin, two_cpus
from bench.support.proxies import Proxy, router
from bench.support.report import percentile, save, show
from bench.support.samples import Sample, ratio, typical
from router.config.settings import RedisSettings
from router.fleet.model import Health, WorkerRecord
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient
from tests.support.eventually import eventually
from tests.support.programs import System, Valkey

DEFAULT_ROUNDS = 5
# The others are compared with the first.
CASES = ((3, 1), (100, 1), (1000, 1), (3, 4), (3, 16))  # workers, processes
LOADS = {"64 connections": Load(64), "512 connections": Load(512)}
# Opens connections to the workers before each measurement: the router does not use a connection after 4 s idle.
WARM_UP_S = 1.0

SIDECAR_WORKERS, INTERVAL_S, INTERVALS = 5_000, 10.0, 3
# The sidecar varies the interval by a tenth. The second is for the check itself and for writing results together.
IN_TIME_S = 1.1 * INTERVAL_S + 1.0
PATIENCE_S = 60.0


async def grow(rounds: int) -> dict[str, dict[str, list[Sample]]]:
    """Run all routers at the same time, and put each under load in turn."""
    router_cpu, other_cpu = two_cpus()
    os.sched_setaffinity(0, {other_cpu})
    samples: dict[str, dict[str, list[Sample]]] = {load: {} for load in LOADS}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        fleet = await stack.enter_async_context(constant_workers(max(workers for workers, _ in CASES), folder))
        routers: dict[str, Proxy] = {}
        for workers, processes in CASES:
            own = Path(stack.enter_context(TemporaryDirectory()))
            started = await stack.enter_async_context(router(own, fleet[:workers], processes))
            pin(started.pid, router_cpu)
            routers[f"{workers:,} workers, {processes} processes"] = started
        for _ in range(rounds):
            for title, load in LOADS.items():
                for name, proxy in routers.items():
                    await send(load, proxy.port, WARM_UP_S)
                    samples[title].setdefault(name, []).append(await measure(proxy, load, router_cpu))
    return samples


def report(samples: dict[str, dict[str, list[Sample]]]) -> None:
    """Print ratios and medians, and write all rounds."""
    shown = ("cpu_us", "beside_us", "per_second")
    for title, by_case in samples.items():
        first = next(iter(by_case.values()))
        rows = [
            [name, f"{ratio(of, first, 'whole_us'):.2f}", *(typical(of, each) for each in shown)]
            for name, of in by_case.items()
        ]
        show([title, "whole CPU, of the first's", "CPU µs/request", "beside it", "requests/s"], rows)
    errors = sum(sample.errors for by_case in samples.values() for of in by_case.values() for sample in of)
    print(f"Errors: {errors}.")
    rounds = {
        title: {name: [asdict(sample) for sample in of] for name, of in by_case.items()}
        for title, by_case in samples.items()
    }
    save("growth", rounds=rounds)


async def check_many() -> None:
    """Let a sidecar check all workers for some intervals, and print its CPU and the checks' ages."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        valkey = await stack.enter_async_context(Valkey(folder))
        fleet = await stack.enter_async_context(constant_workers(SIDECAR_WORKERS, folder))
        system = System(folder, valkey.url)
        system.configure(fleet, health_check_interval=INTERVAL_S, health_check={"timeout": 5})
        sidecar = await stack.enter_async_context(system.sidecar())
        redis = RedisClient.connect(RedisSettings(url=valkey.url), PATIENCE_S)
        stack.push_async_callback(redis.close)
        start = asyncio.get_running_loop().time()
        await eventually(partial(_all_are_known, redis), PATIENCE_S, "the first check of all workers")
        first_s = asyncio.get_running_loop().time() - start
        first_ill = _count_ill((await Records(redis).load()).records)
        await asyncio.sleep(INTERVAL_S)  # the first checks come at once, the later ones are spread
        used_s, start = cpu_s([sidecar.pid]), asyncio.get_running_loop().time()
        ages: list[float] = []
        ill = 0
        for _ in range(INTERVALS):
            await asyncio.sleep(INTERVAL_S)
            records = (await Records(redis).load()).records
            ages += map(_age_s, records)
            ill += _count_ill(records)
        share = (cpu_s([sidecar.pid]) - used_s) / (asyncio.get_running_loop().time() - start)
    late = sum(age > IN_TIME_S for age in ages)
    columns = [
        "workers",
        "share of a core",
        "oldest check s",
        "p99 s",
        "late",
        "failed",
        "first round s",
        "failed in it",
    ]
    show(columns, [[f"{SIDECAR_WORKERS:,}", share, max(ages), percentile(ages, 99), late, ill, first_s, first_ill]])
    save(
        "growth_sidecar",
        share=share,
        oldest_s=max(ages),
        late=late,
        failed=ill,
        first_round_s=first_s,
        first_failed=first_ill,
    )


async def _all_are_known(redis: RedisClient) -> bool:
    await asyncio.sleep(1.0)  # to read the records costs as much as many checks
    records = (await Records(redis).load()).records
    return len(records) == SIDECAR_WORKERS and all(record.checked_at for record in records)


def _count_ill(records: Iterable[WorkerRecord]) -> int:
    return sum(record.health is not Health.HEALTHY or record.failures > 0 for record in records)


def _age_s(record: WorkerRecord) -> float:
    assert record.checked_at
    return (datetime.now(UTC) - record.checked_at).total_seconds()


if __name__ == "__main__":
    allow_many_files()
    if sys.argv[1:] == ["sidecar"]:
        asyncio.run(check_many())
    else:
        report(asyncio.run(grow(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS)))
