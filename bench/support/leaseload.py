"""One router process as Redis sees it: `Leases` without HTTP.

`python -m bench.support.leaseload REDIS_URL IN_FLIGHT HOLD_S` keeps IN_FLIGHT jobs under way until it is killed. Each
job takes a lease, holds it for about HOLD_S seconds, and ends it.
"""

import asyncio
import gc
import os
import random
import sys

import uvloop

from router.config.settings import RedisSettings
from router.fleet.redis_client import RedisClient
from router.fleet.snapshot import FleetView
from router.policy.verdict import Blame
from router.scheduling.failover import FailoverScheduler
from router.scheduling.inbox import Inbox
from router.scheduling.leases import Leases
from router.scheduling.messages import Rules
from router.telemetry.recorder import Recorder
from tests.support.eventually import leased

# The benchmark measures Redis, so a process must not go on without Redis because a call takes long.
PATIENCE_S = 10.0
BOUND_S, WAIT_S = 30.0, 60.0
# More pending jobs than any benchmark has.
RULES = Rules(max_waiting=100_000)


async def never() -> None:
    """Wait for ever, as for a client that never hangs up."""
    await asyncio.Event().wait()


async def start_leases(redis_url: str, process: str) -> tuple[Leases, list[asyncio.Task[None]]]:
    """Return this process' leases, built as in the router, and the tasks that keep them alive."""
    redis = RedisClient.connect(RedisSettings(url=redis_url), PATIENCE_S)
    view = FleetView(redis, ())
    recorder = Recorder()
    leases = Leases(FailoverScheduler(redis, view, RULES, 1, recorder), Inbox(redis, process), view, process, recorder)
    await view.refresh()
    gc.collect()
    gc.freeze()
    return leases, [asyncio.create_task(view.run()), asyncio.create_task(leases.run())]


async def load(redis_url: str, in_flight: int, hold_s: float) -> None:
    """Keep `in_flight` jobs under way for ever."""
    leases, running = await start_leases(redis_url, f"load-{os.getpid()}")

    async def client() -> None:
        while True:
            lease = await leased(leases, BOUND_S, WAIT_S, never)
            # Jobs of equal length would run in step, and share calls better than real jobs do.
            await asyncio.sleep(random.uniform(0, 2 * hold_s))
            leases.end(lease, Blame.OK)

    await asyncio.gather(*running, *(client() for _ in range(in_flight)))


if __name__ == "__main__":
    uvloop.run(load(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
