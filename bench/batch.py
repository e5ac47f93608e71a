"""A batch of heavy-tailed jobs before simulated workers: what is sent, through what, and what came of it.

1,200 jobs come over 200 kept connections, a closed loop, each to one of the hosts in front of 8 workers of 4 cores.
While they run, something may happen to one of the workers.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import Signals
from tempfile import TemporaryDirectory

import aiohttp

from bench.support import configs
from bench.support.proxies import peer
from bench.support.report import percentile
from bench.support.simworker import DIE, RECOVER, SLOW, SLOW_SPEED
from tests.support.eventually import eventually
from tests.support.programs import Program, System, Valkey, get_json

WORKERS, CORES = 8, 4
JOBS, CONNECTIONS, SHARE_OF_FIRST_HOST = 1200, 200, 0.6
# Bounded Pareto, as run times of generated programs are: most take no time, few take most of it. The sum is 3 to 4 s on
# all cores, so that a round of a few set-ups takes about half a minute.
ALPHA, SHORTEST_S, LONGEST_S = 1.1, 0.02, 3.0
SEED = 1
# As tests' authors set limits: some room over what the program takes, and no less than a second. Alone, each job is
# well in time; at 8 at once on 4 cores, one of over half a second is not.
LIMIT_FACTOR, LEAST_LIMIT_S = 1.5, 1.0
# Twice what the worst set-up takes.
RUN_WITHIN_S = 60.0
# How often health is checked, by all who do so.
CHECK_S = 5.0
# When in the batch it happens.
EVENT_S = 1.0

Setup = Callable[[Path, Sequence[str]], AbstractAsyncContextManager[Sequence[int]]]


@dataclass(frozen=True)
class Course:
    """What becomes of one worker before the set-up starts, and EVENT_S after the batch does: then there are `cores`."""

    before: Signals | None = None
    then: Signals | None = None
    cores_before: float = WORKERS * CORES
    cores: float = WORKERS * CORES

    def ideal_s(self, works: Sequence[float]) -> float:
        """Return how long the batch takes at least: all cores busy to the end, or the longest job.

        >>> Course().ideal_s([64.0] * 2), Course(cores_before=32, cores=31).ideal_s([1.0] * 63)
        (64.0, 2.0)
        """
        left = sum(works) - EVENT_S * self.cores_before
        return max(EVENT_S + left / self.cores, *works)


COURSES = {
    "all alike": Course(),
    "one three times slower": Course(
        before=SLOW,
        cores_before=(WORKERS - 1 + SLOW_SPEED) * CORES,
        cores=(WORKERS - 1 + SLOW_SPEED) * CORES,
    ),
    "one dies": Course(then=DIE, cores=(WORKERS - 1) * CORES),
    "one is added": Course(before=DIE, then=RECOVER, cores_before=(WORKERS - 1) * CORES),
}


@dataclass(frozen=True)
class Run:
    """One set-up's numbers in one round."""

    over_ideal: float
    total_s: float
    p50_s: float
    p99_s: float
    most_at_once: int
    false_time_limits: int
    errors: int
    client_cpu: float


def works() -> list[float]:
    """Return each job's CPU-seconds, the same at each call."""
    draw = random.Random(SEED)
    share_below = 1 - (SHORTEST_S / LONGEST_S) ** ALPHA
    return [SHORTEST_S / (1 - draw.random() * share_below) ** (1 / ALPHA) for _ in range(JOBS)]


@asynccontextmanager
async def simulated() -> AsyncIterator[tuple[Program, list[str]]]:
    """Run the workers; yields their program, which takes signals, and their URLs."""
    with TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "bench.support.simworker", str(WORKERS), str(CORES)]
        async with Program(argv, Path(folder) / "simworker.log") as program:
            await eventually(lambda: "\n" in program.output, what="the simulated workers")
            yield program, json.loads(program.output)


@asynccontextmanager
async def routers(
    strategy: str, hosts: int, cap: int | None, folder: Path, workers: Sequence[str], **settings: object
) -> AsyncIterator[Sequence[int]]:
    """Run hosts of two processes each, over one Valkey; yields the hosts' ports."""
    async with Valkey(folder) as valkey, AsyncExitStack() as stack:
        system = System(folder, valkey.url)
        usual = {"default_max_concurrency": cap, "routing_strategy": strategy, "health_check_interval": CHECK_S}
        system.configure(workers, **usual, **settings)
        await stack.enter_async_context(system.sidecar())
        started = [await stack.enter_async_context(system.router(2)) for _ in range(hosts)]
        for host in started:
            await host.sees(await _living(workers))
        yield [host.port for host in started]


