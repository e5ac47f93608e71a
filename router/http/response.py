"""The outcome of an attempt on a worker: an answer, the beginning of a large one, or the failure."""

from enum import StrEnum
from typing import Protocol, Self, TypeAlias

import msgspec

from router.http.headers import WorkerHead

# A large body is never copied: it stays in the memory in which it was gathered.
Body: TypeAlias = bytes | bytearray | memoryview


class Phase(StrEnum):
    """When an attempt failed.

    CONNECT: before the job was sent. NO_MEANS: before it was sent, because this host has run out of something. DIED:
    the job was sent, and the connection closed before a whole answer had come. GARBLED: the job was sent, and the
    answer is not valid HTTP. TIMED_OUT: the job was sent, and may still run.
    """

    CONNECT = "connect"
    NO_MEANS = "no_means"
    DIED = "died"
    GARBLED = "garbled"
    TIMED_OUT = "timed out"


class Broken(Exception):
    """A connection to a worker will bring no whole answer; `cause` is prose without its subject."""

    def __init__(self, phase: Phase, cause: str) -> None:
        super().__init__(cause)
        self.phase = phase
        self.cause = cause


class Stale(Broken):
    """The worker had closed a kept-alive connection before the request arrived."""


class Parts(Protocol):
    """The parts that follow the held part of a large answer; they have to be read to the end or closed."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> bytes | memoryview:
        """Return the next part. Raises UpstreamFailed; a connection's own parts raise Broken."""

    def close(self) -> None:
        """Read no further."""


class Response(msgspec.Struct, frozen=True):
    """A worker's answer; `rest` is None if `body` is all of it."""

    head: WorkerHead
    body: bytes
    rest: Parts | None = None


class UpstreamFailed(Exception):
    """An attempt on a worker brought no whole answer; `cause` is prose without its subject, such as `timed out`.

    Parts raise it too, so it is defined here and not in upstream.
    """

    def __init__(self, worker_url: str, phase: Phase, cause: str) -> None:
        super().__init__(f"Worker {worker_url} {cause}")
        self.worker_url = worker_url
        self.phase = phase
        self.cause = cause
