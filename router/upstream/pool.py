"""HTTP/1.1 to workers: one attempt is one `send`, over pooled connections.

It is our own because forwarding is what this project exists for, and because a client library's cost for each request
is several times as high. It decides nothing about the job: it delivers the answer, or how the attempt failed.
"""

import asyncio
import errno
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Self
from urllib.parse import urlsplit

import msgspec

from router.aio import start
from router.config.settings import TlsSettings
from router.config.worker_auth import WorkerAuth
from router.http.head_cache import HeadCache
from router.http.headers import WorkerHead
from router.http.reasons import reason
from router.http.response import Body, Broken, Phase, Response, Stale, UpstreamFailed
from router.upstream.connection import Connection

# Long enough for a lost SYN and its retransmission (1 s, RFC 6298 §2), short enough that a dead host costs little.
CONNECT_TIMEOUT_S = 5.0
# uvicorn, which SandboxFusion runs on, closes a connection that is idle for 5 s. We close it one second earlier.
MAX_IDLE_S = 4.0
# When so many are known, all are forgotten: most are of workers that have left.
_MOST_ORIGINS = 10_000

# What this host has run out of, and what its operator can do. None of these says anything about a worker.
_SHORT_OF = {
    errno.EMFILE: "this process has no file handle left; raise its limit (ulimit -n)",
    errno.ENFILE: "the host has no file handle left; raise fs.file-max",
    errno.ENOBUFS: "the kernel has no buffers left",
    errno.ENOMEM: "the kernel has no memory left",
    errno.EADDRNOTAVAIL: "the host has no local port or address left for it; widen net.ipv4.ip_local_port_range",
}


class Request(msgspec.Struct, frozen=True):
    """A request, the same for any worker; `headers` is the block that `headers.for_worker` built."""

    method: bytes
    target: bytes
    headers: bytes
    body: Body


