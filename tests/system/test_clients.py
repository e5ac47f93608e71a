"""Clients that are malformed, slow, too large or do not read get an answer, and cost other clients nothing."""

import asyncio
import errno
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tests.support.eventually import eventually
from tests.support.load import post_job
from tests.support.malformed import MALFORMED, WELL_FORMED
from tests.support.programs import Router, System
from tests.support.worker import RESULT, Gate, ScriptedWorker, always

HEAD = b"POST /run_code HTTP/1.1\r\nhost: router\r\ncontent-length: %d\r\n"
MB = 2**20
NO_REDIS = "redis://127.0.0.1:1/0"


@dataclass
class Client:
    """One raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytearray = field(default_factory=bytearray)

    async def send(self, data: bytes) -> None:
        """Send exactly these bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer: its status, header fields and body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split()[1]), fields, await self.reader.readexactly(int(fields["content-length"]))

    async def refusal(self) -> tuple[int, str]:
        """Read one of the router's own answers and the connection's end; return its status and detail."""
        status, fields, body = await self.answer()
        assert fields["content-type"] == "application/json"
        assert fields["connection"] == "close"
        assert await self.reader.read() == b""
        return status, json.loads(body)["detail"]


@asynccontextmanager
async def client(router: Router) -> AsyncIterator[Client]:
    """A connection to the router."""
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def routed(system: System, worker: ScriptedWorker, **settings: object) -> AsyncIterator[Router]:
    """One router process before one worker; it must still serve jobs when the block ends."""
    system.env["REDIS_URL"] = NO_REDIS
    system.configure([worker.url], **settings)
    async with system.router(1) as router:
        yield router
        assert (await post_job(router.url)).status == 200
        assert "Traceback" not in router.output


async def test_malformed_requests_are_refused_and_reach_no_worker(system: System, worker: ScriptedWorker) -> None:
    """Each malformed request gets its status, a reason and the connection's end."""
    told: dict[str, int] = {}
    async with routed(system, worker) as router:
        for name, (request, _) in MALFORMED.items():
            async with client(router) as connection:
                await connection.send(request)
                told[name], reason = await connection.refusal()
                assert reason
        for request in WELL_FORMED.values():
            async with client(router) as connection:
                await connection.send(request)
                assert (await connection.answer())[0] == 200
        assert len(worker.jobs) == len(WELL_FORMED)
    assert told == {name: status for name, (_, status) in MALFORMED.items()}


async def test_slow_requests_get_408_and_reach_no_worker(system: System, worker: ScriptedWorker) -> None:
    """A slow head or body gets 408; a connection that sends nothing is closed without an answer."""
    async with routed(system, worker, client_body_timeout=0.5) as router, AsyncExitStack() as connections:
        silent, head, body, drip, second = [await connections.enter_async_context(client(router)) for _ in range(5)]
        await head.send(HEAD % 2)
        await body.send(HEAD % 9 + b"\r\n{}")
        await second.send(WELL_FORMED["plain"])
        assert (await second.answer())[0] == 200
        await second.send(HEAD % 2)
        dripping = asyncio.create_task(_drip(drip, 1, 1000))
        dripping.add_done_callback(lambda task: task.cancelled() or task.exception())  # its connection is cut
        slow = "No whole request body within 0.5 s and 1 s for each 100 kB"
        assert await head.refusal() == (408, "No whole request head within 0.5 s")
        assert await second.refusal() == (408, "No whole request head within 0.5 s")
        assert await body.refusal() == (408, slow)
        assert await drip.refusal() == (408, slow)
        assert await silent.reader.read() == b""
        dripping.cancel()
        assert len(worker.jobs) == 1


