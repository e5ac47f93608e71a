"""`python -m sidecar`: run until SIGTERM or Ctrl-C. Several may run; one leads."""

import asyncio
import os
import secrets
import signal
import socket
from contextlib import suppress

from router import logs
from router.config import config_path, load_or_exit, or_exit
from router.file_handles import raise_limit
from router.fleet.exchange import configured_rules
from router.fleet.store import Store
from router.fleet.worker_auth import WorkerAuth
from sidecar.deep import DeepCheck
from sidecar.loop import Sidecar
from sidecar.membership import Membership
from sidecar.probe import Probe

# Nobody waits for the sidecar's calls; but a lead that cannot be renewed in time is lost.
REDIS_TIMEOUT_S = 1.0


async def run() -> None:
    """Compose the sidecar and run it until it is told to stop; then hand the lead over."""
    settings = load_or_exit()
    auth = or_exit(lambda: WorkerAuth.load(settings))
    store = Store.connect(settings.redis, REDIS_TIMEOUT_S)
    # Unique for each process, also where containers share a host name and a process id.
    name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    async with Probe(settings.tls, auth) as probe:
        deep = DeepCheck(f"sidecar-{name}", configured_rules(settings), store, probe)
        sidecar = Sidecar(name, Membership(config_path(), settings, store), store, probe, deep)
        running = asyncio.create_task(sidecar.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        with suppress(asyncio.CancelledError):
            await running
    await store.close()


def main() -> None:
    """Set up the log and run."""
    logs.set_up()
    raise_limit()
    asyncio.run(run())


if __name__ == "__main__":
    main()
