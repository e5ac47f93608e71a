"""Whatever step of a job's way raises, its client gets one answer or the end of its connection, and nothing stays held.

Each test sends the same job again and again, and lets another one of the functions raise that are called on its way.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from router import dispatch, unanswered
from router.asgi import JobDoor, Receive, Scope, Send
from router.bodies import Buffers
from router.dispatch import Dispatcher
from router.downstream import DOOR
from router.either_exchange import EitherExchange
from router.fleet.exchange import Rules
from router.fleet.model import Worker
from router.fleet.store import Store
from router.leases import Leases
from router.settings import Settings
from router.tally import Tally
from router.upstream import Upstream
from router.view import FleetView
from tests.serving import served
from tests.waiting import eventually
from tests.worker import RESULT, Exchange, ScriptedWorker

ROUTER = Path(dispatch.__file__).parent
# A job's own way; the exchange and its calls are every job's, and have their own tests.
WAY = {
    str(ROUTER / name)
    for name in (
        *("answers.py", "asgi.py", "bodies.py", "course.py", "dispatch.py", "headers.py", "heads.py", "job.py"),
        *("metadata.py", "tally.py", "turns.py", "waiter.py", "policy/deadline.py", "policy/large_json.py"),
        *("policy/retry.py", "policy/verdict.py"),
    )
}


# They catch what the others raise; before them stands nothing but their own call.
GUARDS = {
    *("Dispatcher._attempted", "Dispatcher._be_late", "Dispatcher._break_off"),
    *("Dispatcher.run.<locals>.<lambda>", "JobDoor.begin.<locals>.end", "Share.__exit__", "Share.give_back"),
    *("Buffers.let_go", "Course.let_go", "send_answer", "LeasedParts.close", "LeasedParts._end"),
}


class Fault(Exception):
    """No code expects it."""


class Faults:
    """Raises at one call."""

    def __init__(self) -> None:
        self.place = ""

    @contextmanager
    def at(self, number: int) -> Iterator[None]:
        """Raise at the call of this number; `place` names it, or is empty where there were fewer."""
        self.place, left = "", number
        begun: set[FrameType] = set()  # a coroutine that goes on is no call

        def trace(frame: FrameType, event: str, _: Any) -> None:
            nonlocal left
            code = frame.f_code
            if event == "call" and code.co_filename in WAY and code.co_qualname not in GUARDS and frame not in begun:
                begun.add(frame)
                left -= 1
                if left < 0:
                    self.place = f"{Path(code.co_filename).name}:{code.co_qualname}"
                    raise Fault(self.place)  # and nothing more is traced

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)


class Rig:
    """A router's parts, and what they hold."""

    def __init__(self, url: str) -> None:
        settings = Settings.model_validate({"workers": [url], "timeout": 2, "retry": {"budget_percent": 1000}})
        store = Store(FakeAsyncRedis(connected=False), "sfr", timeout_s=1)
        view = FleetView(store, [Worker(url)])
        tally = Tally()
        self.leases = Leases(EitherExchange(store, view, Rules(), 1, tally), store, view, "p", tally)
        self.upstream = Upstream(settings.tls)
        self.dispatcher = Dispatcher(self.leases, self.upstream, view, settings, tally)
        self.buffers = Buffers(2**24)
        self.door = JobDoor(self.dispatcher, _nothing, self.buffers, settings, tally)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve as the router does."""
        if scope["type"] == "lifespan":
            await receive()
            scope["state"][DOOR] = self.door
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await self.door(scope, receive, send)

    @property
    def held(self) -> tuple[int, tuple[int, int], bool]:
        """Bytes of bodies, leases and jobs that wait, and whether an attempt is under way."""
        is_busy = bool(self.dispatcher._attempts or self.dispatcher._unanswered)
        return self.buffers.held_bytes, self.leases.load(), is_busy


async def _nothing(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def request(body: bytes, *fields: str) -> bytes:
    """Return a job as it comes over a connection."""
    lines = ["POST /run_code HTTP/1.1", "host: r", f"content-length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


SMALL = json.dumps({"code": "x", "run_timeout": 1, "language": "python"}).encode()
LARGE = json.dumps({"code": "x" * 2**17, "run_timeout": 1}).encode()


async def die_first(exchange: Exchange) -> None:
    """Die with the first try of a job."""
    died.add(exchange.request.headers["x-try"]) if (first := exchange.request.headers["x-try"] not in died) else None
    if first:
        exchange.reset()
    else:
        await exchange.answer()


died: set[str] = set()


async def answer_large(exchange: Exchange) -> None:
    """Answer with more than is held."""
    await exchange.answer(200, {**RESULT, "message": "y" * 2**21})


async def answer_late(exchange: Exchange) -> None:
    """Answer when the client has been told that it takes too long."""
    await asyncio.sleep(0.2)
    await exchange.answer()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the router."""
    port = int(url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answered(reader: asyncio.StreamReader) -> bytes:
    """Return the status line of a whole answer, or b"" where the connection ends before that."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        if b"content-length" in fields:
            await reader.readexactly(int(fields[b"content-length"]))
        else:
            await reader.readuntil(b"\r\n0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    except asyncio.LimitOverrunError:
        while await reader.read(2**20):
            pass
        return b"large"
    return head.split(b"\r\n")[0]


WAYS = {
    "in one piece": ([request(SMALL)], None),
    "in two pieces": ([request(SMALL)[:-3], SMALL[-3:]], None),
    "large": ([request(LARGE)], None),
    "tried again": ([request(SMALL, "x-try: {number}")], die_first),
    "large answer": ([request(SMALL, "connection: close")], answer_large),
    "too late": ([request(SMALL, "x-router-deadline-ms: 600")], answer_late),
}


@pytest.mark.parametrize("way", WAYS)
async def test_whatever_raises_the_client_is_answered_and_nothing_stays_held(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each function on the way once; the next job does well."""
    monkeypatch.setattr(unanswered, "_OVERDUE_S", 0.5)
    monkeypatch.setattr(unanswered, "_LOOK_EVERY_S", 0.1)
    parts, script = WAYS[way]
    faults = Faults()
    places = []
    async with ScriptedWorker() as worker:
        worker.script = script or worker.script
        rig = Rig(worker.url)
        async with served(rig) as url:
            for number in range(10_000):
                async with connected(url) as (reader, writer):
                    with faults.at(number):
                        for part in parts:
                            writer.write(part.replace(b"{number}", b"%d" % number))
                            await asyncio.sleep(0.001)
                        await asyncio.wait_for(answered(reader), 20)
                        await eventually(lambda: rig.held == (0, (0, 0), False), what=f"all given back: {faults.place}")
                if not faults.place:
                    break
                places.append(faults.place)
                async with connected(url) as (reader, writer):
                    writer.write(request(SMALL, "x-try: 0", "connection: close"))
                    assert await asyncio.wait_for(answered(reader), 20), faults.place
        rig.upstream.close()
    assert len(places) > 20
