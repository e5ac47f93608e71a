"""HTTP/1.1 to workers: one attempt is one `send`, over pooled connections.

Our own, because it is what this project exists for, and because it costs a third of a client library (33 instead of
105 µs of CPU a request). It decides nothing about the job: it returns the answer, or raises how the attempt failed.
"""

import asyncio
import ssl
import time
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self
from urllib.parse import urlsplit

import msgspec

from router.settings import TlsSettings
from router.wire import Broken, Connection, Phase, Response, Stale

# Long enough for a lost SYN and its second try (1 s, RFC 6298 §2), short enough that a dead host costs little.
CONNECT_TIMEOUT_S = 5.0
# uvicorn, which SandboxFusion runs on, closes a connection that is idle for 5 s: one second before, we do.
MAX_IDLE_S = 4.0


class UpstreamFailed(Exception):
    """An attempt brought no whole answer; `cause` is prose without its subject, such as `timed out`."""

    def __init__(self, worker_url: str, phase: Phase, cause: str) -> None:
        super().__init__(f"Worker {worker_url} {cause}")
        self.worker_url = worker_url
        self.phase = phase
        self.cause = cause


class Request(msgspec.Struct, frozen=True):
    """What goes to whichever worker: `headers` is the block that `headers.for_worker` built."""

    method: bytes
    target: bytes
    headers: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class _Origin:
    host: str
    port: int
    is_tls: bool
    authority: bytes
    path: bytes


class Upstream:
    """The connections from this process to all workers."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._idle: dict[str, list[Connection]] = {}

    async def send(self, worker_url: str, request: Request, timeout_s: float) -> Response:
        """Send `request` to one worker and return its answer, within `timeout_s` seconds.

        Of a large answer the rest is yet to be read: it raises UpstreamFailed, too, and what was left of `timeout_s` is
        for the waits for the worker, not for its reader's. A kept-alive connection that turns out to be closed is
        replaced by a fresh one; that is no failed attempt. Raises UpstreamFailed.
        """
        origin = _origin(worker_url)
        message = (_head(origin, request), request.body)
        due = asyncio.get_running_loop().time() + timeout_s
        unsent = Phase.CONNECT
        try:
            if connection := self._take_idle(worker_url):
                try:
                    return self._answered(worker_url, connection, await connection.exchange(message, due), due)
                except Stale:
                    unsent = Phase.DIED  # it may have run, and have taken the worker with it
            connection = await self._connect(origin, due)
            return self._answered(worker_url, connection, await connection.exchange(message, due), due)
        except Broken as broken:
            phase = unsent if broken.phase is Phase.CONNECT else broken.phase
            raise UpstreamFailed(worker_url, phase, broken.cause) from broken

    def give_back(self, worker_url: str, connection: Connection) -> None:
        """Keep a connection for the next request, where it may be used again."""
        if connection.is_reusable:
            connection.idle_since = time.monotonic()
            self._idle.setdefault(worker_url, []).append(connection)
        else:
            connection.abort()

    def close(self) -> None:
        """Close the connections that are idle; those in use close when their answers are in."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    def _answered(self, worker_url: str, connection: Connection, response: Response, due: float) -> Response:
        if connection.is_streaming:
            left_s = due - asyncio.get_running_loop().time()
            return msgspec.structs.replace(response, rest=Rest(self, worker_url, connection, left_s))
        self.give_back(worker_url, connection)
        return response

    def _take_idle(self, worker_url: str) -> Connection | None:
        # Last in, first out: few connections stay warm, and the surplus grows old and goes.
        connections = self._idle.get(worker_url)
        oldest = time.monotonic() - MAX_IDLE_S
        while connections:
            connection = connections.pop()
            if connection.is_reusable and connection.idle_since > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: _Origin, due: float) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(due, loop.time() + CONNECT_TIMEOUT_S)):
                tls = self._tls_context if origin.is_tls else None
                _, connection = await loop.create_connection(Connection, origin.host, origin.port, ssl=tls)
        except TimeoutError as error:
            raise Broken(Phase.CONNECT, "cannot be reached: connecting timed out") from error
        except (OSError, UnicodeError) as error:  # UnicodeError: no name that DNS could know
            reason = getattr(error, "strerror", None) or error
            raise Broken(Phase.CONNECT, f"cannot be reached: {reason}") from error
        return connection

    @cached_property
    def _tls_context(self) -> ssl.SSLContext:
        # Not before it is needed: the system's CAs take 30 ms and 2 MB.
        return self._tls.context()


class Rest:
    """The rest of a large answer, read from its worker as it is asked for."""

    def __init__(self, upstream: Upstream, worker_url: str, connection: Connection, left_s: float) -> None:
        self._upstream = upstream
        self._worker_url = worker_url
        self._connection: Connection | None = connection
        self._left_s = left_s

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next part. Raises UpstreamFailed."""
        if self._connection is None:
            raise StopAsyncIteration
        loop = asyncio.get_running_loop()
        since = loop.time()
        try:
            async with asyncio.timeout(self._left_s):
                part = await self._connection.read()
        except TimeoutError as error:
            await self.aclose()
            raise UpstreamFailed(self._worker_url, Phase.TIMED_OUT, "timed out in mid-answer") from error
        except Broken as broken:
            await self.aclose()
            raise UpstreamFailed(self._worker_url, broken.phase, broken.cause) from broken
        self._left_s -= loop.time() - since
        if not part:
            self._upstream.give_back(self._worker_url, self._connection)
            self._connection = None
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        """Close the connection, unless the answer has been read to its end."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None


@lru_cache(maxsize=10_000)
def _origin(worker_url: str) -> _Origin:
    parts = urlsplit(worker_url)
    is_tls = parts.scheme == "https"
    return _Origin(
        host=parts.hostname or "",
        port=parts.port or (443 if is_tls else 80),
        is_tls=is_tls,
        authority=parts.netloc.encode("ascii"),
        path=parts.path.encode("ascii"),
    )


def _head(origin: _Origin, request: Request) -> bytes:
    start = b"%s %s%s HTTP/1.1\r\nhost: %s\r\n" % (request.method, origin.path, request.target, origin.authority)
    return start + request.headers
