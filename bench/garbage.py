"""Measures whether a router process leaks: its memory and its open files over millions of requests.

A turn has three loads of wrk: kept connections, a new connection for each job, and large answers. After each turn, when
all clients have left, the program reads the process' memory and open files. The first tenth of the requests is warm-up.

`python -m bench.garbage [MILLIONS]`; the default is 2 million.
"""

import asyncio
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.support.constworker import constant_workers
from bench.support.load import Load, send
from bench.support.meter import open_files, resident_mb
from bench.support.report import save, show
from tests.support.programs import System, Valkey, children_of

DEFAULT_MILLIONS = 2.0
WARM_UP, MIDDLE = 0.1, 0.55
WORKERS = 3
# The loads of a turn, and how many seconds each lasts. The large answers exceed what the router holds, so they stream.
TURN = ((Load(64), 10.0), (Load(64, reconnects=True), 3.0), (Load(8, answer_bytes=2_000_000), 1.0))
# After this pause the last jobs have ended, and their connections are closed.
PAUSE_S = 1.0
ROWS = 10


@dataclass(frozen=True)
class Look:
    """What the process holds after `requests` requests."""

    requests: int
    resident_mb: float
    files: int


async def watch(requests: int) -> tuple[list[Look], int]:
    """Send `requests` requests through one router process. Returns a look after each turn, and the number of errors."""
    looks: list[Look] = []
    sent = errors = 0
    with TemporaryDirectory() as name:
        folder = Path(name)
        async with Valkey(folder) as valkey, constant_workers(WORKERS, folder) as workers:
            system = System(folder, valkey.url)
            system.configure(workers)
            async with system.sidecar(), system.router(1) as router:
                await router.sees(WORKERS)
                (pid,) = children_of(router.pid)
                while sent < requests:
                    for load, seconds in TURN:
                        outcome = await send(load, router.port, seconds)
                        sent += outcome.requests
                        errors += outcome.errors
                    await asyncio.sleep(PAUSE_S)
                    looks.append(Look(sent, resident_mb(pid), open_files(pid)))
    return looks, errors


def report(looks: list[Look], errors: int) -> None:
    """Print some looks and the least memory of each half after the warm-up. Write all looks.

    The least counts, because memory rises until the garbage collector or the allocator gives some back.
    """
    total = looks[-1].requests
    columns = ["after so many requests", "resident MB", "open files"]
    rows = [[f"{look.requests:,}", look.resident_mb, look.files] for look in looks[:: max(1, len(looks) // ROWS)]]
    show(columns, rows)
    for name, start, end in (("first", WARM_UP, MIDDLE), ("second", MIDDLE, 1.0)):
        half = [look for look in looks if start <= look.requests / total <= end]
        least_mb, files = min(look.resident_mb for look in half), min(look.files for look in half)
        print(f"The {name} half, least: {least_mb:.1f} MB, {files} files.")
    print(f"Errors: {errors}.")
    save("garbage", errors=errors, looks=[asdict(look) for look in looks])


if __name__ == "__main__":
    millions = float(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_MILLIONS
    report(*asyncio.run(watch(int(millions * 1e6))))
