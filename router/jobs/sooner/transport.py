"""Hands a worker's answer from the process that has it to another one, through Redis; and notes about that.

It knows nothing of why: which process runs a job for another one, adoption.py decides.
"""

import msgspec

from router.fleet.redis_client import RedisClient
from router.http.headers import WorkerHead
from router.http.response import Response

# A larger answer is not handed over. The router holds an answer whole up to the same size.
MAX_BYTES = 2**20
# How long an answer stays in Redis for the process that was told of it.
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


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(WorkersAnswer).decode
_encode_note = msgspec.json.Encoder().encode


class Transport:
    """Answers in Redis by name, and notes to other processes' inboxes."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def store(self, name: str, answer: WorkersAnswer, ttl_s: float = TTL_S) -> None:
        """Keep an answer for `ttl_s` seconds, under a name that nobody else uses. Raises RedisUnavailable."""
        await self._redis.keep(self._redis.keys.answer(name), _encode(answer), int(ttl_s * 1000))

    async def fetch(self, name: str) -> WorkersAnswer | None:
        """Return the answer of this name, None if there is none any more. Raises RedisUnavailable."""
        return _read(await self._redis.kept(self._redis.keys.answer(name)))

    async def take(self, name: str) -> WorkersAnswer | None:
        """Return the answer of this name, and drop it from Redis. Raises RedisUnavailable."""
        return _read(await self._redis.kept(self._redis.keys.answer(name), is_last=True))

    async def send(self, process: str, note: msgspec.Struct) -> bool:
        """Put a note, a struct tagged by `type`, into a process' inbox; return whether the process is alive.

        Send notes only to processes that are known to read this type. Raises RedisUnavailable.
        """
        return await self._redis.send(process, _encode_note(note))


def _read(held: bytes | None) -> WorkersAnswer | None:
    return None if held is None else _decode(held)
