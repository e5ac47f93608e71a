"""What caps cost, and whether they hold: two hosts' routers before 8 workers of 4 cores, against HAProxy.

1,200 heavy-tailed jobs come over 200 kept-alive connections (a closed loop), 60 % of them to the first host, each
worker to run 4 jobs at once at most. Measured for each set-up, in turn within each round: total time over the ideal
(all cores busy to the end, or the longest job), response times, the most jobs at once on any worker, false time limits
(jobs that other jobs made late) and errors.

`python -m bench.caps [ROUNDS]`
"""

import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from bench import configs
from bench.proxies import peer
from bench.report import percentile, save, show
from tests.programs import Program, System, Valkey, get_json
from tests.waiting import eventually

WORKERS, CORES = 8, 4
JOBS, CONNECTIONS, SHARE_OF_FIRST_HOST = 1200, 200, 0.6
# Bounded Pareto, as run times of generated programs are: most take no time, few take most of it. The sum is 3 to 4 s on
# all cores, so that a round of all set-ups takes about half a minute.
ALPHA, SHORTEST_S, LONGEST_S = 1.1, 0.02, 3.0
SEED = 1
# As tests' authors set limits: some room over what the program takes, and no less than a second. Alone, each job is
# well in time; at 8 at once on 4 cores, one of over half a second is not.
LIMIT_FACTOR, LEAST_LIMIT_S = 1.5, 1.0
# Twice what the worst set-up takes.
RUN_WITHIN_S = 60.0
DEFAULT_ROUNDS = 5
# The client shares the cores with what it measures; over this it may be the limit itself.
CLIENT_LIMIT = 0.5

Setup = Callable[[Path, Sequence[str]], AbstractAsyncContextManager[Sequence[int]]]


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
async def routers(strategy: str, folder: Path, workers: Sequence[str]) -> AsyncIterator[Sequence[int]]:
    """Two hosts of two processes each, over one Valkey; yields the hosts' ports."""
    async with Valkey(folder) as valkey:
        system = System(folder, valkey.url)
        fleet = [{"url": url, "max_concurrency": CORES} for url in workers]
        system.configure(fleet, routing_strategy=strategy, health_check_interval=5.0)
        async with system.sidecar(), system.router(2) as first, system.router(2) as second:
            await asyncio.gather(first.sees(len(workers)), second.sees(len(workers)))
            yield first.port, second.port


@asynccontextmanager
async def haproxies(hosts: int, maxconn: int, folder: Path, workers: Sequence[str]) -> AsyncIterator[Sequence[int]]:
    """So many HAProxies, each allowing `maxconn` jobs at once on each worker; yields their ports."""
    config = partial(configs.haproxy, balance="leastconn", maxconn=maxconn)
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(peer(config, "haproxy", folder, workers)) for _ in range(hosts)]
        yield [proxy.port for proxy in started]


SETUPS: dict[str, Setup] = {
    "router, round_robin, 2 hosts": partial(routers, "round_robin"),
    "router, least_loaded, 2 hosts": partial(routers, "least_loaded"),
    "one HAProxy, maxconn 4": partial(haproxies, 1, 4),
    "two HAProxies, maxconn 4 each": partial(haproxies, 2, 4),
    "two HAProxies, maxconn 2 each": partial(haproxies, 2, 2),
}
REFERENCE = "one HAProxy, maxconn 4"


