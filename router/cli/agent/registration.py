"""Keeps one worker registered with one router: registers it, renews the registration, drains and removes the worker.

If the router, its Redis or the network fail, the worker is registered again when they are back, until it is to leave. A
registration that is not renewed ends after its TTL.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from router.api.schemas import AdminWorker
from router.cli.failure import Exit, Failed
from router.cli.options import KNOWN_AGAIN_S
from router.cli.router_client import RouterClient

log = logging.getLogger(__name__)

# Pauses between tries to reach a router. They double, and stay short compared with the start of a worker.
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
# Pauses between counts of a draining worker's jobs: short at first for short jobs, long enough for a thousand agents.
_FIRST_LOOK_S = 0.1
_LONGEST_LOOK_S = 2.0
# If the router cannot be reached for this long when the worker is to be removed, the TTL removes it.
_LEAVE_WITHIN_S = 2.0
# A registration is renewed every third of its TTL, so that two renewals may fail.
_RENEWALS = 3


class Lifecycle:
    """The events that an agent and its registrars share.

    `leaving`: drain the worker and remove it; `hurry`: do not wait for its jobs; `joined`: a router has taken it.
    """

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        self.hurry = asyncio.Event()
        self.joined = asyncio.Event()


class Registrar:
    """One worker's registration with one router. `fields` are NewWorker's, without `ttl_seconds`.

    `refusal` is the router's last answer if it refuses the worker; `on_refusal` is called when there is a new one.
    """

    def __init__(
        self,
        router: RouterClient,
        fields: Mapping[str, Any],
        ttl_s: float,
        lifecycle: Lifecycle,
        on_refusal: Callable[[], None],
    ) -> None:
        self.refusal: Failed | None = None
        self._router = router
        self._fields = {**fields, "ttl_seconds": ttl_s}
        self._url: str = fields["url"]
        self._ttl_s = ttl_s
        self._lifecycle = lifecycle
        self._on_refusal = on_refusal
        # Until this time.monotonic() the router may hold a registration of this worker; 0: it never held one.
        self._held_until = 0.0
        # An earlier agent that was killed while it drained leaves its worker registered and drained for one TTL. Until
        # this moment a drain may be that one, and is lifted. Later a drain is an operator's, and stays.
        self._is_inherited_until = 0.0
        self._trouble = ""

    async def run(self) -> None:
        """Keep the worker registered until it is to leave; then drain it, wait for its jobs, and remove it."""
        await self._keep()
        if self._held_until:
            await self._drain()
            await self._leave()

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        self._is_inherited_until = time.monotonic() + self._ttl_s
        while not self._lifecycle.leaving.is_set():
            if await self._renew():
                pause_s, wait_s = _FIRST_PAUSE_S, self._ttl_s / _RENEWALS
            else:
                wait_s = pause_s * random.uniform(0.5, 1)  # so that the agents of a whole cluster do not come at once
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            await _wait(self._lifecycle.leaving, wait_s)

    async def _renew(self) -> AdminWorker | None:
        """Register the worker, or renew its registration; return its state, or None if that failed."""
        now = time.monotonic()
        try:
            worker = await asyncio.to_thread(self._router.add, self._fields)
            if worker.draining and now < self._is_inherited_until:
                worker = await asyncio.to_thread(self._router.resume, self._url)
        except Failed as error:
            self._failed(error, now)
            return None
        if self._trouble or not self._held_until:
            log.info("Worker %s is registered with %s", self._url, self._router.address)
        self._held_until, self._is_inherited_until = now + self._ttl_s, 0.0
        self._trouble, self.refusal = "", None
        self._lifecycle.joined.set()
        return worker

    def _failed(self, error: Failed, asked_at: float) -> None:
        if str(error) != self._trouble:
            log.warning("Worker %s is not registered: %s; it is tried again", self._url, error)
        self._trouble = str(error)
        if error.status in (Exit.FAILED, Exit.NO_TOKEN):
            self.refusal = error
            self._on_refusal()
        elif error.was_sent:  # the router may have registered the worker, and its answer was lost
            self._held_until = max(self._held_until, asked_at + self._ttl_s)

    async def _drain(self) -> None:
        """Drain the worker; return when it runs no job, when its registration has ended, or in a hurry."""
        pause_s, before, sure_from, is_drained = _FIRST_LOOK_S, -1, 0.0, False
        while not self._lifecycle.hurry.is_set() and time.monotonic() < self._held_until:
            # Renewed, because a worker that has left the fleet has no count of running jobs.
            worker = await self._renew()
            if worker is None or (is_drained and not worker.draining):
                sure_from = time.monotonic() + KNOWN_AGAIN_S
            is_drained = is_drained or worker is not None
            with suppress(Failed):
                if worker and not worker.draining:
                    worker = await asyncio.to_thread(self._router.drain, self._url)
                if worker and worker.draining and worker.running != before:
                    before = worker.running
                    log.info("Worker %s is drained by %s, %d running", self._url, self._router.address, before)
                if worker and worker.draining and not worker.running and time.monotonic() >= sure_from:
                    return
            await _wait(self._lifecycle.hurry, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_LOOK_S, self._ttl_s / _RENEWALS)

    async def _leave(self) -> None:
        give_up_at = time.monotonic() + _LEAVE_WITHIN_S
        while True:
            try:
                await asyncio.to_thread(self._router.remove, self._url)
            except Failed as error:
                if error.status == Exit.UNREACHABLE and time.monotonic() < give_up_at:
                    await asyncio.sleep(_FIRST_PAUSE_S)
                    continue
                # A refusal is no trouble: the worker is gone already, or config.yaml names it, too.
                if error.status != Exit.FAILED:
                    log.warning("Worker %s leaves the fleet in %g s at the latest: %s", self._url, self._ttl_s, error)
            else:
                log.info("Worker %s has left %s", self._url, self._router.address)
            return


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after `seconds`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
