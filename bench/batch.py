"""Sends a batch of jobs through a set-up of proxies to simulated workers, and counts what comes back.

Most jobs are short and a few are long. They go over kept connections to the hosts in front of the workers, where a
connection sends its next job when it has the answer; or as one request. During the batch a worker may die, be slow, or
join. A router may have seen the same jobs before, in an earlier epoch, when they took another time.
"""

import asyncio
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
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
# A bounded Pareto distribution, as for run times of generated programs: most take almost no time, a few take most of
# it. The sum is a few seconds on all cores, so that a round stays short.
ALPHA, SHORTEST_S, LONGEST_S = 1.1, 0.02, 3.0
# In an earlier epoch each job took up to so many times as long, or as short: its code was another one.
NOISE = 3.0
# As authors of tests set limits: somewhat more than the program takes, and at least a second. A job alone on a worker
# is always in time. If 8 jobs run at once on 4 cores, a job of over half a second is late.
LIMIT_FACTOR, LEAST_LIMIT_S = 1.5, 1.0
# How long what a router has learned takes to be seen by all its processes.
LEARNED_WITHIN_S = 3.0
# Twice as long as the slowest set-up takes.
RUN_WITHIN_S = 60.0
# How often health is checked, by this router and by the peers that check.
CHECK_S = 5.0
# When in the batch the scenario's event happens.
EVENT_S = 1.0

Setup = Callable[[Path, Sequence[str]], AbstractAsyncContextManager[Sequence[int]]]
# Sends all jobs to these ports, and calls back the moment before it sends the first one. Returns the response times and
# the number of errors.
Sender = Callable[[Sequence[int], Sequence[bytes], Callable[[], None]], Awaitable[tuple[list[float], int]]]


@dataclass(frozen=True)
class Scenario:
    """Signals to the first worker: `before` the set-up starts, and `then`, EVENT_S after the batch starts.

    The workers have `cores_before` cores together until that moment, and `cores` after it.
    """

    before: Signals | None = None
    then: Signals | None = None
    cores_before: float = WORKERS * CORES
    cores: float = WORKERS * CORES

    def ideal_s(self, works: Sequence[float]) -> float:
        """Return the shortest possible time of the batch: all cores are busy to the end, or the longest job runs.

        >>> Scenario().ideal_s([64.0] * 2), Scenario(cores_before=32, cores=31).ideal_s([1.0] * 63)
        (64.0, 2.0)
        """
        left = sum(works) - EVENT_S * self.cores_before
        return max(EVENT_S + left / self.cores, *works)


SCENARIOS = {
    "all alike": Scenario(),
    "one three times slower": Scenario(
        before=SLOW,
        cores_before=(WORKERS - 1 + SLOW_SPEED) * CORES,
        cores=(WORKERS - 1 + SLOW_SPEED) * CORES,
    ),
    "one dies": Scenario(then=DIE, cores=(WORKERS - 1) * CORES),
    "one is added": Scenario(before=DIE, then=RECOVER, cores_before=(WORKERS - 1) * CORES),
}


@dataclass(frozen=True)
class Run:
    """What one set-up did in one round."""

    over_ideal: float
    total_s: float
    p50_s: float
    p99_s: float
    most_at_once: int
    false_time_limits: int
    errors: int
    client_cpu: float
    extra_runs: float = 0.0
    """more attempts than jobs, as a share of the jobs"""


@dataclass(frozen=True)
class Way:
    """A set-up and how the batch is sent to it. `is_known`: it has run the jobs before, in an earlier epoch."""

    setup: Setup
    send: Sender
    is_known: bool = False


def works(seed: int = 1) -> list[float]:
    """Return each job's CPU-seconds, the same for the same seed."""
    draw = random.Random(seed)
    share_below = 1 - (SHORTEST_S / LONGEST_S) ** ALPHA
    return [SHORTEST_S / (1 - draw.random() * share_below) ** (1 / ALPHA) for _ in range(JOBS)]


def earlier(works: Sequence[float], seed: int) -> list[float]:
    """Return what the jobs took in an earlier epoch."""
    draw = random.Random(-seed)
    return [min(LONGEST_S, work_s * NOISE ** draw.uniform(-1, 1)) for work_s in works]


@asynccontextmanager
async def simulated() -> AsyncIterator[tuple[Program, list[str]]]:
    """Run the simulated workers. Yields their program, to which signals can be sent, and their URLs."""
    with TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "bench.support.simworker", str(WORKERS), str(CORES)]
        async with Program(argv, Path(folder) / "simworker.log") as program:
            await eventually(lambda: "\n" in program.output, what="the simulated workers")
            yield program, json.loads(program.output)


@asynccontextmanager
async def routers(
    strategy: str, hosts: int, cap: int | None, folder: Path, workers: Sequence[str], **settings: object
) -> AsyncIterator[Sequence[int]]:
    """Run hosts of two router processes each, with one Valkey. Yields the hosts' ports."""
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
    """Run `hosts` processes of the peer `name` with one configuration. Yields their ports."""
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(peer(config, name, folder, workers)) for _ in range(hosts)]
        yield [proxy.port for proxy in started]


def haproxies(hosts: int, maxconn: int) -> Setup:
    """Return a set-up of `hosts` HAProxies. Each allows `maxconn` jobs at once on each worker."""
    return partial(peers, partial(configs.haproxy, balance="leastconn", maxconn=maxconn), "haproxy", hosts)


def _job(number: int, work_s: float) -> bytes:
    limit_s = max(LEAST_LIMIT_S, LIMIT_FACTOR * work_s)
    job = {"language": "python", "code": "print(1)\n" * 100, "stdin": f"case {number}"}
    return json.dumps({**job, "run_timeout": limit_s, "work": work_s}).encode()