def _message(work_s: float) -> bytes:
    limit_s = max(LEAST_LIMIT_S, LIMIT_FACTOR * work_s)
    job = {"language": "python", "code": "print(1)\n" * 100, "run_timeout": limit_s, "work": work_s}
    body = json.dumps(job).encode()
    lines = ("POST /run_code HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


async def send_all(ports: Sequence[int], messages: Sequence[bytes]) -> tuple[list[float], int]:
    """Send all jobs in order, as connections become free; return the response times and the number of errors."""
    from_first = int(CONNECTIONS * SHARE_OF_FIRST_HOST)
    targets = [ports[0] if number < from_first else ports[-1] for number in range(CONNECTIONS)]
    opened = [await asyncio.open_connection("127.0.0.1", port) for port in targets]
    left = iter(messages)
    seconds: list[float] = []
    errors = 0

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal errors
        for message in left:  # shared by all clients: each takes the next job
            start = time.monotonic()
            writer.write(message)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            seconds.append(time.monotonic() - start)
            errors += not (head.startswith(b"http/1.1 200") and b"run_result" in body)

    try:
        async with asyncio.timeout(RUN_WITHIN_S), asyncio.TaskGroup() as clients:
            for reader, writer in opened:
                clients.create_task(client(reader, writer))
    finally:
        for _, writer in opened:
            writer.close()
    return seconds, errors


async def measure(setup: Setup, workers: Sequence[str]) -> Run:
    """Run all jobs through one set-up, started for this alone."""
    jobs = works()
    messages = [_message(work_s) for work_s in jobs]
    ideal_s = max(sum(jobs) / (WORKERS * CORES), *jobs)
    with TemporaryDirectory() as folder:
        async with setup(Path(folder), workers) as ports, aiohttp.ClientSession() as session:
            # A router whose Redis begins empty first learns what runs; that is no part of what is measured.
            await send_all(ports, [_message(SHORTEST_S)] * CONNECTIONS)
            for url in workers:
                await session.delete(f"{url}/stats")
            start, start_cpu = time.monotonic(), time.process_time()
            seconds, errors = await send_all(ports, messages)
            total_s, cpu_s = time.monotonic() - start, time.process_time() - start_cpu
            stats = [await get_json(f"{url}/stats") for url in workers]
    return Run(
        over_ideal=total_s / ideal_s,
        total_s=total_s,
        p50_s=percentile(seconds, 50),
        p99_s=percentile(seconds, 99),
        most_at_once=max(int(str(each["most_at_once"])) for each in stats),
        false_time_limits=sum(int(str(each["false_time_limits"])) for each in stats),
        errors=errors,
        client_cpu=cpu_s / total_s,
    )


def report(runs: dict[str, list[Run]]) -> None:
    """Print medians over the rounds (of counts: the worst round), and write all rounds to the file."""
    reference = statistics.median(run.total_s for run in runs[REFERENCE])
    rows = [
        [
            name,
            statistics.median(run.over_ideal for run in of),
            f"{statistics.median(run.total_s for run in of) / reference:.3f}",
            statistics.median(run.p50_s for run in of),
            statistics.median(run.p99_s for run in of),
            max(run.most_at_once for run in of),
            max(run.false_time_limits for run in of),
            max(run.errors for run in of),
        ]
        for name, of in runs.items()
    ]
    columns = ["in front", "time / ideal", "/ one HAProxy", "p50 s", "p99 s", "most at once", "false limits", "errors"]
    show(columns, rows)
    client_cpu = max(run.client_cpu for of in runs.values() for run in of)
    verdict = "it may be the limit" if client_cpu > CLIENT_LIMIT else "it is not the limit"
    print(f"\nThe client took at most {client_cpu:.0%} of a core: {verdict}.")
    jobs = works()
    save(
        "caps",
        ideal_s=max(sum(jobs) / (WORKERS * CORES), *jobs),
        total_work_s=sum(jobs),
        longest_s=max(jobs),
        rounds={name: [asdict(run) for run in of] for name, of in runs.items()},
    )


async def main(rounds: int) -> None:
    """Measure all set-ups in each round, in another order each time."""
    runs: dict[str, list[Run]] = {name: [] for name in SETUPS}
    with TemporaryDirectory() as folder:
        log = Path(folder) / "simworker.log"
        argv = [sys.executable, "-m", "bench.simworker", str(WORKERS), str(CORES)]
        async with Program(argv, log) as simulated:
            await eventually(lambda: "\n" in simulated.output, what="the simulated workers")
            workers: list[str] = json.loads(simulated.output)
            names = list(SETUPS)
            for number in range(rounds):
                turn = number % len(names)
                for name in names[turn:] + names[:turn]:
                    runs[name].append(await measure(SETUPS[name], workers))
    report(runs)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS))
