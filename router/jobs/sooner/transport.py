"""Hands a worker's answer from the process that has it to another one, and notes about that.

Between two processes both go through Redis. Within one process they do not, so that they need no Redis there. This room
knows nothing of why: which process runs a job for another one, others decide.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec

from router.fleet.redis_client import RedisClient
from router.http.headers import WorkerHead
from router.http.response import Response
from router.scheduling.inbox import Inbox

# A larger answer is not handed over. The router holds an answer whole up to the same size.
MAX_BYTES = 2**20
# How long an answer is kept for the process that was told of it.
TTL_S = 10.0


class WorkersAnswer(msgspec.Struct, frozen=True, array_like=True):
    """A worker's whole answer as it came, and in which attempt: all that another job's answer is made from."""

    worker_url: str
    attempt: int
    head: WorkerHead
    body: bytes

    @classmethod
    def of(cls, response: Response, worker_url: str, attempt: int) -> "WorkersAnswer | None":
        """Return the answer, if it is whole and small enough to be handed over."""
        if response.rest is not None or len(response.body) > MAX_BYTES:
            return None
        return cls(worker_url, attempt, response.head, bytes(response.body))

    @property
    def response(self) -> Response:
        """The answer as an attempt brings it."""
        return Response(self.head, self.body)


_Note = TypeVar("_Note", bound=msgspec.Struct)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(WorkersAnswer).decode
_encode_note = msgspec.json.Encoder().encode


class Transport:
    """Answers by name, and notes; `process` is this one's name."""

    def __init__(self, redis: RedisClient, inbox: Inbox, process: str) -> None:
        self.process = process
        self._redis = redis
        self._inbox = inbox
        self._own: dict[str, WorkersAnswer] = {}  # for jobs of this process

    def hear(self, shape: type[_Note], read: Callable[[_Note], None]) -> None:
        """Have `read` called with each note of this shape, a struct tagged by `type`."""
        self._inbox.hear(shape, read)

    async def send(self, process: str, note: msgspec.Struct) -> bool:
        """Send a note to a process; return whether the process is alive.

        Send notes only to processes that are known to read them. Raises RedisUnavailable.
        """
        if process != self.process:
            return await self._redis.send(process, _encode_note(note))
        _, read = self._inbox.readers[str(note.__struct_config__.tag)]
        asyncio.get_running_loop().call_soon(read, note)
        return True

    async def store(self, name: str, answer: WorkersAnswer, ttl_s: float = TTL_S, process: str = "") -> None:
        """Keep an answer for `ttl_s` seconds, under a name that nobody else uses; "": for any process.

        Raises RedisUnavailable.
        """
        if process == self.process:
            self._own[name] = answer
            asyncio.get_running_loop().call_later(ttl_s, self._own.pop, name, None)
        else:
            await self._redis.keep(self._redis.keys.answer(name), _encode(answer), int(ttl_s * 1000))

    async def take(self, name: str) -> WorkersAnswer | None:
        """Return the answer of this name, and keep it no longer; None if it is gone. Raises RedisUnavailable."""
        if (own := self._own.pop(name, None)) is not None:
            return own
        held = await self._redis.taken(self._redis.keys.answer(name))
        return None if held is None else _decode(held)
