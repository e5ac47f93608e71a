"""If any step of a job raises, its client gets one answer or the connection's end, and nothing stays held.

Each test sends the same job again and again; each time another function on its way raises.
"""

import asyncio
import errno
import itertools
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from router.auth.access import JobGate
from router.auth.origin import Pages
from router.config.settings import Settings
from router.downstream.connection import HANDLER
from router.fleet.model import Worker
from router.fleet.redis_client import RedisClient
from router.fleet.snapshot import FleetView
from router.http.answer import Answer
from router.http.asgi import Receive, Scope, Send
from router.jobs import dispatcher, job, job_log
from router.jobs.answers import ErrorAnswers
from router.jobs.body_budget import BodyBudget
from router.jobs.dispatcher import Dispatcher
from router.jobs.handler import JobHandler
from router.jobs.job import JobRun
from router.jobs.tenants import Tenants
from router.logs import Seldom
from router.scheduling.failover import FailoverScheduler
from router.scheduling.inbox import Inbox
from router.scheduling.leases import Leases
from router.scheduling.local.scheduler import LocalScheduler
from router.scheduling.messages import Rules
from router.telemetry.recorder import Recorder
from router.upstream.pool import WorkerPool
from tests.support.eventually import eventually
from tests.support.serving import served
from tests.support.sizes import unknown_sizes
from tests.support.worker import RESULT, Exchange, Script, ScriptedWorker, always, reset, well

ROUTER = Path(dispatcher.__file__).parents[1]
# The modules of one job's way; the scheduler serves all jobs and has its own tests.
WAY = {
    str(ROUTER / f"{name}.py")
    for name in (
        *("http/answer", "http/asgi", "http/head_cache", "http/headers", "jobs/answers", "jobs/body_budget"),
        *("jobs/dispatcher", "jobs/endpoints", "jobs/handler", "jobs/job", "jobs/job_log"),
        *("jobs/metadata", "jobs/streaming", "jobs/tenants", "aio", "logs", "policy/deadline", "policy/large_json"),
        *("policy/retry", "policy/verdict", "scheduling/pending", "telemetry/recorder"),
    )
}
assert all(Path(name).exists() for name in WAY)

# These functions catch what the others raise, and before them only their own call can fail.
GUARDS = {
    *("Dispatcher._attempted", "Dispatcher._heard", "Dispatcher._be_late", "Dispatcher._break_off"),
    *("resolver.<locals>.resolve", "JobHandler.begin.<locals>.end", "BodyShare.__exit__", "BodyShare.give_back"),
    *(
        "BodyBudget.let_go",
        "JobRun.release_late_share",
        "send_answer",
        "send_job_answer",
        "LeasedParts.close",
        "LeasedParts._end",
    ),
    *("JobHandler._begin_large", "Unanswered._look", "close_rest"),
    "_Client.has_begun",
    "tell",  # called last, when the connection has lost its client
}


# The first calls of each function raise, because a function may be called in several places.
CALLS = 2
TRIES = 3
# Nothing listens at this URL. It is second in the order of URLs, so the first ticket goes to it.
DEAD_URL = "http://127.0.0.1:9"


class Fault(Exception):
    """An error that no code expects."""


