"""Measures how evenly clients' connections spread over gunicorn's processes, which share one listening socket.

Each process counts the connections that it accepts. wrk keeps connections open, or opens a new one for each job. The
result is the largest share divided by the fair share: 1 is even, and with 2 processes 2 means that one has all.

`python -m bench.connection_balance [ROUNDS]`
"""

import asyncio
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.support.constworker import constant_workers
from bench.support.counting import accepted, environment
from bench.support.load import Load, send
from bench.support.report import save, show
from tests.support.programs import System, Valkey

DEFAULT_ROUNDS = 5
LOAD_S = 1.0
WORKERS = 3
PROCESSES = (2, 4)
LOADS = {
    "64 at once, new connection each": Load(64, reconnects=True),
    "64 connections": Load(64),
    "256 connections": Load(256),
}


async def measure(processes: int, rounds: int, folder: Path) -> dict[str, list[list[int]]]:
    """Return, by load, the connections of each process in each round."""
    counts = folder / "counts"
    counts.mkdir()
    found: dict[str, list[list[int]]] = {title: [] for title in LOADS}
    async with Valkey(folder) as valkey, constant_workers(WORKERS, folder) as workers:
        system = System(folder, valkey.url)
        system.env |= environment(counts)
        system.configure(workers)
        async with system.sidecar(), system.router(processes) as router:
            await router.sees(WORKERS)
            for _ in range(rounds):
                for title, load in LOADS.items():
                    await router.health()  # is accepted after all connections of the load before
                    before = [accepted(counts, pid) for pid in router.children()]
                    await send(load, router.port, LOAD_S)
                    after = [accepted(counts, pid) for pid in router.children()]
                    found[title].append([late - early for early, late in zip(before, after, strict=True)])
    return found


def unevenness(counts: list[int]) -> float:
    """Return the largest share divided by the fair share.

    >>> unevenness([10, 10]), unevenness([30, 10])
    (1.0, 1.5)
    """
    return max(counts) * len(counts) / sum(counts)


async def main(rounds: int) -> None:
    """Measure all loads, print a table, and write the file."""
    found: dict[str, list[list[int]]] = {}
    for processes in PROCESSES:
        with TemporaryDirectory() as folder:
            by_load = await measure(processes, rounds, Path(folder))
        found |= {f"{processes} processes, {title}": of for title, of in by_load.items()}
    rows = [
        [title, statistics.median(map(unevenness, of)), max(map(unevenness, of)), statistics.median(map(sum, of))]
        for title, of in found.items()
    ]
    show(["connections", "largest / fair share", "worst round", "how many"], rows)
    save("evenness", connections=found)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS))
