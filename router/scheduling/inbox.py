"""What other processes send to this one: leases that their calls grant to its jobs, and notes about its jobs.

Both come through one list in Redis, so they come in the order in which they were sent.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.scheduling.messages import Grant

log = logging.getLogger(__name__)

# How long one wait lasts before it is renewed, and how much it returns at most.
_WAIT_S = 5
_AT_ONCE = 1000
# After a failed wait.
_PAUSE_S = 0.5
_NOTE_BEGINS = "{"
_Read = TypeVar("_Read", bound=msgspec.Struct)


class Inbox:
    """What is sent to `process`.

    A note is a JSON object; `readers` has a struct and a callback for each `type` of note. Parts that receive notes
    `hear` them before `run`.
    """

    def __init__(self, redis: RedisClient, process: str) -> None:
        self.readers: dict[str, tuple[type[Any], Callable[[Any], None]]] = {}
        self._redis = redis
        self._key = redis.keys.grants(process)

    def hear(self, shape: type[_Read], read: Callable[[_Read], None]) -> None:
        """Have `read` called with each note of this shape, a struct tagged by `type`."""
        self.readers[str(shape.__struct_config__.tag)] = shape, read

    async def run(self, claim: Callable[[list[Grant]], None]) -> None:
        """Hand grants to `claim` and notes to their readers, until cancelled."""
        while True:
            try:
                async for texts in self._redis.popped(self._key, _WAIT_S, _AT_ONCE):
                    self._take(texts, claim)
            except RedisUnavailable as error:
                if self._redis.available:
                    log.warning("Grants from other processes cannot be read: %s", error)
            await asyncio.sleep(_PAUSE_S)

    def _take(self, texts: list[str], claim: Callable[[list[Grant]], None]) -> None:
        granted = [_grant(text) for text in texts if not text.startswith(_NOTE_BEGINS)]
        if granted:
            claim(granted)
        for text in texts:
            if text.startswith(_NOTE_BEGINS):
                self._read(text)

    def _read(self, text: str) -> None:
        try:
            kind = _kind(text).type
            if kind in self.readers:  # else it is of a later release
                shape, read = self.readers[kind]
                read(msgspec.json.decode(text, type=shape))
        except Exception:
            log.exception("A note from another process could not be read")


class _Note(msgspec.Struct, frozen=True):
    type: str = ""


_kind = msgspec.json.Decoder(_Note).decode
_grant = msgspec.json.Decoder(Grant).decode