class Faults:
    """Raises at one call; `calls` counts each function's calls since `at` began, up to the raised error."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.has_struck = False

    @contextmanager
    def at(self, step: str, time: int) -> Iterator[None]:
        """Raise at call number `time` of the function `step`, or never if `step` is ""."""
        self.calls, self.has_struck = Counter(), False
        begun: set[FrameType] = set()  # a resumed coroutine is no call

        def trace(frame: FrameType, event: str, _: Any) -> None:
            code = frame.f_code
            if event == "call" and code.co_filename in WAY and code.co_qualname not in GUARDS and frame not in begun:
                begun.add(frame)
                self.calls[code.co_qualname] += 1
                if code.co_qualname == step and self.calls[step] == time:
                    self.has_struck = True
                    raise Fault(step)  # nothing is traced after it

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)


class Rig:
    """A router's parts, and what they hold."""

    def __init__(self, urls: list[str], max_buffered_bytes: int = 2**24) -> None:
        settings = Settings.model_validate({"workers": urls, "timeout": 0.5, "retry": {"budget_percent": 1000}})
        redis = RedisClient(FakeAsyncRedis(connected=False), "sfr", timeout_s=1)
        view = FleetView(redis, [Worker(url) for url in urls])
        recorder = Recorder()
        self.scheduler = FailoverScheduler(redis, view, Rules(), 1, recorder)
        self.leases = Leases(self.scheduler, Inbox(redis, "p"), view, "p", recorder)
        self.upstream = WorkerPool(settings.tls)
        self.dispatcher = Dispatcher(self.leases, self.upstream, view, settings, recorder, unknown_sizes(view))
        self.buffers = BodyBudget(max_buffered_bytes)
        self.handler = JobHandler(
            self.dispatcher, _nothing, JobGate(Pages((), ()), None), self.buffers, settings, recorder
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve requests like the router does."""
        if scope["type"] == "lifespan":
            await receive()
            scope["state"][HANDLER] = self.handler
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await self.handler(scope, receive, send)

    def forget(self) -> None:
        """Forget what workers did, so that each job finds them in their first state."""
        self.scheduler._local, self.scheduler._local_fleet = LocalScheduler(Rules(budget_percent=1000)), None
        self.upstream.close()
        self.dispatcher._judge._seldom = Seldom()

    @property
    def held(self) -> tuple[int, tuple[int, int], bool]:
        """The bytes of bodies, the leases and pending jobs, and whether an attempt is under way."""
        is_busy = bool(self.dispatcher._attempts or self.dispatcher._unanswered)
        return self.buffers.held_bytes, self.leases.load(), is_busy


async def _nothing(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def request(body: bytes, *fields: str) -> bytes:
    """Return a job's bytes on a connection."""
    lines = ["POST /run_code HTTP/1.1", "host: r", f"content-length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


SMALL = json.dumps({"code": "x", "run_timeout": 1, "language": "python"}).encode()
LARGE = json.dumps({"code": "x" * 2**17, "run_timeout": 1}).encode()


def first(script: Script) -> Script:
    """Return a script that runs `script` for the first attempt of each job."""
    seen: set[str] = set()

    async def tries(exchange: Exchange) -> None:
        name = exchange.request.headers["x-try"]
        is_first = name not in seen
        seen.add(name)
        await (script if is_first else well)(exchange)

    return tries


async def answer_large(exchange: Exchange) -> None:
    """Answer with more than the router holds."""
    await exchange.answer(200, {**RESULT, "message": "y" * 2**21})


async def answer_late(exchange: Exchange) -> None:
    """Answer after the client's deadline."""
    await asyncio.sleep(0.1)
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
    """Return the status line of a complete answer, or b"" if the connection ends before that."""
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


@asynccontextmanager
async def no_ports(worker: ScriptedWorker) -> AsyncIterator[None]:
    """The first connection of this host to the worker finds no free port, which cannot be caused for real."""
    loop, counted = asyncio.get_running_loop(), itertools.count()
    connect = loop.create_connection

    async def fails(*given: Any, **options: Any) -> Any:
        if given[1:3] == ("127.0.0.1", worker.port) and next(counted) == 0:
            raise OSError(errno.EADDRNOTAVAIL, "")
        return await connect(*given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "create_connection", fails)
        yield


@asynccontextmanager
async def nothing_else(_worker: ScriptedWorker) -> AsyncIterator[None]:
    """Change nothing."""
    yield


@dataclass(frozen=True)
class Way:
    """One way of a job: what its client sends, what its worker does, and the steps that it must pass.

    If `dead` is set, a worker that cannot be reached is asked first.
    """

    parts: list[bytes]
    script: Script = well
    through: tuple[Callable[..., Any], ...] = ()
    dead: bool = False
    max_buffered_bytes: int = 2**24
    beside: Callable[[ScriptedWorker], AbstractAsyncContextManager[None]] = nothing_else


NUMBERED = request(SMALL, "x-try: {number}")
sandbox_error = always(200, {**RESULT, "status": "SandboxError"})
busy = always(429, b"")
WAYS = {
    "in one piece": Way([request(SMALL)]),
    "of a tenant": Way([request(SMALL, "x-router-tenant: run-7")], well, (Tenants.settle, Answer.with_field)),
    "in two pieces": Way([request(SMALL)[:-3], SMALL[-3:]]),
    "large": Way([request(LARGE)]),
    "tried again": Way([NUMBERED], first(reset), (Dispatcher._ask_again, job_log.attempt_failed)),
    "large answer": Way([request(SMALL, "connection: close")], answer_large),
    "too late": Way(
        [request(SMALL, "x-router-deadline-ms: 550")], answer_late, (ErrorAnswers.deadline_passed, job_log._tell)
    ),
    "turned away": Way([NUMBERED], first(busy), (Dispatcher._wait_again, Seldom.is_due)),
    "not reached": Way([request(SMALL)], well, (Dispatcher._wait_again,), dead=True),
    "no means": Way([request(SMALL)], well, (Dispatcher._ask_again, Seldom.is_due), beside=no_ports),
    "in doubt, then done": Way([NUMBERED], first(sandbox_error), (Dispatcher._ask_again,)),
    "in doubt to the end": Way(
        [request(SMALL)], sandbox_error, (JobRun.drop_doubts, ErrorAnswers.failed, job_log._tell)
    ),
    "failed": Way([request(SMALL)], always(502, b""), (ErrorAnswers.failed, job_log._tell)),
    "no room for its body": Way(
        [request(SMALL)], well, (JobHandler._unfit, job_log.refused), max_buffered_bytes=len(SMALL) - 1
    ),
}


@pytest.mark.parametrize("name", WAYS)
async def test_client_is_answered_and_nothing_stays_held_if_any_step_raises(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each function of a job's way fails once; the next job succeeds."""
    monkeypatch.setattr(job, "_OVERDUE_S", 0.2)
    monkeypatch.setattr(job, "_LOOK_EVERY_S", 0.05)
    way = WAYS[name]
    faults = Faults()
    tries: Counter[tuple[str, int]] = Counter()
    struck: set[tuple[str, int]] = set()
    async with ScriptedWorker(way.script) as worker:
        rig = Rig([DEAD_URL, worker.url] if way.dead else [worker.url], way.max_buffered_bytes)
        async with served(rig) as url:
            step: tuple[str, int] | None = ("", 0)
            while step is not None:
                tries[step] += 1
                rig.forget()
                async with connected(url) as (reader, writer), way.beside(worker):
                    with faults.at(*step):
                        for part in way.parts:
                            writer.write(part.replace(b"{number}", b"%d" % tries.total()))
                            await asyncio.sleep(0.001)
                        await asyncio.wait_for(answered(reader), 20)
                        await eventually(lambda: rig.held == (0, (0, 0), False), what=f"all returned: {step}")
                if faults.has_struck:
                    struck.add(step)
                    async with connected(url) as (reader, writer):
                        writer.write(request(SMALL, "x-try: 0", "connection: close"))
                        assert await asyncio.wait_for(answered(reader), 20), step
                for called, times in faults.calls.items():
                    tries.update({(called, time): 0 for time in range(1, 1 + min(times, CALLS))})
                # The steps vary a little with what ran before, so each of them has several tries.
                step = next((each for each in tries if each[0] and each not in struck and tries[each] < TRIES), None)
        rig.upstream.close()
    named = {called for called, _ in struck}
    assert {each.__qualname__ for each in way.through} <= named
    assert len(named) > (20 if way.max_buffered_bytes > len(SMALL) else 5)
