"""Measures what a job costs the router process alone, without sockets and Redis.

Everything from the bytes of the client's request to the bytes of its answer is real: ClientConnection, JobHandler,
Dispatcher, Leases, RedisClient, RedisScheduler, WorkerPool, upstream Connection. Transports are callbacks. In place of
Redis, a few lines grant every lease at once. There are four loads: many clients, which share the cost of a call of the
scheduler; one client; many clients that use a new connection for each job; and many clients of one tenant.

`python -m bench.request_cost` prints the CPU µs a request, and the functions that are called. A regression test counts
these calls, because they do not depend on the machine or on other programs.
"""

import asyncio
import gc
import itertools
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import hiredis
import msgspec
import uvloop
from redis.asyncio import ConnectionPool, Redis
from uvicorn.config import Config
from uvicorn.server import ServerState

from bench.support.report import show
from router.auth.access import JobGate
from router.auth.origin import Pages
from router.config.settings import Settings
from router.downstream.connection import HANDLER, TIMEOUTS, ClientConnection
from router.fleet.model import Worker
from router.fleet.redis_client import RedisClient
from router.fleet.sizes import FleetSizes
from router.fleet.snapshot import FleetView
from router.http.head_cache import HeadCache
from router.http.headers import WorkerHead
from router.jobs.body_budget import BodyBudget
from router.jobs.dispatcher import Dispatcher
from router.jobs.handler import JobHandler
from router.jobs.sooner.sizes import Sizes
from router.policy.client_timeouts import ClientTimeouts
from router.scheduling.failover import FailoverScheduler
from router.scheduling.inbox import Inbox
from router.scheduling.leases import Leases
from router.scheduling.messages import Rules
from router.telemetry.recorder import Recorder
from router.upstream.connection import Connection
from router.upstream.pool import WorkerPool
from tests.support.programs import ROOT

MANY = 64
WARM_UP, COUNTED, TIMED, TIMES = 640, 1280, 2000, 20
_URLS = tuple(f"http://127.0.0.1:{port}" for port in (30001, 30002, 30003))
_TIMEOUT_S = 5.0
# So long that no time limit of a client runs out: its check would need a socket.
_EVER_S = 3600
_SHOWN = 40
# Calls of the event loop are not counted: the loop that is used here is not the one in production.
_LOOPS = ("/asyncio/base_events.py", "/asyncio/events.py", "/asyncio/selector_events.py", "/selectors.py")

_JOB = json.dumps({"language": "python", "code": "x" * 1160}).encode()
_REQUEST = (
    b"POST /run_code HTTP/1.1\r\nhost: 127.0.0.1:8000\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    % (len(_JOB), _JOB)
)
_RESULT = {"status": "Finished", "execution_time": 0.03, "return_code": 0, "stdout": "1" * 220, "stderr": ""}
_ANSWER = json.dumps({"status": "Success", "message": "", "compile_result": None, "run_result": _RESULT}).encode()
_RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_ANSWER),
    _ANSWER,
)


