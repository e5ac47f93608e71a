"""Answers too large to be held: read on demand, and forwarded with their metadata at the end."""

import asyncio
import gc
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from router.composition import create_app
from router.config.load import parse
from router.http.response import Phase, Response, UpstreamFailed
from router.upstream.connection import HOLD_BYTES, Connection
from router.upstream.pool import Request, WorkerPool
from tests.support.eventually import eventually, sent
from tests.support.load import JOB
from tests.support.serving import served
from tests.support.worker import Exchange, Script, ScriptedWorker

REQUEST = Request(b"POST", b"/run_code", b"content-length: 2\r\n\r\n", b"{}")
PART = 2**16
# What both ends' kernels hold for a slow reader (net.ipv4.tcp_rmem, tcp_wmem), and what we hold.
SOCKETS_HOLD = 12 * 2**20
LARGE = {"status": "Success", "stdout": "x" * (2 * HOLD_BYTES)}


def sends(body: bytes, then: str = "stay", tail: bytes = b"", declared: int = 0) -> Script:
    """Return a script that sends `body` with a length (`declared` more than there is), and then may die."""

    async def script(exchange: Exchange) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body) + declared}\r\n\r\n"
        await exchange.raw(head.encode() + body + tail)
        if then == "close":
            exchange.close()
        elif then == "reset":
            exchange.reset()

    return script


