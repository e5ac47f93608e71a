"""What this process sends to all others: notes, which come through their inboxes.

A note is of use only at once. While Redis is away, notes are dropped.
"""

import asyncio
from collections import deque
from contextlib import suppress

import msgspec

from router.aio import start
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.scheduling.messages import CLAIM_WITHIN_MS, PROCESS_TTL_MS

# One call takes at most so many notes; so many may wait for it, and the oldest are dropped.
_AT_ONCE, _MAX_UNSENT = 500, 10_000
_encode = msgspec.json.Encoder().encode


class Outbox:
    """Sends notes of `process` to the others. Those of one moment go together."""

    def __init__(self, redis: RedisClient, process: str) -> None:
        self._redis = redis
        self._process = process
        self._tell = redis.register("tell", TTL_MS=PROCESS_TTL_MS + CLAIM_WITHIN_MS)
        self._unsent: deque[str] = deque(maxlen=_MAX_UNSENT)
        self._sending: set[asyncio.Task[None]] = set()

    def send(self, note: msgspec.Struct) -> None:
        """Send a note, a struct whose tag is its type."""
        self._unsent.append(_encode(note).decode())
        if not self._sending:
            start(self._sending, self._send_all())

    async def _send_all(self) -> None:
        while self._unsent:
            notes = [self._unsent.popleft() for _ in range(min(_AT_ONCE, len(self._unsent)))]
            with suppress(RedisUnavailable):
                await self._redis.ask(self._tell(self._process, _encode(notes)))
