"""A scripted worker on a real socket: it speaks a worker's HTTP and fails as its script says."""

import asyncio
import json
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from types import TracebackType
from typing import Any, Self

from router.processes import free_port

RESULT = {"status": "Success", "message": "", "run_result": {"status": "Finished", "return_code": 0, "stdout": "1\n"}}


@dataclass(frozen=True)
class Received:
    """One request as it arrived: `headers` by lower-case name, and `head` unchanged."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    head: str = ""


Script = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request, and the means to answer it well or badly."""

    def __init__(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer

    async def raw(self, data: bytes) -> None:
        """Write exactly these bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, status: int = 200, body: Any = RESULT, *headers: str) -> None:
        """Write a complete answer; a body that is not bytes is sent as JSON."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(text)}", "content-type: application/json", *headers]
        await self.raw("\r\n".join([*lines, "", ""]).encode() + text)

    async def until_closed(self) -> None:
        """Wait until the other side, or the worker's death, closes the connection."""
        await self._reader.read()

    def close(self) -> None:
        """Close the connection like a worker that ends."""
        self._writer.close()

    def reset(self) -> None:
        """Close the connection with a reset instead of an end."""
        self._writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


async def well(exchange: Exchange) -> None:
    """Answer every request with a result."""
    await exchange.answer()


async def pong(exchange: Exchange) -> None:
    """Answer a ping like the real worker does, quotes included."""
    await exchange.answer(200, b'"pong"')


def takes(seconds: float) -> Script:
    """Return a script that answers well after `seconds`."""

    async def script(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await exchange.answer()

    return script


class Gate:
    """A script that holds every job until `open` is called, and answers at once afterwards."""

    def __init__(self) -> None:
        self._is_open = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        """Hold the job, then answer well."""
        await self._is_open.wait()
        await exchange.answer()

    def open(self) -> None:
        """Let all jobs through."""
        self._is_open.set()


async def hang(exchange: Exchange) -> None:
    """Never answer."""
    await exchange.until_closed()


async def reset(exchange: Exchange) -> None:
    """Reset the connection instead of answering."""
    exchange.reset()


def always(status: int, body: object = RESULT, *headers: str) -> Script:
    """Return a script that gives this answer every time."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, body, *headers)

    return script


@dataclass
class ScriptedWorker:
    """Answers jobs by `script` and pings by `ping`, and counts what it receives."""

    script: Script = well
    ping: Script = pong
    tls: ssl.SSLContext | None = None
    jobs: list[Received] = field(default_factory=list)
    pings: int = 0
    running: int = 0
    most_at_once: int = 0
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        """The worker's address in the fleet."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._open: set[asyncio.StreamWriter] = set()
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.die()

    async def listen(self) -> None:
        """Accept connections, on the same port as before if there was one."""
        while True:
            port = self.port or free_port()
            try:
                self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**22, ssl=self.tls)
            except OSError:
                if self.port:
                    raise
            else:  # no other program took the port meanwhile
                self.port = port
                return

    async def die(self) -> None:
        """Refuse connections from now on and reset the open ones, as if the process were killed."""
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                request = await _read(reader)
                exchange = Exchange(request, reader, writer)
                if request.target == "/v1/ping":
                    self.pings += 1
                    await self.ping(exchange)
                else:
                    self.jobs.append(request)
                    await self._run(exchange)
        self._open.discard(writer)
        writer.close()

    async def _run(self, exchange: Exchange) -> None:
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            await self.script(exchange)
        finally:
            self.running -= 1


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, target, headers, body, head)