def sends_chunks(count: int, last: bytes = b"0\r\n\r\n", on_sent: Callable[[int], None] = lambda _: None) -> Script:
    """Return a script that sends `count` chunks of PART bytes, and a function for the bytes sent so far."""

    async def script(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(1, count + 1):
            await exchange.raw(b"%x\r\n%s\r\n" % (PART, b"{" * PART))
            on_sent(number * PART)
        await exchange.raw(last)

    return script


def watched(script: Script, over: list[Script]) -> Script:
    """Return `script`, which is added to `over` when it has ended or its connection was closed."""

    async def watch(exchange: Exchange) -> None:
        try:
            await script(exchange)
            await exchange.until_closed()
        finally:
            over.append(script)

    return watch


async def read(response: Response) -> bytes:
    """Return the whole body."""
    assert response.rest is not None
    return response.body + b"".join([part async for part in response.rest])


@pytest.mark.parametrize("extra", [-1, 0, 1, HOLD_BYTES])
async def test_answer_is_whole_up_to_the_limit_and_streamed_beyond_it(
    worker: ScriptedWorker, upstream: WorkerPool, extra: int
) -> None:
    """In both cases the whole answer arrives, and the connection is used again."""
    body = bytes(range(256)) * (HOLD_BYTES // 256) + b"y" * extra if extra >= 0 else b"z" * (HOLD_BYTES - 1)
    worker.script = sends(body)
    for _ in range(3):
        response = await sent(upstream, worker.url, REQUEST, timeout_s=5)
        assert (response.rest is not None) == (extra > 0)
        assert (await read(response) if response.rest else response.body) == body
    assert worker.connections == 1


async def test_slow_reader_slows_the_worker_down(worker: ScriptedWorker, upstream: WorkerPool) -> None:
    """The bytes sent and not received fit in the sockets, whatever the answer's size."""
    passed = 0

    def note(count: int) -> None:
        nonlocal passed
        passed = count

    worker.script = sends_chunks(1024, on_sent=note)
    response = await sent(upstream, worker.url, REQUEST, timeout_s=30)
    assert response.rest is not None
    got = len(response.body)
    async for part in response.rest:
        got += len(part)
        assert len(part) <= 4 * PART
        for _ in range(20):  # turns in which the worker could send more
            await asyncio.sleep(0)
        assert passed - got < HOLD_BYTES + SOCKETS_HOLD
    assert got == 1024 * PART


@pytest.mark.parametrize(
    ("script", "phase", "cause"),
    [
        (sends(b"x" * 2 * HOLD_BYTES, then="close", declared=1), Phase.DIED, "closed the connection in mid-answer"),
        (sends_chunks(32, last=b"zz\r\n"), Phase.GARBLED, "sent an answer that is not HTTP: "),
        (sends(b"x" * 2 * HOLD_BYTES, tail=b"surplus"), Phase.GARBLED, "sent more than its answer's length"),
        (sends(b"x" * 2 * HOLD_BYTES, declared=1), Phase.TIMED_OUT, "timed out in mid-answer"),
    ],
    ids=["died", "garbled", "length too short", "timed out"],
)
async def test_failure_in_mid_stream_is_raised_by_the_rest(
    worker: ScriptedWorker, upstream: WorkerPool, script: Script, phase: Phase, cause: str
) -> None:
    """The reader gets the parts before it, then the failure is raised and the connection closed."""
    worker.script = script
    response = await sent(upstream, worker.url, REQUEST, timeout_s=1 if phase is Phase.TIMED_OUT else 5)
    with pytest.raises(UpstreamFailed) as caught:
        await read(response)
    assert caught.value.phase is phase
    assert cause in caught.value.cause
    worker.script = sends(b"ok")
    assert (await sent(upstream, worker.url, REQUEST, timeout_s=5)).body == b"ok"
    assert worker.connections == 2


async def test_reader_s_own_time_is_not_the_worker_s(worker: ScriptedWorker, upstream: WorkerPool) -> None:
    """A reader slower than the time limit gets the whole answer if the worker always sends at once."""
    worker.script = sends_chunks(128)
    response = await sent(upstream, worker.url, REQUEST, timeout_s=1)
    assert response.rest is not None
    await anext(response.rest)
    await asyncio.sleep(1.1)
    assert sum([len(part) async for part in response.rest]) > 0


async def test_rest_that_is_closed_early_closes_the_connection(worker: ScriptedWorker, upstream: WorkerPool) -> None:
    """The worker notices, after one part or none, and no other request gets the rest."""
    over: list[Script] = []
    worker.script = watched(sends(b"x" * 2 * HOLD_BYTES, declared=1), over)
    for count in range(2):
        response = await sent(upstream, worker.url, REQUEST, timeout_s=5)
        assert response.rest is not None
        for _ in range(count):
            await anext(response.rest)
        response.rest.close()
        assert [part async for part in response.rest] == []
        await eventually(lambda count=count: len(over) == count + 1, what="the worker to notice")  # type: ignore[misc]
    assert worker.connections == 2


@asynccontextmanager
async def router(workers: list[ScriptedWorker]) -> AsyncIterator[str]:
    """Serve a router before these workers, each with room for one job."""
    urls = json.dumps([worker.url for worker in workers])
    text = f"{{workers: {urls}, default_max_concurrency: 1, timeout: 5, redis: {{url: 'redis://127.0.0.1:1/0'}}}}"
    async with served(create_app(parse(text, "t"))) as url:
        yield url


@pytest.fixture
async def url(worker: ScriptedWorker) -> AsyncIterator[str]:
    """A router before the worker, with room for one job."""
    async with router([worker]) as address:
        yield address


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client."""
    async with aiohttp.ClientSession() as client:
        yield client


async def works(url: str, worker: ScriptedWorker, session: aiohttp.ClientSession) -> bool:
    """Whether the next job gets the worker's only slot."""
    worker.script = sends(b"{}")
    async with session.post(f"{url}/run_code", json=JOB) as response:
        return response.status == 200


async def test_large_object_is_forwarded_with_its_metadata_last(
    url: str, worker: ScriptedWorker, session: aiohttp.ClientSession
) -> None:
    """No other byte is changed, and the lease ends with the answer."""
    body = json.dumps(LARGE).encode()
    worker.script = sends(body)
    async with session.post(f"{url}/run_code", json=JOB) as response:
        text = await response.read()
        queue_ms = response.headers["x-router-queue-ms"]
    tail = f',"router_metadata":{{"worker_url":"{worker.url}","attempt":1,"queue_ms":{queue_ms}}}}}'
    assert text == body[:-1] + tail.encode()
    assert response.headers["x-router-worker"] == worker.url
    assert await works(url, worker, session)


async def test_large_answer_that_is_no_object_is_forwarded_unchanged(
    url: str, worker: ScriptedWorker, session: aiohttp.ClientSession
) -> None:
    """A JSON list keeps its bytes, and an answer that is not JSON also its Content-Length."""
    body = json.dumps([LARGE]).encode()
    worker.script = sends(body)
    async with session.post(f"{url}/get_prompts", json=JOB) as response:
        assert await response.read() == body

    async def plain(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    worker.script = plain
    async with session.post(f"{url}/get_prompts", json=JOB) as response:
        assert response.headers["content-length"] == str(len(body))
        assert await response.read() == body


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
async def test_worker_that_dies_in_mid_stream_cuts_the_client_s_answer_short(
    url: str, worker: ScriptedWorker, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The answer never looks complete, with a length or in chunks; one log line has the cause, and the lease ends."""

    async def die(exchange: Exchange) -> None:
        body = json.dumps(LARGE).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {2 * len(body)}\r\n\r\n"
        await exchange.raw(head.encode() + body)
        exchange.close()

    worker.script = die
    caplog.clear()
    async with session.post(f"{url}/run_code", json=JOB) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    told = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    cause = "closed the connection in mid-answer, when a part of its answer had gone to the client"
    assert [line.partition("; ")[2] for line in told] == [f"{worker.url} {cause}"]
    assert await works(url, worker, session)


async def test_client_that_leaves_in_mid_stream_ends_the_reading_and_the_lease(
    url: str, worker: ScriptedWorker, session: aiohttp.ClientSession
) -> None:
    """The worker's connection is closed and its slot free, whether it still sends or is silent."""
    over: list[Script] = []
    for script in (sends_chunks(10**6), sends(b"{" + b"x" * 2 * HOLD_BYTES, declared=1)):
        worker.script = watched(script, over)
        async with session.post(f"{url}/run_code", json=JOB) as response:
            await response.content.readexactly(HOLD_BYTES)
            response.close()
        await eventually(lambda script=script: over[-1:] == [script], what="the worker to notice")  # type: ignore[misc]
        assert await works(url, worker, session)


async def test_large_answer_with_a_failure_s_status_is_retried(
    worker: ScriptedWorker, session: aiohttp.ClientSession
) -> None:
    """Nothing of it reaches the client, and its connection is closed."""
    over: list[Script] = []

    async def fail(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 502 X\r\ncontent-length: 9999999\r\n\r\n" + b"x" * 2 * HOLD_BYTES)

    worker.script = watched(fail, over)
    async with ScriptedWorker() as well, router([worker, well]) as url:
        for _ in range(2):
            async with session.post(f"{url}/run_code", json=JOB) as response:
                assert (response.status, response.headers["x-router-worker"]) == (200, well.url)
        await eventually(lambda: len(over) == len(worker.jobs) > 0, what="the worker to notice")


async def test_client_gets_the_beginning_of_a_large_answer_at_once(
    url: str, worker: ScriptedWorker, session: aiohttp.ClientSession
) -> None:
    """The client gets the beginning while the worker still produces the end."""
    goes_on = asyncio.Event()
    body = json.dumps(LARGE).encode()

    async def slow(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body[:-1]))
        await goes_on.wait()
        await exchange.raw(body[-1:])

    worker.script = slow
    async with session.post(f"{url}/run_code", json=JOB) as response:
        assert re.match(rb'\{"status": "Success"', await response.content.readexactly(HOLD_BYTES))
        goes_on.set()
        assert len(await response.read()) == len(body) - HOLD_BYTES


async def test_large_answer_for_a_client_that_left_is_closed(
    url: str, worker: ScriptedWorker, session: aiohttp.ClientSession
) -> None:
    """The worker's connection is closed and its slot free, because nobody would read the rest."""
    over: list[Script] = []
    comes = asyncio.Event()

    async def late(exchange: Exchange) -> None:
        await comes.wait()
        await sends(b"{" + b"x" * 2 * HOLD_BYTES, declared=1)(exchange)

    worker.script = watched(late, over)
    with pytest.raises(TimeoutError):
        async with session.post(f"{url}/run_code", json=JOB, timeout=aiohttp.ClientTimeout(total=0.5)):
            """Wait for a message that never arrives."""
    comes.set()
    await eventually(lambda: over == [late], what="the closed connection")
    assert await works(url, worker, session)


async def test_cut_stream_leaves_nothing_to_the_garbage_collector(
    url: str, worker: ScriptedWorker, session: aiohttp.ClientSession
) -> None:
    """A connection and its parser refer to each other, and could hold 1 MB until the collector runs."""
    over: list[Script] = []
    worker.script = watched(sends_chunks(10**6), over)
    gc.collect()
    gc.disable()
    try:
        for count in (1, 2, 3):
            async with session.post(f"{url}/run_code", json=JOB) as response:
                await response.content.readexactly(HOLD_BYTES)
                response.close()
            await eventually(lambda count=count: len(over) == count, what="the worker to notice")  # type: ignore[misc]
        await eventually(lambda: not connections(), what="the end of all connections to workers")
    finally:
        gc.enable()


def connections() -> list[Connection]:
    """Return the connections to workers that this process has, or has left to the garbage collector."""
    return [each for each in gc.get_objects() if isinstance(each, Connection)]
