"""One attempt on one worker over a real socket."""

import asyncio
import errno
import os
import socket
from typing import Any

import pytest

from router.http.response import Phase, UpstreamFailed
from router.processes import free_port
from router.upstream.connection import MAX_HEAD_BYTES, STALE_WITHIN_S
from router.upstream.pool import Request, WorkerPool, _short_of
from tests.support.eventually import sent
from tests.support.handles import no_more_file_handles
from tests.support.worker import Exchange, Script, ScriptedWorker, hang

REQUEST = Request(b"POST", b"/run_code", b"content-length: 2\r\n\r\n", b"{}")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def says(*parts: bytes, then: str = "stay") -> Script:
    """Return a script that writes these parts at intervals, and then stays, closes or resets."""

    async def script(exchange: Exchange) -> None:
        for part in parts:
            await exchange.raw(part)
            await asyncio.sleep(0.01)
        if then == "close":
            exchange.close()
        elif then == "reset":
            exchange.reset()

    return script


@pytest.mark.parametrize(
    "script",
    [
        says(OK),
        says(*(OK[place : place + 1] for place in range(len(OK)))),
        says(CHUNKED + b"2\r\nok\r\n0\r\n\r\n"),
        says(CHUNKED + b'1;a=b\r\no\r\n001;c="d"\r\nk\r\n0;e\r\nx-trailer: 1\r\ncontent-type: no\r\n\r\n'),
        says(b"HTTP/1.1 200 OK\r\n\r\no", b"k", then="close"),
        says(b"HTTP/1.0 200 OK\r\n\r\no", b"k", then="close"),
        says(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", then="close"),
        says(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        says(b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok"),
        says(b"HTTP/1.1 100 Continue\r\n\r\n", OK),
        says(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK),
        says(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 103 X\r\n\r\n" + OK),
        says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", then="close"),
        says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
        says(b"HTTP/1.1 200 OK\r\nx: %s\r\n" % (b"x" * 60_000) + OK.partition(b"\r\n")[2]),
    ],
    ids=[
        "length",
        "byte by byte",
        "chunked",
        "chunked with extensions and trailers",
        "no length",
        "1.0, no length",
        "1.0",
        "1.0, not closed",
        "1.0, kept alive",
        "100",
        "103",
        "three interim ones",
        "close",
        "close, not closed",
        "60 kB of headers",
    ],
)
async def test_every_form_of_a_complete_answer_is_read(
    worker: ScriptedWorker, upstream: WorkerPool, script: Script
) -> None:
    """Each answer is sent twice in a row, which would show bytes left on the connection."""
    worker.script = script
    for _ in range(2):
        response = await sent(upstream, worker.url, REQUEST, timeout_s=5)
        assert (response.head.status, response.body, response.rest) == (200, b"ok", None)
        assert all(
            name in (b"content-length", b"transfer-encoding", b"connection", b"x") for name, _ in response.head.headers
        )


@pytest.mark.parametrize("status", [204, 304])
async def test_answer_without_a_body_ends_with_its_headers(
    worker: ScriptedWorker, upstream: WorkerPool, status: int
) -> None:
    """Its length field does not matter, and the connection is used again."""
    worker.script = says(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\n" % status)
    for _ in range(2):
        response = await sent(upstream, worker.url, REQUEST, timeout_s=5)
        assert (response.head.status, response.body) == (status, b"")
    assert worker.connections == 1


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (says(then="close"), "closed the connection without an answer"),
        (says(then="reset"), "closed the connection without an answer"),
        (says(OK[:-1], then="close"), "closed the connection in mid-answer"),
        (says(OK[:-1], then="reset"), "closed the connection in mid-answer"),
        (says(OK[:20], then="close"), "closed the connection in mid-answer"),
        (says(b"HTTP/1.1 100 Continue\r\n\r\n", then="close"), "closed the connection in mid-answer"),
        (says(CHUNKED + b"2\r\nok\r\n", then="close"), "closed the connection in mid-answer"),
        (says(CHUNKED + b"2\r\nok\r\n0\r\n", then="close"), "closed the connection in mid-answer"),
        (says(b"HTTP/1.1 200 OK\r\n\r\nok", then="reset"), "closed the connection in mid-answer"),
        (says(OK.replace(b": 2", b": 3"), then="close"), "closed the connection in mid-answer"),
    ],
    ids=[
        "close",
        "reset",
        "short",
        "short reset",
        "half headers",
        "100 only",
        "no last chunk",
        "half trailers",
        "no length, reset",
        "length too long",
    ],
)
async def test_worker_that_closes_before_a_complete_answer_has_died(
    worker: ScriptedWorker, upstream: WorkerPool, script: Script, cause: str
) -> None:
    """The job was sent, so the phase is DIED, with the cause in words."""
    worker.script = script
    with pytest.raises(UpstreamFailed) as caught:
        await sent(upstream, worker.url, REQUEST, timeout_s=5)
    assert (caught.value.phase, caught.value.cause) == (Phase.DIED, cause)
    assert worker.connections == 1


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b"garbage\r\n\r\n", "sent an answer that is not HTTP: "),
        (b"<html>no</html>", "sent an answer that is not HTTP: "),
        (b"HTTP/1.1 099 X\r\n\r\n", "sent an answer that is not HTTP: status 99"),
        (b"HTTP/1.1 600 X\r\ncontent-length: 0\r\n\r\n", "sent an answer that is not HTTP: status 600"),
        (b"HTTP/1.1 999 X\r\ncontent-length: 0\r\n\r\n", "sent an answer that is not HTTP: status 999"),
        (b"RTSP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", "sent an answer that is not HTTP/1.1"),
        (b"ICE/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", "sent an answer that is not HTTP/1.1"),
        (b"HTTP/1.1 100 X\r\n\r\nRTSP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", "is not HTTP/1.1"),
        (b"RTSP/1.0 100 X\r\n\r\n" + OK, "sent an answer that is not HTTP/1.1"),
        (b"HTTP/0.9 200 OK\r\ncontent-length: 0\r\n\r\n", "sent an answer that is not HTTP/1.1"),
        (b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", "sent an answer that is not HTTP/1.1"),
        (CHUNKED.replace(b"chunked", b"chunked, chunked") + b"0\r\n\r\n", "in a transfer encoding that nobody"),
        (
            CHUNKED.replace(b"chunked", b"chunked\r\ntransfer-encoding: chunked") + b"0\r\n\r\n",
            "in a transfer encoding",
        ),
        (CHUNKED + b"zz\r\n", "sent an answer that is not HTTP: "),
        (CHUNKED + b"2\r\nokay\r\n0\r\n\r\n", "sent an answer that is not HTTP: "),
        (OK.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n"), "sent an answer that is not HTTP: "),
        (OK.replace(b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\n"), "sent an answer that is not HTTP: "),
        (CHUNKED.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n", "in a transfer encoding that nobody asked for"),
        (
            b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
            "answered with an upgrade that nobody asked for",
        ),
        (b"HTTP/1.1 101 X\r\n\r\n", "answered with an upgrade that nobody asked for"),
        (b"HTTP/1.1 200 OK\r\nx: %s" % (b"x" * MAX_HEAD_BYTES), "sent a header block of more than 64 kB"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES, "sent a header block of more than 64 kB"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 4000 + OK, "sent a header block of more than 64 kB"),
        (CHUNKED + b"2\r\nok\r\n0\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES, "sent a header block of more than 64 kB"),
        (OK + b"surplus", "sent more than its answer's length"),
    ],
    ids=[
        "garbage",
        "html",
        "status 99",
        "status 600",
        "status 999",
        "RTSP",
        "ICE",
        "RTSP after an interim answer",
        "interim answer by RTSP",
        "HTTP/0.9",
        "HTTP/2.0",
        "chunked, chunked",
        "chunked and chunked",
        "bad chunk",
        "chunk too short",
        "length and chunked",
        "two lengths",
        "gzip",
        "101",
        "101 without upgrade",
        "endless field",
        "endless fields",
        "endless interim ones",
        "endless trailers",
        "length too short",
    ],
)
async def test_invalid_http_answer_is_garbled(
    worker: ScriptedWorker, upstream: WorkerPool, text: bytes, cause: str
) -> None:
    """The job was sent, so the phase is GARBLED with the cause in words, and the next request gets nothing of it."""
    worker.script = says(text)
    with pytest.raises(UpstreamFailed) as caught:
        await sent(upstream, worker.url, REQUEST, timeout_s=5)
    assert caught.value.phase is Phase.GARBLED
    assert cause in caught.value.cause
    worker.script = says(OK)
    assert (await sent(upstream, worker.url, REQUEST, timeout_s=5)).body == b"ok"
    assert worker.connections == 2


async def test_refused_connection_was_never_sent(upstream: WorkerPool) -> None:
    """If no server listens, the phase is CONNECT."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UpstreamFailed, match=f"Worker {url} cannot be reached: ") as caught:
        await sent(upstream, url, REQUEST, timeout_s=5)
    assert caught.value.phase is Phase.CONNECT


@pytest.mark.parametrize("url", ["http://nobody.invalid:80", "http://no..name", f"http://{'x' * 64}"])
async def test_unknown_host_was_never_sent(upstream: WorkerPool, url: str) -> None:
    """A name that DNS does not know, or cannot know, is unreachable."""
    with pytest.raises(UpstreamFailed, match="cannot be reached: ") as caught:
        await sent(upstream, url, REQUEST, timeout_s=5)
    assert caught.value.phase is Phase.CONNECT


async def test_silence_ends_with_the_time_limit(worker: ScriptedWorker, upstream: WorkerPool) -> None:
    """A worker that never answers has timed out, and its connection is not used again."""
    worker.script = hang
    with pytest.raises(UpstreamFailed, match="timed out") as caught:
        await sent(upstream, worker.url, REQUEST, timeout_s=0.05)
    assert caught.value.phase is Phase.TIMED_OUT
    worker.script = says(OK)
    assert (await sent(upstream, worker.url, REQUEST, timeout_s=5)).body == b"ok"
    assert worker.connections == 2


async def test_connection_is_kept_and_used_again(worker: ScriptedWorker, upstream: WorkerPool) -> None:
    """Ten requests in a row need one connection; three at once need three."""
    worker.script = says(OK)
    for _ in range(10):
        await sent(upstream, worker.url, REQUEST, timeout_s=5)
    assert worker.connections == 1
    await asyncio.gather(*(sent(upstream, worker.url, REQUEST, timeout_s=5) for _ in range(3)))
    assert worker.connections == 3


async def test_stale_kept_connection_costs_no_attempt(worker: ScriptedWorker, upstream: WorkerPool) -> None:
    """The worker closes when the second request arrives, and a new connection brings its answer."""

    async def once(exchange: Exchange) -> None:
        if len(worker.jobs) == 2:
            exchange.reset()
        else:
            await exchange.answer()

    worker.script = once
    await sent(upstream, worker.url, REQUEST, timeout_s=5)
    assert (await sent(upstream, worker.url, REQUEST, timeout_s=5)).head.status == 200
    assert (worker.connections, len(worker.jobs)) == (2, 3)


async def test_death_during_a_job_on_a_kept_connection_is_no_stale_connection(
    worker: ScriptedWorker, upstream: WorkerPool
) -> None:
    """A connection that closes long after the job was sent was not stale, so the job does not run there again."""
    await sent(upstream, worker.url, REQUEST, timeout_s=5)

    async def die(exchange: Exchange) -> None:
        await asyncio.sleep(STALE_WITHIN_S)
        exchange.reset()

    worker.script = die
    with pytest.raises(UpstreamFailed, match="closed the connection without an answer") as caught:
        await sent(upstream, worker.url, REQUEST, timeout_s=5)
    assert caught.value.phase is Phase.DIED
    assert len(worker.jobs) == 2


async def test_kept_connection_of_a_crashed_worker_has_died(worker: ScriptedWorker, upstream: WorkerPool) -> None:
    """The job may have crashed the worker, so it does not count as unsent."""
    await sent(upstream, worker.url, REQUEST, timeout_s=5)

    async def die(_: Exchange) -> None:
        await worker.die()

    worker.script = die
    with pytest.raises(UpstreamFailed, match="cannot be reached: ") as caught:
        await sent(upstream, worker.url, REQUEST, timeout_s=5)
    assert caught.value.phase is Phase.DIED


async def test_answer_before_the_request_was_read_closes_the_connection(
    upstream: WorkerPool,
) -> None:
    """The worker would read the rest of this body as the next request."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"200 OK", b"413 X"))

    connections: list[asyncio.StreamWriter] = []
    body = b"x" * 2**25  # more than the kernel holds for a server that does not read
    server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=2**10)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    request = Request(b"POST", b"/run_code", b"content-length: %d\r\n\r\n" % len(body), body)
    try:
        for _ in range(2):
            assert (await sent(upstream, url, request, timeout_s=5)).head.status == 413
        assert len(connections) == 2
    finally:
        server.close()
        for writer in connections:
            writer.transport.abort()


async def test_surplus_answer_closes_the_connection_and_keeps_the_first(
    worker: ScriptedWorker, upstream: WorkerPool
) -> None:
    """A second answer that no request asked for is dropped, and the next request uses another connection."""
    worker.script = says(OK + OK.replace(b"ok", b"no"))
    assert (await sent(upstream, worker.url, REQUEST, timeout_s=5)).body == b"ok"
    worker.script = says(OK)
    assert (await sent(upstream, worker.url, REQUEST, timeout_s=5)).body == b"ok"
    assert worker.connections == 2


async def test_worker_gets_the_whole_request(worker: ScriptedWorker, upstream: WorkerPool) -> None:
    """Method, path below the worker's own, query, host and body arrive unchanged, also large ones."""
    body = b"x" * 2**21
    block = b"content-length: %d\r\n\r\n" % len(body)
    await sent(upstream, f"{worker.url}/deep", Request(b"POST", b"/submit?a=b", block, body), timeout_s=10)
    (got,) = worker.jobs
    assert (got.method, got.target, got.headers["host"]) == ("POST", "/deep/submit?a=b", f"127.0.0.1:{worker.port}")
    assert got.body == body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_lack_of_file_handles_is_reported_as_this_host_s(
    worker: ScriptedWorker, upstream: WorkerPool, host: str
) -> None:
    """A resolver without a file handle reports an unknown name, but the message names the file handles."""
    with no_more_file_handles(), pytest.raises(UpstreamFailed) as failure:
        await sent(upstream, worker.url.replace("127.0.0.1", host), REQUEST, 5)
    assert failure.value.phase is Phase.NO_MEANS
    assert failure.value.cause.startswith("Too many open files: ")
    assert (await sent(upstream, worker.url, REQUEST, 5)).head.status == 200


@pytest.mark.parametrize(
    ("error", "asks_for_a_socket"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), True),
        (OSError("Multiple exceptions"), True),
        (OSError(errno.ECONNREFUSED, "refused"), False),
    ],
)
def test_ambiguous_error_is_checked_for_a_lack_of_file_handles(error: OSError, asks_for_a_socket: bool) -> None:
    """An error that clearly names the worker's own fault is not checked, even without file handles."""
    assert _short_of(error) is None
    with no_more_file_handles():
        told = _short_of(error)
    assert (told is not None) is asks_for_a_socket


async def test_idle_connections_are_closed_for_lack_of_file_handles(
    workers: list[ScriptedWorker], upstream: WorkerPool
) -> None:
    """The next attempt then finds file handles."""
    for worker in workers[:2]:
        await sent(upstream, worker.url, REQUEST, 5)
    with no_more_file_handles():
        with pytest.raises(UpstreamFailed):
            await sent(upstream, workers[2].url, REQUEST, 5)
        await asyncio.sleep(0)  # they close
        assert (await sent(upstream, workers[2].url, REQUEST, 5)).head.status == 200


@pytest.mark.parametrize(
    ("number", "phase"),
    [
        *((number, Phase.NO_MEANS) for number in (errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)),
        *((number, Phase.CONNECT) for number in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ETIMEDOUT, None)),
    ],
)
async def test_each_connection_error_blames_the_host_or_the_worker(
    upstream: WorkerPool, monkeypatch: pytest.MonkeyPatch, number: int | None, phase: Phase
) -> None:
    """Errors of the kernel that a test cannot cause for real are scripted."""

    async def fails(*_: Any, **_options: Any) -> None:
        raise OSError("Multiple exceptions") if number is None else OSError(number, os.strerror(number))

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", fails)
    with pytest.raises(UpstreamFailed) as failure:
        await sent(upstream, "http://127.0.0.1:1", REQUEST, 5)
    assert failure.value.phase is phase
