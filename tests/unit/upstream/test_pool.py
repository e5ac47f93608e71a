"""Which connection an attempt uses, and when each is closed; without sockets, so that hours pass at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from router.config.settings import TlsSettings
from router.config.worker_auth import WorkerAuth
from router.http.response import Broken, Phase, Response, UpstreamFailed
from router.upstream import pool
from router.upstream.connection import HOLD_BYTES, Connection
from router.upstream.pool import CONNECT_TIMEOUT_S, MAX_IDLE_S, AnswerRest, Request, WorkerPool, _origin
from tests.support.timeless import timeless
from tests.support.transport import Transport

URL = "http://a:1"
REQUEST = Request(b"POST", b"/run_code", b"content-length: 2\r\n\r\n", b"{}")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Net:
    """Replaces the network: it keeps each connection made, and `script` decides how connecting ends."""

    def __init__(self) -> None:
        self.upstream = WorkerPool(TlsSettings())
        self.made: list[tuple[Connection, Transport]] = []
        self.asked: list[tuple[str, int, bool]] = []
        self.script: Callable[[Connection], Awaitable[None]] | None = None
        self.given: list[Response | UpstreamFailed] = []

    async def connect(self, make: Callable[[], Connection], host: str, port: int, ssl: object) -> tuple[Any, Any]:
        """Replace the loop's own function."""
        self.asked.append((host, port, ssl is not None))
        connection, transport = make(), Transport()
        if self.script is not None:
            await self.script(connection)
        connection.connection_made(transport)
        self.made.append((connection, transport))
        return transport, connection

    async def send(self, url: str = URL, timeout_s: float = 60) -> None:
        """Send a job, and let it reach its connection."""
        self.upstream.send(url, REQUEST, timeout_s, self.given.append)
        for _ in range(3):
            await asyncio.sleep(0)

    def hear(self, number: int = -1, text: bytes = OK) -> None:
        """Receive these bytes on a connection."""
        self.made[number][0].data_received(text)

    def age(self, seconds: float, number: int = -1) -> None:
        """Let a connection be idle for longer."""
        self.made[number][0].idle_since -= seconds


def run(law: Callable[[Net], Awaitable[None]]) -> None:
    """Run the test in a loop whose clock jumps."""

    async def main() -> None:
        net = Net()
        loop: Any = asyncio.get_running_loop()
        loop.create_connection = net.connect
        await law(net)

    timeless(main(), time.monotonic())  # the attempt's deadline


@pytest.mark.parametrize(
    ("url", "host", "port", "is_tls", "lines", "path"),
    [
        ("http://a", "a", 80, False, b"host: a\r\n", b""),
        ("https://a", "a", 443, True, b"host: a\r\n", b""),
        ("http://a:8080/x", "a", 8080, False, b"host: a:8080\r\n", b"/x"),
        ("https://[::1]:1", "::1", 1, True, b"host: [::1]:1\r\n", b""),
    ],
)
def test_worker_s_url_gives_host_port_and_path(
    url: str, host: str, port: int, is_tls: bool, lines: bytes, path: bytes
) -> None:
    """The port is the scheme's if the URL names none, and Host is as the URL writes it."""
    found = _origin(url, WorkerAuth())
    assert (found.host, found.port, found.is_tls, found.lines, found.path) == (host, port, is_tls, lines, path)


def test_workers_that_have_left_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a fleet whose names change with each start would fill the memory."""
    monkeypatch.setattr(pool, "_MOST_ORIGINS", 3)
    origins = pool._Origins(WorkerAuth())
    for number in range(10):
        assert origins[f"http://w{number}"].host == f"w{number}"
        assert len(origins) <= 3


def test_connection_is_used_again_for_a_while() -> None:
    """The last one returned is used first, and one that was idle for too long is closed and replaced."""

    async def law(net: Net) -> None:
        await net.send()
        net.hear()
        await net.send()
        assert len(net.made) == 1
        await net.send()
        assert len(net.made) == 2
        net.hear(0)
        net.hear(1)
        await net.send()
        assert [len(transport.written) for _, transport in net.made] == [2, 2]
        net.hear(1)
        for number in (0, 1):
            net.age(MAX_IDLE_S - 0.5, number)
        await net.send()
        assert len(net.made[1][1].written) == 3
        net.hear(1)
        net.age(MAX_IDLE_S, 1)
        net.age(1, 0)
        await net.send()
        assert len(net.made) == 3
        assert [transport.is_aborted for _, transport in net.made] == [True, True, False]
        assert net.asked == [("a", 1, False)] * 3

    run(law)


def test_workers_share_no_connection() -> None:
    """Each worker has its own connections."""

    async def law(net: Net) -> None:
        await net.send()
        net.hear()
        await net.send("http://b:1")
        assert net.asked == [("a", 1, False), ("b", 1, False)]

    run(law)


def test_connection_that_may_not_be_used_again_is_closed() -> None:
    """An answer may forbid its reuse, and an idle one may close or send bytes that no request asked for."""

    async def law(net: Net) -> None:
        await net.send()
        net.hear(text=OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        assert net.made[0][1].is_aborted
        for is_closed in (True, False):
            await net.send()
            net.hear()
            before = len(net.made)
            if is_closed:
                net.made[-1][0].connection_lost(None)
            else:
                net.hear(text=b"x")
            await net.send()
            assert len(net.made) == before + 1
            net.hear()

    run(law)


def test_closed_pool_closes_its_idle_connections_only() -> None:
    """A connection in use ends with its answer and is not used again."""

    async def law(net: Net) -> None:
        await net.send()
        await net.send()
        net.hear(0)
        net.upstream.close()
        assert [transport.is_aborted for _, transport in net.made] == [True, False]
        net.hear(1)
        assert [isinstance(given, Response) for given in net.given] == [True, True]
        net.upstream.close()
        assert net.made[1][1].is_aborted
        assert net.upstream._idle == {}

    run(law)


@pytest.mark.parametrize(("timeout_s", "waited_s"), [(60, CONNECT_TIMEOUT_S), (2, 2)])
def test_time_to_connect_is_limited(timeout_s: float, waited_s: float) -> None:
    """The limits are the attempt's time and 5 s; after that the job was never sent."""

    async def law(net: Net) -> None:
        async def hang(_: Connection) -> None:
            await asyncio.Event().wait()

        net.script = hang
        await net.send(timeout_s=timeout_s)
        await asyncio.sleep(waited_s - 0.1)
        assert net.given == []
        await asyncio.sleep(0.2)
        (failure,) = net.given
        assert isinstance(failure, UpstreamFailed)
        assert (failure.phase, failure.cause) == (Phase.CONNECT, "cannot be reached: connecting timed out")

    run(law)


