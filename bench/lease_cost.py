"""Measures what a lease costs the router process and Redis.

1. CPU a request of one router process at 64 connections, with a free slot for every job. It is compared with the last
   revision without leases, which took tickets by one INCRBY a batch (found in git's history). The two take turns in
   each round. The router has one CPU, everything else has another.
2. Redis' CPU a job for fleets of 10 to 1,000 workers and for 1 to 16 router processes, at the same total load. Either
   all jobs have a free slot, or all slots are taken and each ended lease goes to a pending job. `calls/job` says how
   well jobs share calls. A job that shares none has two, one at its arrival and one at its end. A grant to another
   process adds a claim.

`python -m bench.lease_cost [ROUNDS]`
"""

import asyncio
import io
import os
import statistics
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.support.constworker import constant_workers
from bench.support.fleet import urls, write_fleet
from bench.support.load import Load, send
from bench.support.meter import cpu_s, pin, two_cpus
from bench.support.report import save, show
from router.fleet.model import Worker
from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.programs import ROOT, Program, System, Valkey

DEFAULT_ROUNDS = 5

# Part 1. A clock tick is 10 ms, so four seconds are measured to a quarter of a per cent.
LOAD_S = 4
CONNECTIONS, UPSTREAMS = 64, 4

# Part 2. Two loads: one that a single router process can easily do, and as much as all processes can do on one core.
JOBS_A_SECOND = 2000
IN_FLIGHT = 32  # in each process
IN_FLIGHT_WHEN_FULL = 512  # in all processes together
MEASURE_S = 3.0
# Within this time processes must have started, and a new Redis must give leases.
STEADY_WITHIN_S = 60.0
WARM_UP_S = 1.0
# With room: twice as many slots as jobs in flight, and at least the usual cap for each worker.
SLOTS, USUAL_CAP = 1024, 4
# With all slots taken: only the slots of these workers become free. Those of all other workers stay taken.
OPEN_WORKERS = 8
CASES = ((10, 4), (100, 4), (1000, 4), (100, 1), (100, 16))  # workers, processes


# Part 1: the router process


@dataclass(frozen=True)
class Cost:
    """What one run of the load generator measured."""

    requests: int
    cpu_us: float
    requests_a_second: float


def revision_before_leases() -> str:
    """Return the last revision that has router/tickets.py."""
    return _git("log", "-1", "--diff-filter=D", "--format=%H^", "--", "router/tickets.py").decode().strip()


def check_out(revision: str, folder: Path) -> None:
    """Write the files of `revision` into `folder`."""
    with tarfile.open(fileobj=io.BytesIO(_git("archive", revision))) as archive:
        archive.extractall(folder, filter="data")


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


@asynccontextmanager
async def one_process(
    checkout: Path, folder: Path, workers: Sequence[object], redis_url: str, router_cpu: int
) -> AsyncIterator[tuple[int, int]]:
    """Run a sidecar and gunicorn with one process from `checkout`. Yields its port and its process id."""
    system = System(folder, redis_url)
    system.configure(workers, health_check_interval=30.0, timeout=300)
    port = free_port()
    sidecar = Program([sys.executable, "-m", "sidecar"], folder / "sidecar.log", system.env, checkout)
    argv = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "-b", f"127.0.0.1:{port}", "-w", "1"]
    gunicorn = Program(argv, folder / "router.log", system.env, checkout)
    async with sidecar, gunicorn:
        await eventually(lambda: "startup complete" in gunicorn.output, 30, f"the router\n{gunicorn.output}")
        pin(gunicorn.pid, router_cpu)
        yield port, gunicorn.children()[0]


async def put_under_load(port: int, pid: int) -> Cost:
    """Let wrk send jobs for some seconds. Returns the CPU of the process `pid` for them."""
    before = cpu_s([pid])
    outcome = await send(Load(CONNECTIONS), port, LOAD_S)
    used_s = cpu_s([pid]) - before
    if outcome.errors:
        raise AssertionError(outcome)
    return Cost(outcome.requests, used_s / outcome.requests * 1e6, outcome.requests / outcome.seconds)


async def compare_routers(rounds: int, router_cpu: int) -> dict[str, list[Cost]]:
    """Measure both revisions in turn."""
    loads: dict[str, list[Cost]] = {"one INCRBY a batch": [], "leases": []}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        before = folder / "before"
        check_out(revision_before_leases(), before)
        workers = await stack.enter_async_context(constant_workers(UPSTREAMS, folder))
        capped = [{"url": url, "max_concurrency": 2 * CONNECTIONS} for url in workers]
        routers = []
        for checkout, fleet in ((before, workers), (ROOT, capped)):
            own = Path(stack.enter_context(TemporaryDirectory()))
            valkey = await stack.enter_async_context(Valkey(own))
            routers.append(await stack.enter_async_context(one_process(checkout, own, fleet, valkey.url, router_cpu)))
        for port, pid in routers:  # a warm-up
            await put_under_load(port, pid)
        for _ in range(rounds):
            for of, (port, pid) in zip(loads.values(), routers, strict=True):
                of.append(await put_under_load(port, pid))
    return loads


# Part 2: Redis


@dataclass(frozen=True)
class RedisCost:
    """Redis' CPU in one run."""

    workers: int
    processes: int
    is_full: bool
    hold_s: float
    jobs_a_second: float
    cpu_us_a_job: float
    calls_a_job: float
    waiting: int


