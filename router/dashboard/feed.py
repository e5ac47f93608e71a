"""The dashboard's events: the fleet is read once a second for all watchers of this process, and never without watchers.

Each event is encoded once and shared. A watcher gets the newest event when it has taken the one before. A slow watcher
skips events and then gets the whole view, so each watcher holds at most one event.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from router.dashboard.view_model import Reading, Status, ViewModel
from router.fleet.counters import Counters
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.fleet.snapshot import FleetView, Snapshot
from router.version import __version__

log = logging.getLogger(__name__)

EVERY_S = 1.0
# The sidecar's records count as old after this many check intervals, and not before this time.
LATE_CHECKS, LATE_S = 3, 10.0

_encode = msgspec.json.Encoder().encode


class Feed:
    """Reads the fleet for its watchers, and yields them events."""

    def __init__(
        self, redis: RedisClient, counters: Counters, view: FleetView, check_interval_s: float, every_s: float = EVERY_S
    ) -> None:
        self.watchers = 0
        self._every_s = every_s
        self._redis = redis
        self._counters = counters
        self._view = view
        self._old_after_s = max(LATE_S, LATE_CHECKS * check_interval_s)
        self._view_model = ViewModel()
        self._number = 0  # of the current reading; 0 until there is one
        self._tick = self._whole = b""
        self._has_event = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def events(self) -> AsyncGenerator[bytes]:
        """Yield events in EventSource's format: `whole` first, then `tick` after `tick`; `whole` again after a gap."""
        self.watchers += 1
        if self._reading is None:
            self._reading = asyncio.create_task(self._keep_reading())
        sent = 0
        try:
            while True:
                if sent == self._number:
                    await self._has_event.wait()
                is_next = sent > 0 and sent == self._number - 1
                sent = self._number
                yield self._tick if is_next and self._tick else self._all()
        finally:
            self.watchers -= 1
            if self.watchers == 0:
                self._number = 0
                self._reading.cancel()
                self._reading = None

    async def _keep_reading(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                self._view_model.take(await self._read())
            except Exception:  # whatever the fault is, watchers must get further events
                log.exception("The dashboard's reading failed")
            else:
                self._publish()
            due = max(due + self._every_s, loop.time())
            await asyncio.sleep(due - loop.time())

    def _publish(self) -> None:
        self._number, tick = self._view_model.number, self._view_model.tick
        self._tick = _event(b"tick", tick) if tick else b""
        self._whole = b""
        event, self._has_event = self._has_event, asyncio.Event()
        event.set()

    def _all(self) -> bytes:
        if not self._whole:
            self._whole = _event(b"whole", self._view_model.whole())
        return self._whole

    async def _read(self) -> Reading:
        snapshot, usage = self._view.snapshot, None
        if self._redis.available:
            with suppress(RedisUnavailable):
                usage = await self._counters.usage([record.worker.url for record in snapshot.state.records])
        state = snapshot.state
        return Reading(
            at=round(time.time(), 3),
            status=self._status(snapshot),
            conditions=snapshot.conditions,
            draining=state.draining,
            ejected=state.ejected,
            usage=usage,
            rules=state.tenants,
        )

    def _status(self, snapshot: Snapshot) -> Status:
        state = snapshot.state
        age_s = None if state.written_at is None else (datetime.now(UTC) - state.written_at).total_seconds()
        return Status(
            version=__version__,
            redis=self._redis.available,
            leader=state.leader is not None,
            sidecar_s=None if age_s is None else round(max(0.0, age_s), 1),
            is_sidecar_old=age_s is None or age_s > self._old_after_s,
            quarantined=len(state.quarantined),
            redis_because=self._redis.trouble,
        )


def _event(name: bytes, content: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name, _encode(content))