def _message(body: bytes) -> bytes:
    lines = ("POST /run_code HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


async def send_all(
    ports: Sequence[int], jobs: Sequence[bytes], begin: Callable[[], None], connections: int = CONNECTIONS
) -> tuple[list[float], int]:
    """Send all jobs in order over connections that are open by then, as these become free."""
    from_first = int(connections * SHARE_OF_FIRST_HOST)
    left = iter([_message(job) for job in jobs])
    seconds: list[float] = []
    errors = 0
    are_open = asyncio.Barrier(connections)

    async def client(port: int) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if await are_open.wait() == 0:
            begin()
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
        for number in range(connections):
            clients.create_task(client(ports[0] if number < from_first else ports[-1]))
    return seconds, errors


async def send_at_once(
    ports: Sequence[int], jobs: Sequence[bytes], begin: Callable[[], None]
) -> tuple[list[float], int]:
    """Send each job over a connection of its own, all at once."""
    return await send_all(ports, jobs, begin, len(jobs))


async def send_batch(ports: Sequence[int], jobs: Sequence[bytes], begin: Callable[[], None]) -> tuple[list[float], int]:
    """Send all jobs to the first host, as one batch that goes longest first."""
    begin()
    seconds: list[float] = []
    errors, start = 0, time.monotonic()
    url = f"http://127.0.0.1:{ports[0]}/run_code/batch?order=longest_first"
    async with aiohttp.ClientSession(read_bufsize=2**20) as session, session.post(url, data=b"\n".join(jobs)) as answer:
        async for line in answer.content:
            seconds.append(time.monotonic() - start)
            errors += b'"status":200' not in line or b"run_result" not in line
    return seconds, errors + len(jobs) - len(seconds)


async def _is_right(reader: asyncio.StreamReader) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    return head.startswith(b"http/1.1 200") and b"run_result" in body


class _Clock:
    """Measures a batch from its first job on, and lets the scenario's event happen in it."""

    def __init__(self, program: Program, scenario: Scenario) -> None:
        self._program = program
        self._scenario = scenario
        self._since = self._cpu_since = 0.0

    def start(self) -> None:
        """Take note that the first job is being sent."""
        self._since, self._cpu_since = time.monotonic(), time.process_time()
        if self._scenario.then:
            asyncio.get_running_loop().call_later(EVENT_S, self._program.send, self._scenario.then)

    def stop(self) -> tuple[float, float]:
        """Return the seconds since the start, and the client's CPU-seconds."""
        return time.monotonic() - self._since, time.process_time() - self._cpu_since


def _nothing() -> None:
    """Do nothing when a batch begins that is not measured."""


async def measure(way: Way, program: Program, workers: Sequence[str], scenario: Scenario, seed: int) -> Run:
    """Start one set-up and send all jobs through it. `program` runs the workers."""
    jobs = works(seed)
    bodies = list(map(_job, itertools.count(), jobs))
    await forget_stats(workers)
    if scenario.before:
        program.send(scenario.before)
    with TemporaryDirectory() as folder:
        async with way.setup(Path(folder), workers) as ports:
            # With an empty Redis, the router gives no lease for some seconds. Do not measure that time.
            await send_all(ports, [_job(-1, SHORTEST_S)] * CONNECTIONS, _nothing)
            if way.is_known:
                await way.send(ports, list(map(_job, itertools.count(), earlier(jobs, seed))), _nothing)
                await asyncio.sleep(LEARNED_WITHIN_S)
            await forget_stats(workers)
            clock = _Clock(program, scenario)
            seconds, errors = await way.send(ports, bodies, clock.start)
            total_s, cpu_s = clock.stop()
    program.send(RECOVER)
    await eventually(lambda: _all_live(workers), what="the worker's recovery")
    stats = [await get_json(f"{url}/stats") for url in workers]
    return Run(
        over_ideal=total_s / scenario.ideal_s(jobs),
        total_s=total_s,
        p50_s=percentile(seconds, 50),
        p99_s=percentile(seconds, 99),
        most_at_once=max(int(str(each["most_at_once"])) for each in stats),
        false_time_limits=sum(int(str(each["false_time_limits"])) for each in stats),
        errors=errors,
        client_cpu=cpu_s / total_s,
        extra_runs=sum(int(str(each["jobs"])) for each in stats) / len(jobs) - 1,
    )


def typical(runs: Iterable[Run], field: str) -> float:
    """Return the median of a field over the rounds."""
    return statistics.median(float(getattr(run, field)) for run in runs)


async def alternate(ways: Mapping[str, Way], scenarios: Iterable[str], rounds: int) -> dict[str, dict[str, list[Run]]]:
    """Measure all ways in each round, in another order each time. Returns the runs by scenario, then by way.

    Each round has jobs of its own.
    """
    runs: dict[str, dict[str, list[Run]]] = {title: {name: [] for name in ways} for title in scenarios}
    names = list(ways)
    async with simulated() as (program, workers):
        for number in range(rounds):
            turn = number % len(names)
            for title, by_setup in runs.items():
                for name in names[turn:] + names[:turn]:
                    by_setup[name].append(await measure(ways[name], program, workers, SCENARIOS[title], number + 1))
    return runs


async def forget_stats(workers: Sequence[str]) -> None:
    """Reset the counts and the log of each worker."""
    async with aiohttp.ClientSession() as session:
        for url in workers:
            with suppress(aiohttp.ClientConnectionError):  # a worker that joins later
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
