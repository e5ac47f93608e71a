"""A worker's place in the fleet, kept by its agent: registered with one router and renewed, drained, given up.

Whatever the router, its Redis or the network do meanwhile, the place is taken again when they are back, for as long as
the agent wants it; a registration that nobody renews passes by its TTL.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from router.api.schemas import AdminWorker
from router.cli.router_client import Exit, Failed, RouterClient

log = logging.getLogger(__name__)

# Between tries with a router that cannot be reached: soon, then ever more slowly, and never so slowly that it matters.
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
# How often a draining worker's jobs are counted: soon for the short ones, seldom enough for a thousand agents.
_FIRST_LOOK_S = 0.1
_LONGEST_LOOK_S = 2.0
# A router that is away when the place is given up has so long to come back; then the TTL does it.
_LEAVE_WITHIN_S = 2.0
# A third of the TTL: two renewals may fail.
_RENEWALS = 3


class Course:
    """What an agent wants of its places. `leaving`: drain, and give them up; `hurry`: do not wait for jobs.

    `joined`: one of them has been taken.
    """

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        self.hurry = asyncio.Event()
        self.joined = asyncio.Event()


class Registrar:
    """One worker's place with one router; `fields` are what it is registered with (NewWorker's, `ttl_seconds` apart).

    `refusal` is what the router last said where it does not take the worker; `on_refusal` is told of it.
    """

    def __init__(
        self,
        router: RouterClient,
        fields: Mapping[str, Any],
        ttl_s: float,
        course: Course,
        on_refusal: Callable[[], None],
    ) -> None:
        self.refusal: Failed | None = None
        self._router = router
        self._fields = {**fields, "ttl_seconds": ttl_s}
        self._url: str = fields["url"]
        self._ttl_s = ttl_s
        self._course = course
        self._on_refusal = on_refusal
        # Until when the router may take this worker to be one, by time.monotonic; 0: it never has.
        self._held_until = 0.0
        # A predecessor that was killed in the middle of its drain is registered for a TTL yet, and drained. 0: that is
        # over, and a drain is an operator's.
        self._is_inherited_until = 0.0
        self._trouble = ""

    async def run(self) -> None:
        """Take the place and keep it; once told to leave, drain the worker, wait for its jobs, and give it up."""
        await self._keep()
        if self._held_until:
            await self._drain()
            await self._leave()

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        self._is_inherited_until = time.monotonic() + self._ttl_s
        while not self._course.leaving.is_set():
            if await self._renew():
                pause_s, wait_s = _FIRST_PAUSE_S, self._ttl_s / _RENEWALS
            else:
                wait_s = pause_s * random.uniform(0.5, 1)  # agents of a whole cluster need not come all at once
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            await _passed(self._course.leaving, wait_s)

    async def _renew(self) -> AdminWorker | None:
        """Register the worker, or renew that; return how it is, None where that failed."""
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
        self._course.joined.set()
        return worker

    def _failed(self, error: Failed, asked_at: float) -> None:
        if str(error) != self._trouble:
            log.warning("Worker %s is not registered: %s; it is tried again", self._url, error)
        self._trouble = str(error)
        if error.status in (Exit.REFUSED, Exit.NO_TOKEN):
            self.refusal = error
            self._on_refusal()
        elif error.was_sent:  # it may have been heard, and the answer lost
            self._held_until = max(self._held_until, asked_at + self._ttl_s)

    async def _drain(self) -> None:
        """Return when nothing runs on the worker and nothing can come, or when it is time to hurry."""
        pause_s, before = _FIRST_LOOK_S, -1
        while not self._course.hurry.is_set() and time.monotonic() < self._held_until:
            # Renewed, for who leaves the fleet has no count of jobs.
            worker = await self._renew()
            with suppress(Failed):
                if worker and not worker.draining:
                    worker = await asyncio.to_thread(self._router.drain, self._url)
                if worker and worker.draining and worker.running != before:
                    before = worker.running
                    log.info("Worker %s is drained by %s, %d running", self._url, self._router.address, before)
                if worker and worker.draining and not worker.running:
                    return
            await _passed(self._course.hurry, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_LOOK_S, self._ttl_s / _RENEWALS)

    async def _leave(self) -> None:
        give_up_at = time.monotonic() + _LEAVE_WITHIN_S
        while True:
            try:
                await asyncio.to_thread(self._router.remove, self._url)
            except Failed as error:
                if error.status is Exit.UNREACHABLE and time.monotonic() < give_up_at:
                    await asyncio.sleep(_FIRST_PAUSE_S)
                    continue
                # Gone already, or in config.yaml, too: both are well.
                if error.status is not Exit.REFUSED:
                    log.warning("Worker %s leaves the fleet in %g s at the latest: %s", self._url, self._ttl_s, error)
            else:
                log.info("Worker %s has left %s", self._url, self._router.address)
            return


async def _passed(event: asyncio.Event, seconds: float) -> None:
    """Return when the event has come, or after so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