async def test_silent_client_frees_the_budget_of_its_large_body(system: System, worker: ScriptedWorker) -> None:
    """A client that stops before the last bytes of a large body gets 408 within client_body_timeout."""
    size = 8 * MB
    async with routed(system, worker, client_body_timeout=0.5, max_body_mb=8, max_buffered_mb=8) as router:
        async with client(router) as connection:
            await connection.send(HEAD % size + b"\r\n" + b"x" * (size - 10))
            stopped = "The request body has come to less than 100 kB a second, and fell 0.5 s behind"
            assert await asyncio.wait_for(connection.refusal(), 20) == (408, stopped)
        await eventually(lambda: _takes(router, size), what="room for the largest body")


async def test_slow_but_steady_body_arrives(system: System, worker: ScriptedWorker) -> None:
    """A body may take longer than client_body_timeout if each 100 kB take less than a second."""
    async with routed(system, worker, client_body_timeout=0.5) as router, client(router) as connection:
        start = asyncio.get_running_loop().time()
        await _drip(connection, 50_000, 12)
        assert asyncio.get_running_loop().time() - start > 1
        assert (await connection.answer())[0] == 200
        assert len(worker.jobs[0].body) == 600_000


async def _drip(connection: Client, size: int, count: int) -> None:
    await connection.send(HEAD % (size * count) + b"\r\n")
    for _ in range(count):
        await connection.send(b"x" * size)
        await asyncio.sleep(0.1)


async def test_answers_that_are_not_read_are_cut(system: System, worker: ScriptedWorker) -> None:
    """A complete answer of which the client reads no byte for client_read_timeout is cut by a reset."""
    worker.script = always(200, b"{%s}" % (b"x" * 16 * MB))
    async with routed(system, worker, client_read_timeout=1) as router:
        with _small_socket(router) as kept_alive, _small_socket(router) as closing:
            kept_alive.sendall(HEAD % 2 + b"\r\n{}")
            closing.sendall(HEAD % 2 + b"connection: close\r\n\r\n{}")
            for sock in (kept_alive, closing):
                await eventually(lambda sock=sock: was_reset(sock), what="the reset")  # type: ignore[misc]
        assert router.output.count("read nothing for 1 s") == 2
        worker.script = always(200, RESULT)


async def test_answer_that_is_read_slowly_arrives(system: System, worker: ScriptedWorker) -> None:
    """A client that reads a little at a time, without a long pause, gets the whole answer."""
    worker.script = always(200, b"{%s}" % (b"x" * 16 * MB))
    async with routed(system, worker, client_read_timeout=1) as router:
        with _small_socket(router) as sock:
            sock.sendall(HEAD % 2 + b"\r\n{}")
            start, length = asyncio.get_running_loop().time(), 0
            while length < 16 * MB:
                # Each second it reads less than the third of a buffer that must be free before the kernel wants more.
                is_slow = asyncio.get_running_loop().time() - start < 3
                await asyncio.sleep(0.1 if is_slow else 0)
                length += len(await asyncio.to_thread(sock.recv, 50_000 if is_slow else MB))
        worker.script = always(200, RESULT)


async def test_request_behind_a_long_job_may_take_its_time(system: System, worker: ScriptedWorker) -> None:
    """The time limit does not count while uvicorn does not read the rest of a pipelined request."""
    gate = Gate()
    worker.script = gate
    async with routed(system, worker, client_body_timeout=0.5) as router, client(router) as connection:
        await connection.send(WELL_FORMED["plain"])
        await eventually(lambda: worker.running == 1, what="a job on the worker")
        await connection.send(HEAD % 2 + b"\r\n{")
        await asyncio.sleep(1.1)
        gate.open()
        await connection.send(b"}")
        assert [(await connection.answer())[0] for _ in range(2)] == [200, 200]


def was_reset(sock: socket.socket) -> bool:
    """Whether the other side reset the connection; does not read from it, and is true only once."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


def _small_socket(router: Router) -> socket.socket:
    """Return a connection with a small receive buffer."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MB // 2)
    sock.connect(("127.0.0.1", router.port))
    return sock


