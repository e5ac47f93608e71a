"""Sends jobs to a router in one batch, and in another one whenever the connection breaks, until each has its answer.

Jobs that had no answer when a connection broke are sent again.
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

from router.cli.failure import Exit, Failed
from router.cli.run.job_file import JobLine, JobReader
from router.cli.run.results_file import Result
from router.config.addresses import masked
from router.http.ndjson import Lines
from router.http.reasons import reason
from router.http.sockets import reset_when_closed

# A router that restarts is back within seconds. After this many tries in a row without any answer we give up.
TRIES = 6
_MAX_PAUSE_S = 10.0
_CONNECT_TIMEOUT_S = 10.0
_SHOWN_BYTES = 1000
# TCP's keepalive notices a dead host after 30 + 3 * 10 seconds. A timeout would not do, because jobs may take longer.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}


class _AnswerLine(msgspec.Struct):
    index: int
    status: int
    body: msgspec.Raw


class _CutOff(Exception):
    """The connection or the router failed before all jobs had an answer."""


_read_line = msgspec.json.Decoder(_AnswerLine).decode


class BatchClient:
    """Sends jobs to the router at `url`, with `api_key` and `query` unless they are empty.

    `on_cut` is called with the reason when a connection breaks.
    """

    def __init__(self, url: str, api_key: str, jobs: JobReader, on_cut: Callable[[str], None], query: str = "") -> None:
        self._router = masked(url)  # to be shown
        self._url = f"{url}/run_code/batch{f'?{query}' if query else ''}"
        self._headers = {"content-type": "application/x-ndjson"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._jobs = jobs
        self._on_cut = on_cut
        self._again: deque[JobLine] = deque()
        self._unanswered: dict[int, JobLine] = {}  # by place in the batch
        self._is_reached = False
        self._failures = 0  # in a row

    async def results(self) -> AsyncGenerator[list[Result]]:
        """Yield answers as they come, some at a time. Raises Failed, also for bad input from `jobs`."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S)
        connector = aiohttp.TCPConnector(socket_factory=_socket)
        asyncio.get_running_loop().set_exception_handler(_ignore_cut)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while await self._has_more():
                try:
                    async with aclosing(self._batch(session)) as batch:
                        async for answered in batch:
                            self._failures = 0
                            yield answered
                except (aiohttp.ClientError, TimeoutError, UnicodeError, _CutOff) as error:
                    await self._after_cut(_reason(error))
        if self._jobs.failure is not None:
            raise self._jobs.failure

    async def _has_more(self) -> bool:
        if not self._again and (job := await self._jobs.next()) is not None:
            self._again.append(job)
        return bool(self._again)

    async def _batch(self, session: aiohttp.ClientSession) -> AsyncGenerator[list[Result]]:
        send = session.post(self._url, data=self._body(), headers=self._headers, allow_redirects=False)
        async with send as response:
            if response.status != HTTPStatus.OK:
                message = f"answered {response.status}: {await _detail(response)}"
                if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise _CutOff(message)
                hint = "; SFR_API_KEY in the environment holds it" if response.status == HTTPStatus.UNAUTHORIZED else ""
                raise self._failed(f"takes no batches: it {message}{hint}")
            self._is_reached = True
            lines = Lines(max_bytes=inf)
            async for part in response.content.iter_any():
                if answered := [self._result(bytes(line.text or b"")) for line in lines.feed(part)]:
                    yield answered
        if self._unanswered:
            raise _CutOff("it ended early")

    async def _body(self) -> AsyncGenerator[bytes]:
        """Yield the jobs to send again, then new ones. The router reads them as it has room."""
        place = 0
        while (job := self._again.popleft() if self._again else await self._jobs.next()) is not None:
            self._unanswered[place] = job
            place += 1
            yield job.text + b"\n"

    def _result(self, line: bytes) -> Result:
        try:
            answer = _read_line(line)
            job = self._unanswered.pop(answer.index)
        except (msgspec.DecodeError, RecursionError, KeyError) as error:
            raise self._failed("answered with a line that is no job's result") from error
        return Result(job.index, job.digest, answer.status, answer.body)

    async def _after_cut(self, cause: str) -> None:
        """Wait a moment for the router to come back. Raises Failed if it never answered or has failed too often."""
        self._again.extendleft(reversed(self._unanswered.values()))
        self._unanswered = {}
        self._failures += 1
        if not self._is_reached:
            raise self._failed(f"cannot be reached: {cause}")
        if self._failures >= TRIES:
            raise self._failed(f"gave no answer in {TRIES} tries; at last: {cause}")
        self._on_cut(cause)
        await asyncio.sleep(min(2.0 ** (self._failures - 1), _MAX_PAUSE_S))

    def _failed(self, why: str) -> Failed:
        return Failed(f"the router at {self._router} {why}", Exit.UNREACHABLE)


def _ignore_cut(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Ignore what aiohttp could not send on a broken connection, because its reader raises that error, too."""
    if not isinstance(context.get("exception"), aiohttp.ClientConnectionError):
        loop.default_exception_handler(context)


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    return reason(error)


async def _detail(response: aiohttp.ClientResponse) -> str:
    text = (await response.read())[:_SHOWN_BYTES]
    try:
        return str(msgspec.json.decode(text)["detail"])
    except (msgspec.DecodeError, TypeError, KeyError):
        return response.reason or "no reason"


def _socket(address: Any) -> socket.socket:
    """Return a socket that notices a dead host, and that resets the connection when we close it."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    reset_when_closed(sock)
    return sock