class _Wire(asyncio.Transport):
    """A transport that passes what is written to `on_write`."""

    def __init__(self, on_write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._on_write = on_write
        self._protocol: asyncio.BaseProtocol = asyncio.Protocol()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._on_write(bytes(data))

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Do nothing: the caller tells the protocol that its connection is lost."""

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Do nothing: no more data comes."""

    def resume_reading(self) -> None:
        """Do nothing: no more data comes."""


class _Pool(ConnectionPool):
    """A pool whose connections all lead to `_Server`."""

    async def get_connection(self, *_: Any, **_options: Any) -> Any:
        return _Server()


class _Server:
    """Stands in for redis-py's connection, and grants a lease to every job that arrives."""

    def __init__(self) -> None:
        self._tickets = itertools.count(1)
        self._requests = hiredis.Reader()
        self.transport = _Wire(self._asked)
        self._writer = self

    def _asked(self, data: bytes) -> None:
        self._requests.feed(data)
        call = cast("list[bytes]", self._requests.gets())[4]
        said = msgspec.json.decode(call)
        numbers = said["came"][::5] if "came" in said else [job[0] for job in said.get("arrived", ())]
        granted = [
            (number, _URLS[ticket % len(_URLS)], ticket) for number, ticket in zip(numbers, self._tickets, strict=False)
        ]
        reply = msgspec.msgpack.encode({"routable": len(_URLS), "processes": 1, "granted": granted})
        line = cast("asyncio.Protocol", self.transport.get_protocol())
        # As from a socket, the reply comes in a later turn of the loop.
        asyncio.get_running_loop().call_soon(line.data_received, b"$%d\r\n%s\r\n" % (len(reply), reply))


class Way:
    """A router in this process, and its clients."""

    def __init__(self, clients: int, *, reconnects: bool = False, is_named: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._reconnects = reconnects
        self._request = _REQUEST.replace(b"/run_code", b"/t/run-7/run_code") if is_named else _REQUEST
        settings = Settings.model_validate({"workers": _URLS})
        redis = RedisClient(Redis(connection_pool=_Pool()), "sfr", _TIMEOUT_S)
        view = FleetView(redis, [Worker(url) for url in _URLS])
        recorder = Recorder()
        leases = Leases(
            FailoverScheduler(redis, view, Rules(), 1, recorder), Inbox(redis, "way"), view, "way", recorder
        )
        upstream = WorkerPool(settings.tls)
        heads = HeadCache[WorkerHead]()
        for url in _URLS:
            for _ in range(clients):
                upstream.give_back(url, self._worker(heads))
        dispatcher = Dispatcher(leases, upstream, view, settings, recorder, Sizes(view, FleetSizes(redis, 1000)))
        handler = JobHandler(dispatcher, _no_api, JobGate(Pages((), ()), None), BodyBudget(2**30), settings, recorder)
        self._left = self._awaited = 0
        self._is_done = asyncio.Event()
        config = Config(_no_api, log_config=None, access_log=False, timeout_keep_alive=_EVER_S)
        server = ServerState()
        server.default_headers = [(b"date", b"Mon, 23 Nov 2026 19:26:02 GMT"), (b"server", b"uvicorn")]
        state = {HANDLER: handler, TIMEOUTS: ClientTimeouts(_EVER_S, _EVER_S)}
        logging.getLogger("uvicorn.error").setLevel(logging.INFO)  # as in production: at 0 it counts as TRACE
        self._accept = partial(ClientConnection, config, server, state, self._loop)
        self._clients = [self._client() for _ in range(clients)]

    async def send(self, requests: int) -> None:
        """Send `requests` requests and wait for all answers. Raises AssertionError if one is not 200."""
        self._left, self._awaited = requests - len(self._clients), requests
        self._is_done.clear()
        for client in self._clients:
            client.data_received(self._request)
        await self._is_done.wait()

    def _client(self) -> ClientConnection:
        client = self._accept()

        def answered(data: bytes) -> None:
            assert data.startswith(b"HTTP/1.1 200"), data
            self._awaited -= 1
            if self._left:
                self._left -= 1
                self._loop.call_soon(self._ask_again, client)
            elif not self._awaited:
                self._is_done.set()

        client.connection_made(_Wire(answered))
        return client

    def _ask_again(self, client: ClientConnection) -> None:
        if self._reconnects:
            client.connection_lost(None)
            self._clients.remove(client)
            client = self._client()
            self._clients.append(client)
        client.data_received(self._request)

    def _worker(self, heads: HeadCache[WorkerHead]) -> Connection:
        connection = Connection(heads)

        def asked(_: bytes) -> None:
            self._loop.call_soon(connection.data_received, _RESPONSE)

        connection.connection_made(_Wire(asked))
        connection.idle_since = time.monotonic()  # otherwise the pool would drop it as idle for too long
        return connection


async def _no_api(_scope: object, _receive: object, _send: object) -> None:
    raise AssertionError("only jobs are sent")


class _TimelessLoop(asyncio.SelectorEventLoop):
    """A loop whose timers never run out, so that everything happens in the same order each time."""

    def time(self) -> float:
        return 0.0


def calls(clients: int, *, reconnects: bool = False, is_named: bool = False) -> Counter[str]:
    """Return how often each function is called for COUNTED requests. A C function is named after its caller.

    A client that `reconnects` sends each request over a connection of its own; one that `is_named` names a tenant.
    """
    found: Counter[str] = Counter()

    def count(frame: FrameType, event: str, function: object) -> None:
        if event not in ("call", "c_call"):
            return
        file = frame.f_code.co_filename
        if file != __file__ and not file.endswith(_LOOPS):
            name = f"{file.removeprefix(f'{ROOT}/')}:{frame.f_code.co_qualname}"
            found[name if event == "call" else f"{name} → {getattr(function, '__qualname__', function)}"] += 1

    async def run() -> None:
        way = Way(clients, reconnects=reconnects, is_named=is_named)
        await way.send(WARM_UP)
        gc.disable()  # a collection would run code of other objects
        sys.setprofile(count)
        try:
            await way.send(COUNTED)
        finally:
            sys.setprofile(None)
            gc.enable()

    with asyncio.Runner(loop_factory=_TimelessLoop) as runner:
        runner.run(run())
    return found


async def best_us(clients: int, *, reconnects: bool = False, is_named: bool = False) -> float:
    """Return the CPU µs of a request in the fastest of TIMES runs."""
    way = Way(clients, reconnects=reconnects, is_named=is_named)
    await way.send(WARM_UP)
    best_s = float("inf")
    for _ in range(TIMES):
        start_s = time.process_time()
        await way.send(TIMED)
        best_s = min(best_s, time.process_time() - start_s)
    return best_s / TIMED * 1e6


if __name__ == "__main__":
    for clients, reconnects, is_named in (
        (MANY, False, False),
        (1, False, False),
        (MANY, True, False),
        (MANY, False, True),
    ):
        of = f"{', a connection for each job' if reconnects else ''}{', of one tenant' if is_named else ''}"
        title = f"{clients} clients{of}"
        found = calls(clients, reconnects=reconnects, is_named=is_named)
        rows = [[Path(name).name, count / COUNTED] for name, count in found.most_common(_SHOWN)]
        show([f"function, or the C function that it calls: {title}", "calls a request"], rows)
        us = uvloop.run(best_us(clients, reconnects=reconnects, is_named=is_named))
        print(f"\n{found.total() / COUNTED:.1f} calls a request, {us:.1f} µs\n")