OutcomeCallback = Callable[[Response | UpstreamFailed], None]


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a worker's URL says.

    `lines` are the first header fields of each request. A client's fields that match `not_client_s` are not forwarded.
    """

    host: str
    port: int
    is_tls: bool
    path: bytes
    lines: bytes
    not_client_s: re.Pattern[bytes] | None = field(repr=False)


class _Origins(dict[str, _Origin]):
    """The origins by worker URL; each is made at its first use."""

    def __init__(self, auth: WorkerAuth) -> None:
        super().__init__()
        self._auth = auth

    def __missing__(self, worker_url: str) -> _Origin:
        if len(self) >= _MOST_ORIGINS:
            self.clear()
        made = self[worker_url] = _origin(worker_url, self._auth)
        return made


class WorkerPool:
    """The connections from this process to all workers, and the credentials that it sends them."""

    def __init__(self, tls: TlsSettings, auth: WorkerAuth | None = None) -> None:
        self.origins = _Origins(auth or WorkerAuth())
        self._tls = tls
        self._idle: dict[str, list[Connection]] = {}
        self._heads = HeadCache[WorkerHead]()
        self._connecting: set[asyncio.Task[None]] = set()

    def send(self, worker_url: str, request: Request, timeout_s: float, deliver: OutcomeCallback) -> None:
        """Send `request` to one worker; `deliver` is called once, with its answer or with the failure.

        It is called within `timeout_s` seconds, and never before this method has returned. A large answer comes with a
        `rest`, which has still to be read and may raise UpstreamFailed. What is left of `timeout_s` then limits the
        time spent waiting for the worker; the reader's own time does not count. A kept-alive connection that turns out
        to be closed is replaced by a fresh one, and that is no failed attempt.
        """
        now = time.monotonic()
        attempt = _WorkerRequest(self, worker_url, request, now + timeout_s, deliver)
        if connection := self._take_idle(worker_url, now):
            attempt.send(connection, now)
        else:
            self.connect(attempt)

    def connect(self, attempt: "_WorkerRequest") -> None:
        """Make the attempt over a fresh connection."""
        start(self._connecting, self._connect(attempt))

    def give_back(self, worker_url: str, connection: Connection) -> None:
        """Keep a connection for the next request, or close it where it cannot carry one."""
        if connection.is_reusable:
            idle = self._idle.get(worker_url)
            if idle is None:
                idle = self._idle[worker_url] = []
            idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections; those in use are closed by their attempts."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def _take_idle(self, worker_url: str, now: float) -> Connection | None:
        # Last in, first out: the connections that the load needs stay warm, and the others become too old.
        connections = self._idle.get(worker_url)
        while connections:
            connection = connections.pop()
            if connection.is_reusable and connection.idle_since > now - MAX_IDLE_S:
                return connection
            connection.close()
        return None

    async def _connect(self, attempt: "_WorkerRequest") -> None:
        loop, origin = asyncio.get_running_loop(), attempt.origin
        try:
            async with asyncio.timeout_at(min(attempt.due, loop.time() + CONNECT_TIMEOUT_S)):
                tls = self._tls_context if origin.is_tls else None
                make = partial(Connection, self._heads)
                _, connection = await loop.create_connection(make, origin.host, origin.port, ssl=tls)
        except TimeoutError:
            attempt.end(Broken(Phase.CONNECT, "cannot be reached: connecting timed out"))
        except (OSError, UnicodeError) as error:  # UnicodeError: the host cannot be a name in DNS
            if short_of := _short_of(error):
                self.close()  # idle connections hold what is short
                attempt.end(Broken(Phase.NO_MEANS, short_of))
            else:
                attempt.end(Broken(Phase.CONNECT, f"cannot be reached: {reason(error)}"))
        else:
            if connection.is_reusable:
                attempt.send(connection, time.monotonic())
            else:
                attempt.end(Broken(Phase.CONNECT, "closed the connection before it was used"))

    @cached_property
    def _tls_context(self) -> ssl.SSLContext:
        # Made at its first use: loading the system's CAs takes time and memory.
        return self._tls.context()


class _WorkerRequest:
    """One request to one worker, over a kept connection; where that was stale, over a fresh one."""

    __slots__ = ("_connection", "_deliver", "_request", "_unsent", "_upstream", "_worker_url", "due", "origin")

    def __init__(
        self, upstream: WorkerPool, worker_url: str, request: Request, due: float, deliver: OutcomeCallback
    ) -> None:
        self.origin = upstream.origins[worker_url]
        self.due = due
        self._upstream = upstream
        self._worker_url = worker_url
        self._request = request
        self._deliver = deliver
        self._unsent = Phase.CONNECT
        self._connection: Connection

    def send(self, connection: Connection, now: float) -> None:
        """Send the request."""
        self._connection = connection
        connection.send(_head(self.origin, self._request), self._request.body, now, self.due, self.end)

    def end(self, outcome: Response | Broken) -> None:
        """Deliver the outcome; where the connection was stale, try a fresh one instead."""
        if isinstance(outcome, Response):
            self._deliver(self._answered(outcome))
        elif isinstance(outcome, Stale):
            self._unsent = Phase.DIED  # the job may have run, and may have crashed the worker
            self._upstream.connect(self)
        else:
            phase = self._unsent if outcome.phase is Phase.CONNECT else outcome.phase
            self._deliver(UpstreamFailed(self._worker_url, phase, outcome.cause))

    def _answered(self, response: Response) -> Response:
        if response.rest is None:
            self._upstream.give_back(self._worker_url, self._connection)
            return response
        left_s = self.due - time.monotonic()
        return msgspec.structs.replace(
            response, rest=AnswerRest(self._upstream, self._worker_url, self._connection, left_s)
        )


class AnswerRest:
    """The rest of a large answer, read from its worker as it is asked for; it waits for `left_s` seconds in all."""

    def __init__(self, upstream: WorkerPool, worker_url: str, connection: Connection, left_s: float) -> None:
        self._upstream = upstream
        self._worker_url = worker_url
        self._connection: Connection | None = connection
        self._left_s = left_s

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes | memoryview:
        """Return the next part. Raises UpstreamFailed."""
        if self._connection is None:
            raise StopAsyncIteration
        loop = asyncio.get_running_loop()
        since = loop.time()
        try:
            async with asyncio.timeout(self._left_s):
                part = await anext(self._connection)
        except StopAsyncIteration:
            self._upstream.give_back(self._worker_url, self._connection)
            self._connection = None
            raise
        except TimeoutError as error:
            self.close()
            raise UpstreamFailed(self._worker_url, Phase.TIMED_OUT, "timed out in mid-answer") from error
        except Broken as broken:
            self.close()
            raise UpstreamFailed(self._worker_url, broken.phase, broken.cause) from broken
        self._left_s -= loop.time() - since
        return part

    def close(self) -> None:
        """Close the connection, unless the answer has been read to its end."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _short_of(error: Exception) -> str | None:
    """Return what this host has run out of, if that is why it could not connect, else None."""
    code = getattr(error, "errno", None)
    if code in _SHORT_OF:
        return f"{os.strerror(code)}: {_SHORT_OF[code]}"
    if code is not None and not isinstance(error, socket.gaierror):
        return None
    # A resolver that gets no file handle reports an unknown name. asyncio joins the errors of several addresses into
    # one without a number. In both cases opening a socket shows what is short.
    try:
        socket.socket().close()
    except OSError as lack:
        return _short_of(lack)
    return None


def _origin(worker_url: str, auth: WorkerAuth) -> _Origin:
    parts = urlsplit(worker_url)
    is_tls = parts.scheme == "https"
    lines, not_client_s = b"host: %s\r\n" % parts.netloc.encode("ascii"), None
    if header := auth.for_worker(worker_url):
        name = header.name.encode("ascii")
        lines += b"%s: %s\r\n" % (name, header.value.encode("ascii"))
        # Some servers read _ and - as the same. A field of this name from the client would contradict or replace ours.
        spelt = b"[-_]".join(map(re.escape, re.split(b"[-_]", name)))
        not_client_s = re.compile(rb"^%s:[^\r\n]*\r\n" % spelt, re.IGNORECASE | re.MULTILINE)
    return _Origin(
        host=parts.hostname or "",
        port=parts.port or (443 if is_tls else 80),
        is_tls=is_tls,
        path=parts.path.encode("ascii"),
        lines=lines,
        not_client_s=not_client_s,
    )


def _head(origin: _Origin, request: Request) -> bytes:
    headers = request.headers
    if origin.not_client_s is not None:
        headers = origin.not_client_s.sub(b"", headers)
    return b"%s %s%s HTTP/1.1\r\n%s%s" % (request.method, origin.path, request.target, origin.lines, headers)