async def test_bodies_over_max_buffered_mb_get_503_until_there_is_room(system: System, worker: ScriptedWorker) -> None:
    """A body beyond max_buffered_mb gets 503, declared or chunked, until earlier jobs have ended."""
    gate = Gate()
    worker.script = gate
    limits = {"max_body_mb": 1, "max_buffered_mb": 2}
    async with routed(system, worker, **limits) as router, AsyncExitStack() as connections:
        first, second, third = [await connections.enter_async_context(client(router)) for _ in range(3)]
        await first.send(HEAD % MB + b"\r\n" + b"x" * MB)
        await second.send(WELL_FORMED["chunked"].partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        await second.send(b"100000\r\n" + b"x" * MB + b"\r\n0\r\n\r\n")
        await eventually(lambda: worker.running == 2, what="two jobs on the worker")
        for _ in range(2):  # the connection stays open
            await third.send(HEAD % MB + b"\r\n" + b"x" * MB)
            status, fields, body = await third.answer()
            assert (status, fields["retry-after"]) == (503, "1")
            assert json.loads(body) == {"detail": "2 MB of request bodies are held already"}
        gate.open()
        assert ((await first.answer())[0], (await second.answer())[0]) == (200, 200)
        await third.send(HEAD % MB + b"\r\n" + b"x" * MB)
        assert (await third.answer())[0] == 200


async def test_body_of_a_job_that_runs_on_after_its_504_is_held(system: System, worker: ScriptedWorker) -> None:
    """After a 504 the job's body counts against max_buffered_mb until the worker has answered."""
    gate = Gate()
    worker.script = gate
    impatient = HEAD % MB + b"x-router-deadline-ms: 800\r\n\r\n" + b"x" * MB
    async with routed(system, worker, max_body_mb=1, max_buffered_mb=1) as router, client(router) as connection:
        await connection.send(impatient)
        assert (await connection.answer())[0] == 504
        assert worker.running == 1
        assert not await _takes(router, MB)
        gate.open()
        await eventually(lambda: _takes(router, MB), what="room for the largest body")


async def test_bodies_of_clients_that_left_make_room_again(system: System, worker: ScriptedWorker) -> None:
    """Half a body, a malformed end and a timeout each free their share of max_buffered_mb."""
    small = 2**16
    limits = {"max_body_mb": small / MB, "max_buffered_mb": small / MB, "client_body_timeout": 0.5}
    async with routed(system, worker, **limits) as router:
        for rest in (b"left", b"zz", b"slow"):
            async with client(router) as connection:
                await connection.send(WELL_FORMED["chunked"].partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
                await connection.send(b"%x\r\n" % small + b"x" * small + b"\r\n")
                if rest == b"zz":
                    await connection.send(rest)
                if rest != b"left":
                    assert (await connection.refusal())[0] == (400 if rest == b"zz" else 408)
            await eventually(lambda: _takes(router, small), what="room for the largest body")


async def _takes(router: Router, size: int) -> bool:
    async with client(router) as connection:
        await connection.send(HEAD % size + b"\r\n" + b"x" * size)
        return (await connection.answer())[0] == 200


@pytest.mark.parametrize("limits", [{"max_body_mb": 1}, {"max_body_mb": 2, "max_buffered_mb": 2}], ids=["413", "503"])
async def test_early_answer_reaches_a_client_that_is_still_sending(
    system: System, worker: ScriptedWorker, limits: dict[str, object]
) -> None:
    """A client with `connection: close` that reads after sending its whole body finds the answer, not a reset."""
    gate = Gate()
    worker.script = gate
    async with routed(system, worker, **limits) as router, client(router) as held, client(router) as connection:
        await held.send(HEAD % MB + b"\r\n" + b"x" * MB)
        await eventually(lambda: worker.running == 1, what="a job on the worker")
        await connection.send(HEAD % (2 * MB) + b"connection: close\r\n\r\n")
        for _ in range(64):
            await connection.send(b"x" * (2 * MB // 64))
        assert (await connection.answer())[0] == (413 if limits == {"max_body_mb": 1} else 503)
        assert await connection.reader.read() == b""
        gate.open()
        assert (await held.answer())[0] == 200
