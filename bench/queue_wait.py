"""Measures the memory of 10,000 pending jobs, and how soon a grant by another process' call reaches its job.

The giver process holds all slots. The taker process has the pending jobs. The giver ends leases one by one, and then in
bursts. Each ended lease goes to the head of the queue, through the taker's grant list. The delay counts from the moment
at which the giver ends a lease, before it sends its call, to the moment at which the job in the taker has its lease.

Memory is that of one pending job in Redis and in the taker. In the taker it is the lease, the watch over the client and
one task. The job's body and its connection are not included.

`python -m bench.queue_wait`
"""

import asyncio
import json
import os
import sys
import time
from collections import defaultdict
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from bench.support.fleet import urls, write_fleet
from bench.support.leaseload import never, start_leases
from bench.support.report import percentile, save, show
from router.fleet.model import Worker
from router.policy.verdict import Blame
from router.scheduling.leases import Leases
from router.scheduling.pending import Lease
from tests.support.eventually import eventually, leased
from tests.support.programs import Program, Valkey

WAITING = 10_000
# The slots that the giver holds and hands on: enough for a p99, and no more than a busy process has.
WORKERS, CAP = 250, 4
GRANTS = WORKERS * CAP
# Two thirds are handed on one by one, the rest in bursts, as when a worker of 16 slots joins.
SINGLES, PAUSE_S = 680, 0.005
BURST, BURST_PAUSE_S = 16, 0.1
# How many jobs come at once while the queue is filled, as from a client that starts a batch.
CALL = 100
BOUND_S, WAIT_S = 300.0, 300.0
WITHIN_S = 60.0


# The taker: a process of its own


async def wait(redis_url: str) -> None:
    """Put all jobs in the queue and print their memory. When all grants have come, print them."""
    leases, running = await start_leases(redis_url, "taker")
    grants: list[tuple[int, str, float]] = []
    all_in = asyncio.Event()

    async def job() -> None:
        lease = await leased(leases, BOUND_S, WAIT_S, never)
        grants.append((lease.ticket, lease.url, time.monotonic()))
        if len(grants) == GRANTS:
            all_in.set()

    before = _resident_bytes()
    jobs = set()
    for _ in range((WAITING + GRANTS) // CALL):
        jobs |= {asyncio.create_task(job()) for _ in range(CALL)}
        await asyncio.sleep(0)
        await leases.flush()
    print(json.dumps({"resident_bytes": _resident_bytes() - before}), flush=True)
    await all_in.wait()
    print(json.dumps(grants), flush=True)
    for task in (*jobs, *running):
        task.cancel()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# The giver: this process


async def take_all_slots(leases: Leases) -> list[Lease]:
    """Return leases on all slots, ordered so that each worker comes once before any comes a second time."""
    taken = await asyncio.gather(*(leased(leases, BOUND_S, WAIT_S, never) for _ in range(GRANTS)))
    return sorted(taken, key=lambda lease: lease.ticket)


async def give(leases: Leases, taken: list[Lease]) -> dict[str, list[tuple[float, bool]]]:
    """End all leases. Returns, by worker, the moment of each end and whether it was one by one."""
    ended: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for place, lease in enumerate(taken):
        is_single = place < SINGLES
        ended[lease.url].append((time.monotonic(), is_single))
        leases.end(lease, Blame.OK)
        if is_single:
            await asyncio.sleep(PAUSE_S)
        elif (place - SINGLES) % BURST == BURST - 1:
            await asyncio.sleep(BURST_PAUSE_S)
    return ended


async def used_memory(client: Any) -> int:
    """Return the bytes that Redis' data takes."""
    info = await client.info("memory")
    return int(info["used_memory"])


def show_and_save(redis_bytes: int, resident_bytes: int, delays: dict[str, list[float]], overtaken: int) -> None:
    """Print and write the results."""
    count = WAITING + GRANTS
    print(f"{count} jobs pending")
    print(f"  Redis           {redis_bytes / count:6.0f} bytes a job")
    print(f"  router process  {resident_bytes / count:6.0f} bytes a job; body and connection come on top")
    print(f"  {overtaken} of {GRANTS} grants came after that of a later ticket\n")
    rows = [
        [name, len(of), percentile(of, 50) * 1e3, percentile(of, 99) * 1e3, max(of) * 1e3]
        for name, of in delays.items()
    ]
    show([f"delivery of grants while {WAITING} jobs are pending", "grants", "p50 ms", "p99 ms", "max ms"], rows)
    save(
        "waiting",
        waiting=count,
        redis_bytes_a_job=redis_bytes / count,
        process_bytes_a_job=resident_bytes / count,
        overtaken=overtaken,
        delays_ms={name: [round(delay * 1e3, 3) for delay in of] for name, of in delays.items()},
    )


async def main() -> None:
    """Fill all slots and then the queue, and hand the slots on."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        async with Valkey(folder) as valkey, valkey.client() as client:
            await write_fleet(valkey.url, [Worker(url, max_concurrency=CAP) for url in urls(WORKERS)])
            leases, running = await start_leases(valkey.url, "giver")
            taken = await take_all_slots(leases)
            before = await used_memory(client)
            argv = [sys.executable, "-m", "bench.queue_wait", "wait", valkey.url]
            async with Program(argv, folder / "taker.log") as taker:
                await eventually(lambda: taker.output.count("\n") >= 1, WITHIN_S, "the queue")
                assert await client.zcard("sfr:queue") == WAITING + GRANTS, taker.output
                redis_bytes = await used_memory(client) - before
                ended = await give(leases, taken)
                await eventually(lambda: taker.output.count("\n") >= 2, WITHIN_S, "all grants")
                told = [json.loads(line) for line in taker.output.splitlines()]
            for task in running:
                task.cancel()
    grants: list[tuple[int, str, float]] = told[1]
    tickets = [ticket for ticket, _, _ in grants]
    overtaken = sum(ticket < latest for ticket, latest in zip(tickets, accumulate(tickets, max), strict=True))
    delays: dict[str, list[float]] = {"one by one": [], f"in bursts of {BURST}": []}
    singles, bursts = delays.values()
    for _, url, moment in grants:  # a worker's grants come in the order in which its leases ended
        start, is_single = ended[url].pop(0)
        (singles if is_single else bursts).append(moment - start)
    show_and_save(redis_bytes, told[0]["resident_bytes"], delays, overtaken)


if __name__ == "__main__":
    uvloop.run(wait(sys.argv[2]) if sys.argv[1:2] == ["wait"] else main())
