"""`python -m sidecar`: runs the sidecar until SIGTERM or Ctrl-C. Several may run; one of them leads."""

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from router import logs
from router.config.load import config_path, load_or_exit, or_exit
from router.config.worker_auth import WorkerAuth
from router.file_handles import raise_limit
from router.fleet.connection import expect_usable
from router.fleet.counters import Counters
from router.fleet.journal.history import FleetHistory
from router.fleet.journal.teller import AGAIN_S, Teller
from router.fleet.leadership import Leadership
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient
from router.fleet.sizes import Speeds
from router.fleet.tenants import Tenants
from router.scheduling.messages import configured_rules
from sidecar.alive import Alive
from sidecar.controller import Controller
from sidecar.discovery import Discovery
from sidecar.historian import Historian
from sidecar.job_probe import JobProbe
from sidecar.limits import Limits
from sidecar.probe import Probe
from sidecar.rounds import forever

# No job waits for the sidecar's calls. But if a call that renews the lead takes too long, the lead is lost.
REDIS_TIMEOUT_S = 1.0


async def run() -> None:
    """Build the sidecar and run it until a signal stops it; the lead is handed over at the end."""
    settings = load_or_exit()
    or_exit(lambda: expect_usable(settings.redis))
    auth = or_exit(lambda: WorkerAuth.load(settings))
    redis = RedisClient.connect(settings.redis, REDIS_TIMEOUT_S)
    # Unique for each process, even if containers share a host name and process ids.
    name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    async with Probe(settings.tls, auth) as probe:
        job_probe = JobProbe(f"sidecar-{name}", configured_rules(settings), redis, probe)
        teller = Teller(redis)
        discovery = Discovery(config_path(), settings, redis, tell=teller.tell)
        limits = Limits(discovery, Counters(redis), teller, name)
        written = Leadership(redis), Records(redis), Tenants(redis)
        historian = Historian(Counters(redis), FleetHistory(redis))
        speeds, alive = Speeds(redis), Alive.from_environment()
        controller = Controller(name, discovery, *written, probe, job_probe, speeds, alive, historian)
        running = asyncio.create_task(_together(controller.run(), limits.run(), forever(teller.run, AGAIN_S)))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        with suppress(asyncio.CancelledError):
            await running
        await teller.finish()
    await redis.close()


async def _together(*parts: Coroutine[Any, Any, object]) -> None:
    """Run these until all have ended: a part that is cancelled may have something to hand over."""
    async with asyncio.TaskGroup() as tasks:
        for part in parts:
            tasks.create_task(part)


def main() -> None:
    """Set up the log and run the sidecar."""
    logs.set_up()
    raise_limit()
    asyncio.run(run())


if __name__ == "__main__":
    main()