def test_connection_that_closes_before_the_job_was_sent_is_unsent() -> None:
    """No worker got the job, so it may be sent again."""

    async def law(net: Net) -> None:
        async def close(connection: Connection) -> None:
            connection.connection_lost(None)

        net.script = close
        await net.send()
        (failure,) = net.given
        assert isinstance(failure, UpstreamFailed)
        assert (failure.phase, failure.cause) == (Phase.CONNECT, "closed the connection before it was used")
        assert net.made[0][1].written == []

    run(law)


def test_stale_connection_costs_a_new_one_and_no_failed_attempt() -> None:
    """If no new connection can be made, the job may still have run, so the phase is DIED."""

    async def law(net: Net) -> None:
        await net.send()
        net.hear()
        await net.send()
        net.made[0][0].connection_lost(None)
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(net.made) == 2
        net.hear()
        await net.send()

        async def refuse(_: Connection) -> None:
            raise ConnectionRefusedError(111, "x")

        net.script = refuse
        net.made[1][0].connection_lost(None)
        for _ in range(3):
            await asyncio.sleep(0)
        assert isinstance(net.given[1], Response)
        failure = net.given[2]
        assert isinstance(failure, UpstreamFailed)
        assert (failure.phase, failure.cause) == (Phase.DIED, "cannot be reached: Connection refused")

    run(law)


class Slow:
    """A connection whose parts take their time."""

    def __init__(self, *script: tuple[float, bytes | Broken]) -> None:
        self.script = list(script)
        self.is_aborted = False
        self.is_reusable = True

    async def __anext__(self) -> bytes:
        """Return the next part."""
        if not self.script:
            raise StopAsyncIteration
        wait_s, part = self.script.pop(0)
        await asyncio.sleep(wait_s)
        if isinstance(part, Broken):
            raise part
        return part

    def close(self) -> None:
        """Record the call."""
        self.is_aborted = True


def rest_of(net: Net, left_s: float, *script: tuple[float, bytes | Broken]) -> tuple[AnswerRest, Slow]:
    """Return the rest of an answer, and its connection."""
    slow: Any = Slow(*script)
    return AnswerRest(net.upstream, URL, slow, left_s), slow


def test_rest_of_an_answer_has_a_total_time_limit() -> None:
    """Only waits for the worker count, not the reader's own time; at the limit the connection is closed."""

    async def law(net: Net) -> None:
        rest, slow = rest_of(net, 10, (4, b"a"), (4, b"b"), (4, b"c"))
        assert await anext(rest) == b"a"
        await asyncio.sleep(100)
        assert await anext(rest) == b"b"
        assert not slow.is_aborted
        with pytest.raises(UpstreamFailed, match="timed out in mid-answer") as caught:
            await anext(rest)
        assert (caught.value.phase, slow.is_aborted) == (Phase.TIMED_OUT, True)
        with pytest.raises(StopAsyncIteration):
            await anext(rest)

    run(law)


def test_rest_that_breaks_off_closes_its_connection() -> None:
    """The reader gets the failure instead of an end."""

    async def law(net: Net) -> None:
        rest, slow = rest_of(net, 10, (0, b"a"), (0, Broken(Phase.GARBLED, "sent rubbish")))
        assert await anext(rest) == b"a"
        with pytest.raises(UpstreamFailed, match=f"Worker {URL} sent rubbish"):
            await anext(rest)
        assert slow.is_aborted

    run(law)


def test_rest_that_is_read_to_its_end_returns_its_connection_once() -> None:
    """Closing it afterwards does nothing, and closing it before cuts the connection."""

    async def law(net: Net) -> None:
        rest, slow = rest_of(net, 10, (0, b"a"))
        assert [part async for part in rest] == [b"a"]
        assert [part async for part in rest] == []
        rest.close()
        assert (slow.is_aborted, len(net.upstream._idle[URL])) == (False, 1)
        rest, slow = rest_of(net, 10, (0, b"a"))
        rest.close()
        assert slow.is_aborted
        assert [part async for part in rest] == []

    run(law)


def test_rest_of_a_large_answer_has_the_attempt_s_remaining_time() -> None:
    """The connection is returned only when the rest has been read."""

    async def law(net: Net) -> None:
        await net.send(timeout_s=60)
        size = HOLD_BYTES + 2
        net.hear(text=b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * (size - 1))
        await asyncio.sleep(0)
        (answer,) = net.given
        assert isinstance(answer, Response)
        assert isinstance(answer.rest, AnswerRest)
        assert 59 < answer.rest._left_s <= 60
        await net.send()
        assert len(net.made) == 2
        net.hear(0, b"y")
        assert [part async for part in answer.rest] == [b"y"]
        await net.send()
        assert len(net.made) == 2

    run(law)