@asynccontextmanager
async def peers(
    config: configs.Config, name: str, hosts: int, folder: Path, workers: Sequence[str]
) -> AsyncIterator[Sequence[int]]:
    """Run so many of a peer, with one configuration; yields their ports."""
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(peer(config, name, folder, workers)) for _ in range(hosts)]
        yield [proxy.port for proxy in started]


def haproxies(hosts: int, maxconn: int) -> Setup:
    """Return so many HAProxies, each allowing `maxconn` jobs at once on each worker."""
    return partial(peers, partial(configs.haproxy, balance="leastconn", maxconn=maxconn), "haproxy", hosts)


def _message(work_s: float) -> bytes:
    limit_s = max(LEAST_LIMIT_S, LIMIT_FACTOR * work_s)
    job = {"language": "python", "code": "print(1)\n" * 100, "run_timeout": limit_s, "work": work_s}
    body = json.dumps(job).encode()
    lines = ("POST /run_code HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


async def send_all(ports: Sequence[int], messages: Sequence[bytes]) -> tuple[list[float], int]:
    """Send all jobs in order, as connections become free; return the response times and the number of errors."""
    from_first = int(CONNECTIONS * SHARE_OF_FIRST_HOST)
    left = iter(messages)
    seconds: list[float] = []
    errors = 0

    async def client(port: int) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for message in left:  # shared by all clients: each takes the next job
            start = time.monotonic()
            try:
                writer.write(message)
                is_right = await _is_right(reader)
            except (OSError, asyncio.IncompleteReadError):
                is_right = False
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            seconds.append(time.monotonic() - start)
            errors += not is_right
        writer.close()

    async with asyncio.timeout(RUN_WITHIN_S), asyncio.TaskGroup() as clients:
        for number in range(CONNECTIONS):
            clients.create_task(client(ports[0] if number < from_first else ports[-1]))
    return seconds, errors


async def _is_right(reader: asyncio.StreamReader) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    return head.startswith(b"http/1.1 200") and b"run_result" in body


async def measure(setup: Setup, program: Program, workers: Sequence[str], course: Course) -> Run:
    """Run all jobs through one set-up, started for this alone; `program` runs the workers."""
    jobs = works()
    messages = [_message(work_s) for work_s in jobs]
    await forget_stats(workers)
    if course.before:
        program.send(course.before)
    with TemporaryDirectory() as folder:
        async with setup(Path(folder), workers) as ports:
            # A router whose Redis begins empty first learns what runs; that is no part of what is measured.
            await send_all(ports, [_message(SHORTEST_S)] * CONNECTIONS)
            await forget_stats(workers)
            start, start_cpu = time.monotonic(), time.process_time()
            if course.then:
                asyncio.get_running_loop().call_later(EVENT_S, program.send, course.then)
            seconds, errors = await send_all(ports, messages)
            total_s, cpu_s = time.monotonic() - start, time.process_time() - start_cpu
    program.send(RECOVER)
    await eventually(lambda: _all_live(workers), what="the worker's recovery")
    stats = [await get_json(f"{url}/stats") for url in workers]
    return Run(
        over_ideal=total_s / course.ideal_s(jobs),
        total_s=total_s,
        p50_s=percentile(seconds, 50),
        p99_s=percentile(seconds, 99),
        most_at_once=max(int(str(each["most_at_once"])) for each in stats),
        false_time_limits=sum(int(str(each["false_time_limits"])) for each in stats),
        errors=errors,
        client_cpu=cpu_s / total_s,
    )


def typical(runs: Iterable[Run], field: str) -> float:
    """Return the median of a field over the rounds."""
    return statistics.median(float(getattr(run, field)) for run in runs)


async def alternate(
    setups: Mapping[str, Setup], courses: Iterable[str], rounds: int
) -> dict[str, dict[str, list[Run]]]:
    """Measure all set-ups in each round, in another order each time; by course, then set-up."""
    runs: dict[str, dict[str, list[Run]]] = {title: {name: [] for name in setups} for title in courses}
    names = list(setups)
    async with simulated() as (program, workers):
        for number in range(rounds):
            turn = number % len(names)
            for title, by_setup in runs.items():
                for name in names[turn:] + names[:turn]:
                    by_setup[name].append(await measure(setups[name], program, workers, COURSES[title]))
    return runs


async def forget_stats(workers: Sequence[str]) -> None:
    """Have each worker count anew, and forget its log."""
    async with aiohttp.ClientSession() as session:
        for url in workers:
            with suppress(aiohttp.ClientConnectionError):  # one that is to be added
                await session.delete(f"{url}/stats")


async def _living(workers: Sequence[str]) -> int:
    living = 0
    for url in workers:
        with suppress(aiohttp.ClientConnectionError):
            await get_json(f"{url}/stats")
            living += 1
    return living


async def _all_live(workers: Sequence[str]) -> bool:
    return await _living(workers) == len(workers)
