"""What comes back from a worker: an answer, its beginning, or how there is none."""

from enum import StrEnum
from typing import Protocol, Self, TypeAlias

import msgspec

from router.http.headers import WorkerHead

# A large one is never copied: it stays in the memory in which it was gathered.
Body: TypeAlias = bytes | bytearray | memoryview


class Phase(StrEnum):
    """How an attempt failed.

    CONNECT: the job was never sent. NO_MEANS: neither was it, for want of something on this host. DIED: it was, and the
    connection closed before a whole answer had come. GARBLED: it was, and what came is no right HTTP answer. TIMED_OUT:
    it was, and may still run.
    """

    CONNECT = "connect"
    NO_MEANS = "no_means"
    DIED = "died"
    GARBLED = "garbled"
    TIMED_OUT = "timed out"


class Broken(Exception):
    """No whole answer comes over this connection any more; `cause` is prose without its subject."""

    def __init__(self, phase: Phase, cause: str) -> None:
        super().__init__(cause)
        self.phase = phase
        self.cause = cause


class Stale(Broken):
    """A kept-alive connection that the worker had closed when the request came."""


class Parts(Protocol):
    """What follows the held part of a large answer. Whoever has it reads it to its end or closes it."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> bytes:
        """Return the next part."""

    def close(self) -> None:
        """Read no further."""


class Response(msgspec.Struct, frozen=True):
    """A worker's answer. `rest` is None where `body` is all of it."""

    head: WorkerHead
    body: bytes
    rest: Parts | None = None


class UpstreamFailed(Exception):
    """An attempt brought no whole answer; `cause` is prose without its subject, such as `timed out`."""

    def __init__(self, worker_url: str, phase: Phase, cause: str) -> None:
        super().__init__(f"Worker {worker_url} {cause}")
        self.worker_url = worker_url
        self.phase = phase
        self.cause = cause