async def _counts(client: Any) -> tuple[int, int, float]:
    """Return the number of jobs, of calls of the scheduler, and of CPU seconds so far."""
    cpu = await client.info("cpu")
    stats = await client.info("commandstats")
    tickets = int(await client.get("sfr:ticket") or 0)
    return tickets, stats["cmdstat_fcall"]["calls"], cpu["used_cpu_user"] + cpu["used_cpu_sys"]


async def cost_of(workers: int, processes: int, *, is_full: bool, hold_s: float, router_cpu: int) -> RedisCost:
    """Start a Redis with `workers` workers in it and `processes` load processes, and measure for MEASURE_S."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        valkey = await stack.enter_async_context(Valkey(folder))
        client = await stack.enter_async_context(valkey.client())
        in_flight = IN_FLIGHT_WHEN_FULL // processes if is_full else IN_FLIGHT
        cap = USUAL_CAP if is_full else max(USUAL_CAP, SLOTS // workers)
        if is_full:
            far = {f"somebody:{number}": 4e12 for number in range(cap)}
            for url in urls(workers)[OPEN_WORKERS:]:
                await client.zadd(f"sfr:leases:{url}", far)
        await write_fleet(valkey.url, [Worker(url, max_concurrency=cap) for url in urls(workers)])
        for number in range(processes):
            argv = [sys.executable, "-m", "bench.support.leaseload", valkey.url, str(in_flight), str(hold_s)]
            load = await stack.enter_async_context(Program(argv, folder / f"load-{number}.log"))
            pin(load.pid, router_cpu)

        async def is_steady() -> bool:
            at_work: int = await client.zcard("sfr:processes")
            return at_work == processes and int(await client.get("sfr:ticket") or 0) > 2 * in_flight * processes

        await eventually(is_steady, STEADY_WITHIN_S, "a steady load")
        await asyncio.sleep(WARM_UP_S)
        jobs, calls, used_s = await _counts(client)
        start = asyncio.get_running_loop().time()
        await asyncio.sleep(MEASURE_S)
        seconds = asyncio.get_running_loop().time() - start
        waiting = await client.zcard("sfr:queue")
        jobs_later, calls_later, used_later_s = await _counts(client)
    count = jobs_later - jobs
    return RedisCost(
        workers=workers,
        processes=processes,
        is_full=is_full,
        hold_s=hold_s,
        jobs_a_second=count / seconds,
        cpu_us_a_job=(used_later_s - used_s) / count * 1e6,
        calls_a_job=(calls_later - calls) / count,
        waiting=waiting,
    )


async def redis_costs(rounds: int, router_cpu: int) -> list[list[RedisCost]]:
    """Measure all cases in each round. Returns one list for each case."""
    cases = []
    for is_full in (False, True):
        for workers, processes in CASES:
            # If all slots are taken, the slots that become free limit the rate, not the jobs in flight.
            at_once = OPEN_WORKERS * USUAL_CAP if is_full else IN_FLIGHT * processes
            cases += [(workers, processes, is_full, hold_s) for hold_s in (at_once / JOBS_A_SECOND, 0.0)]
    costs: list[list[RedisCost]] = [[] for _ in cases]
    for _ in range(rounds):
        for place, (workers, processes, is_full, hold_s) in enumerate(cases):
            costs[place].append(
                await cost_of(workers, processes, is_full=is_full, hold_s=hold_s, router_cpu=router_cpu)
            )
    return costs


def show_routers(loads: dict[str, list[Cost]]) -> None:
    """Print medians, and by how much leases raise the CPU."""
    rows = [
        [name, statistics.median(cost.cpu_us for cost in of), statistics.median(cost.requests_a_second for cost in of)]
        for name, of in loads.items()
    ]
    show(["one router process, 64 connections", "CPU µs/request", "requests/s"], rows)
    plain, leased = (statistics.median(cost.cpu_us for cost in of) for of in loads.values())
    print(f"Leases add {leased / plain - 1:+.1%}.\n")


def show_redis(costs: Sequence[Sequence[RedisCost]]) -> None:
    """Print the medians of each case."""
    rows = []
    for of in costs:
        one = of[0]
        state = "all slots taken" if one.is_full else "room for all"
        pace = f"{JOBS_A_SECOND}/s" if one.hold_s else "flat out"
        rows.append(
            [
                f"{state}, {pace}",
                one.workers,
                one.processes,
                statistics.median(cost.cpu_us_a_job for cost in of),
                statistics.median(cost.calls_a_job for cost in of),
                statistics.median(cost.jobs_a_second for cost in of),
                statistics.median(cost.waiting for cost in of),
            ]
        )
    rows.sort(key=lambda row: str(row[0]))
    show(["Redis", "workers", "processes", "CPU µs/job", "calls/job", "jobs/s", "waiting"], rows)


async def main(rounds: int) -> None:
    """Measure both parts."""
    router_cpu, other_cpu = two_cpus()
    os.sched_setaffinity(0, {other_cpu})
    loads = await compare_routers(rounds, router_cpu)
    show_routers(loads)
    costs = await redis_costs(max(1, rounds // 2), router_cpu)
    show_redis(costs)
    save(
        "lease_cost",
        router={name: [asdict(cost) for cost in of] for name, of in loads.items()},
        redis=[asdict(cost) for of in costs for cost in of],
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS))
