"""Measures what a watched dashboard costs: CPU of the router and of Redis, and the browser's time for each frame.

The fleets have 3 and 1,000 workers, and jobs end on every worker each second (bench/support/busyfleet.py). The cost of
watchers is the CPU with them minus the CPU without them, measured in turn within each round. Watchers read what they
get and drop it. The browser is Chromium, headless and without a GPU, on the same machine.

`python -m bench.dashboard_feed [ROUNDS]` writes bench/results/dashboard.json and the table in docs/speed.md.
"""

import asyncio
import json
import statistics
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.support.busyfleet import busy_fleet
from bench.support.meter import cpu_s, tree
from bench.support.report import RESULTS, percentile, save
from bench.support.table import put
from tests.support.browser import FRAMES, chromium
from tests.support.programs import ROOT, Router, System, Valkey

FLEETS = (3, 1000)
WATCHERS = (0, 1, 10)
DEFAULT_ROUNDS = 5
ROUND_S, FRAMES_S = 8.0, 20.0
SETTLE_S = 2.0
LEAST_MS = 0.5  # clock ticks are too coarse to measure less
PAGE = ROOT / "docs" / "speed.md"
FILE = RESULTS / "dashboard.json"

Numbers = dict[str, float]


@asynccontextmanager
async def watching(router: Router, count: int) -> AsyncIterator[list[int]]:
    """Let `count` clients read the stream. Yields a list with one number: the bytes that all of them got so far."""
    received = [0]

    async def read() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", router.port, limit=2**22)
        writer.write(b"GET /dashboard/events HTTP/1.1\r\nhost: x\r\n\r\n")
        try:
            while part := await reader.read(2**20):
                received[0] += len(part)
        finally:
            writer.close()

    async with AsyncExitStack() as stack:
        for _ in range(count):
            stack.callback(asyncio.create_task(read()).cancel)
        await asyncio.sleep(SETTLE_S)
        yield received


async def spent(router: Router, valkey: Valkey, count: int) -> Numbers:
    """Return the CPU of the router and of Redis with `count` watchers, ms a second, and the kB a second for each."""
    async with watching(router, count) as received:
        had, of_router, of_redis = received[0], cpu_s(tree(router.pid)), cpu_s([valkey.pid])
        await asyncio.sleep(ROUND_S)
        return {
            "router_ms": (cpu_s(tree(router.pid)) - of_router) * 1000 / ROUND_S,
            "redis_ms": (cpu_s([valkey.pid]) - of_redis) * 1000 / ROUND_S,
            "kb": (received[0] - had) / 1000 / ROUND_S / max(1, count),
        }


async def frames(router: Router, workers: int, folder: Path) -> Numbers:
    """Return how many ms frames take while the page shows the fleet."""
    with chromium(folder) as browser:
        await browser.open(f"{router.url}/dashboard")
        await browser.shows(".chip.all", f"{workers:,}")
        await asyncio.sleep(SETTLE_S)
        taken = await browser.measure(FRAMES, FRAMES_S)
        assert await browser.complaints() == []
    return {"p50": statistics.median(taken), "p99": percentile(taken, 99), "longest": max(taken)}


async def measure(workers: int, rounds: int) -> dict[str, Any]:
    """Measure one fleet. Returns its rounds and its frames."""
    with TemporaryDirectory() as name, TemporaryDirectory() as profile:
        folder = Path(name)
        async with Valkey(folder) as valkey:
            system = System(folder, valkey.url)
            system.configure([])
            async with busy_fleet(valkey.url, workers), system.router(1) as router:
                await router.sees_redis("available")
                costs = [{str(count): await spent(router, valkey, count) for count in WATCHERS} for _ in range(rounds)]
                return {"rounds": costs, "frames": await frames(router, workers, Path(profile))}


def more(rounds: Sequence[Mapping[str, Numbers]], field: str, than: int, watchers: int) -> str:
    """Return the cost of one more watcher, between `than` and `watchers` of them: the rounds' median, as text."""
    found = statistics.median(each[str(watchers)][field] - each[str(than)][field] for each in rounds)
    ms = found / (watchers - than)
    return f"{ms:.1f} ms" if ms >= LEAST_MS else f"under {LEAST_MS} ms"


def table(results: Mapping[str, Any]) -> str:
    """Return the table for docs/speed.md."""
    none, one, ten = WATCHERS
    rows = []
    for name, of in results.items():
        rounds, taken = of["rounds"], of["frames"]
        kb = statistics.median(each[str(one)]["kb"] for each in rounds)
        rows.append(
            f"| {name} | {more(rounds, 'router_ms', none, one)} | {more(rounds, 'router_ms', one, ten)} "
            f"| {more(rounds, 'redis_ms', none, one)} | {kb:.1f} kB "
            f"| {taken['p50']:.1f} / {taken['p99']:.1f} / {taken['longest']:.1f} ms |"
        )
    head = (
        "| a second, with | router, first watcher | each more | Redis | sent to each | frames: p50 / p99 / longest |",
        "|---|---|---|---|---|---|",
    )
    return "\n".join((*head, *rows))


async def main(rounds: int) -> None:
    """Measure, print and save."""
    results = {f"{workers:,} workers": await measure(workers, rounds) for workers in FLEETS}
    save("dashboard", results=results)
    PAGE.write_text(put(table(json.loads(FILE.read_text())["results"]), PAGE.read_text(), "bench.dashboard_feed"))
    print(table(results))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS))
