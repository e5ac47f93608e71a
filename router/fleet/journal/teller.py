"""What one process tells the journal: at once for the caller, in Redis a moment later.

To tell never waits and never raises, so that no job can be harmed by it. While Redis is away events wait here; if there
are too many, the oldest are dropped. A call whose answer is lost is made again: then an event may stand there twice,
unless it is one that is kept apart from its like.
"""

import asyncio
import time
from contextlib import suppress
from typing import Never

import msgspec

from router.fleet.journal.events import Events
from router.fleet.journal.model import Event
from router.fleet.redis_client import RedisClient, RedisUnavailable

# More does not happen in one process that an operator would want to read after an outage.
MOST_UNTOLD = 200
# Without Redis, or if Redis refuses them, events are written again after so long.
AGAIN_S = 1.0
_MOST_REMEMBERED = 10_000


class _Untold(msgspec.Struct, eq=False):
    """An event that is not known to be in Redis, since when, and how far apart it is to be from its like."""

    event: Event
    since: float
    apart_s: float


class Teller:
    """Tells the journal what happens in this process, while `run` runs. RedisClient logs why it cannot."""

    def __init__(self, redis: RedisClient) -> None:
        self._events = Events(redis)
        self._untold: list[_Untold] = []
        self._told_at: dict[tuple[str, str], float] = {}
        self._has_untold = asyncio.Event()

    def is_due(self, kind: str, subject: str, apart_s: float) -> bool:
        """Whether this process has told nothing of this kind and subject for so long."""
        told_at = self._told_at.get((kind, subject))
        return told_at is None or time.monotonic() - told_at >= apart_s

    def tell(self, event: Event, apart_s: float = 0.0) -> None:
        """Have an event written, unless any process has told one of its kind and subject less than `apart_s` ago."""
        now = time.monotonic()
        if apart_s:
            if not self.is_due(event.kind, event.subject, apart_s):
                return
            if len(self._told_at) >= _MOST_REMEMBERED:
                self._told_at.clear()
            self._told_at[event.kind, event.subject] = now
        self._untold.append(_Untold(event, now, apart_s))
        del self._untold[:-MOST_UNTOLD]
        self._has_untold.set()

    async def run(self) -> Never:
        """Write what is told, until cancelled."""
        while True:
            await self._has_untold.wait()
            try:
                await self._write()
            except RedisUnavailable:
                await asyncio.sleep(AGAIN_S)

    async def finish(self) -> None:
        """Write the last events, before the process ends; without Redis they are lost."""
        with suppress(RedisUnavailable):
            await self._write()

    async def _write(self) -> None:
        self._has_untold.clear()
        part, now = list(self._untold), time.monotonic()
        if not part:
            return
        try:
            await self._events.write((each.event.after(now - each.since), each.apart_s) for each in part)
        except RedisUnavailable:
            self._has_untold.set()
            raise
        self._untold = [each for each in self._untold if each not in part]
