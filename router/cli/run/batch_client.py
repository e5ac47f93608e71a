"""Sends jobs in batches to a router until each has its answer, over as many connections as that takes.

A connection that breaks costs what was under way on it: those jobs are sent again.
"""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from http import HTTPStatus
from math import inf
from typing import Any

import aiohttp
import msgspec

from router.cli.run.job_file import JobLine, JobReader
from router.cli.run.results_file import Result
from router.http.ndjson import Lines
from router.http.reasons import reason
from router.http.sockets import reset_when_closed

# A router that is started again is back within seconds; one that gives nothing for so many tries is away.
TRIES = 6
_MAX_PAUSE_S = 10.0
_CONNECT_TIMEOUT_S = 10.0
# A dead host is noticed after about a minute; jobs may take longer, so silence alone says nothing.
_MOST_SHOWN = 1000
_KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}


class Unreachable(Exception):
    """The router cannot be reached, or breaks off again and again."""


class NotTaken(Exception):
    """The router, or what answers in its place, takes no batch."""


class _Line(msgspec.Struct):
    index: int
    status: int
    body: msgspec.Raw


class _Cut(Exception):
    """The batch ended before its jobs did."""


_read_line = msgspec.json.Decoder(_Line).decode


class BatchClient:
    """Sends the jobs of `jobs` to the router at `url`, with `api_key` where there is one.

    `on_cut` is told why a connection broke.
    """

    def __init__(self, url: str, api_key: str, jobs: JobReader, on_cut: Callable[[str], None]) -> None:
        self._url = f"{url}/run_code/batch"
        self._headers = {"content-type": "application/x-ndjson"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._jobs = jobs
        self._on_cut = on_cut
        self._waiting: deque[JobLine] = deque()  # to be sent again
        self._unanswered: dict[int, JobLine] = {}  # by their places in the batch
        self._is_reached = False
        self._failures = 0  # in a row

    async def results(self) -> AsyncGenerator[list[Result]]:
        """Yield answers as they come, some at a time. Raises Unreachable and NotTaken, and what `jobs` failed with."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S)
        connector = aiohttp.TCPConnector(socket_factory=_socket)
        asyncio.get_running_loop().set_exception_handler(_tell_unless_cut)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while await self._has_more():
                try:
                    async with aclosing(self._batch(session)) as batch:
                        async for answered in batch:
                            self._failures = 0
                            yield answered
                except (aiohttp.ClientError, TimeoutError, UnicodeError, _Cut) as error:
                    await self._after_cut(_reason(error))
        if self._jobs.failure is not None:
            raise self._jobs.failure

    async def _has_more(self) -> bool:
        if not self._waiting and (job := await self._jobs.next()) is not None:
            self._waiting.append(job)
        return bool(self._waiting)

    async def _batch(self, session: aiohttp.ClientSession) -> AsyncGenerator[list[Result]]:
        send = session.post(self._url, data=self._body(), headers=self._headers, allow_redirects=False)
        async with send as response:
            if response.status != HTTPStatus.OK:
                told = f"answered {response.status}: {await _detail(response)}"
                if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise _Cut(told)
                hint = "; SFR_API_KEY in the environment holds it" if response.status == HTTPStatus.UNAUTHORIZED else ""
                raise NotTaken(f"takes no batches: it {told}{hint}")
            self._is_reached = True
            lines = Lines(max_bytes=inf)
            async for part in response.content.iter_any():
                if answered := [self._result(bytes(line.text or b"")) for line in lines.feed(part)]:
                    yield answered
        if self._unanswered:
            raise _Cut("it ended early")

    async def _body(self) -> AsyncGenerator[bytes]:
        """Yield all that waits, then all that is new; the router lets it come as it has room."""
        place = 0
        while (job := self._waiting.popleft() if self._waiting else await self._jobs.next()) is not None:
            self._unanswered[place] = job
            place += 1
            yield job.text + b"\n"

    def _result(self, line: bytes) -> Result:
        try:
            answer = _read_line(line)
            job = self._unanswered.pop(answer.index)
        except (msgspec.DecodeError, RecursionError, KeyError) as error:
            raise NotTaken("answered with a line that is no job's result") from error
        return Result(job.index, job.digest, answer.status, answer.body)

    async def _after_cut(self, cause: str) -> None:
        """Wait a moment for the router to come back. Raises Unreachable where there is no sign of one."""
        self._waiting.extendleft(reversed(self._unanswered.values()))
        self._unanswered = {}
        self._failures += 1
        if not self._is_reached:
            raise Unreachable(f"cannot be reached: {cause}")
        if self._failures >= TRIES:
            raise Unreachable(f"gave no answer in {TRIES} tries; at last: {cause}")
        self._on_cut(cause)
        await asyncio.sleep(min(2.0 ** (self._failures - 1), _MAX_PAUSE_S))


def _tell_unless_cut(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say nothing of what aiohttp could not send on a connection that is gone: its reader has been told of that."""
    if not isinstance(context.get("exception"), aiohttp.ClientConnectionError):
        loop.default_exception_handler(context)


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    return reason(error)


async def _detail(response: aiohttp.ClientResponse) -> str:
    text = (await response.read())[:_MOST_SHOWN]
    try:
        return str(msgspec.json.decode(text)["detail"])
    except (msgspec.DecodeError, TypeError, KeyError):
        return response.reason or "no reason"


def _socket(address: Any) -> socket.socket:
    """Return a socket that notices a dead host, and that tells the router at once when it is closed."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    reset_when_closed(sock)
    return sock
