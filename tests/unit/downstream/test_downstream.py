"""A client's connection, byte by byte and second by second: malformed and slow requests."""

import asyncio
import gc
import json
import socket
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.server import ServerState

from router.auth.access import PROXY, Admission, peer_in
from router.downstream.connection import HANDLER, TIMEOUTS, ClientConnection
from router.http.answer import Answer
from router.http.asgi import STOPPING, Receive, Scope, Send
from router.http.head_cache import HeadCache
from router.http.headers import Headers
from router.jobs.body_budget import BodyBudget, BodyShare
from router.jobs.endpoints import Asked, JobHead
from router.jobs.job import AnswerCallback, JobRun
from router.policy.client_timeouts import LAST_REQUEST_S, LINGER_S, MAKE_ROOM_S, ClientTimeouts
from router.policy.verdict import Outcome
from router.telemetry.recorder import Recorder
from tests.support.malformed import MALFORMED, WELL_FORMED
from tests.support.serving import served
from tests.support.transport import feed

# uvloop reads at most this much at once.
READ_BYTES = 256_000


class Wire(asyncio.Transport):
    """A transport that records its written data and how it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unread_bytes = 0
        self.end = ""
        self.protocol: Any = None
        self._socket = socket.socket()

    def __del__(self) -> None:
        self._socket.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep the data."""
        assert not self.end
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        """Return the number that the test has set."""
        return self.unread_bytes

    def write_eof(self) -> None:
        """Record a half-closed connection."""
        self.end = "eof"

    def can_write_eof(self) -> bool:
        """Return True, like TCP."""
        return True

    def close(self) -> None:
        """Record that the connection is closed."""
        self.end = "closed"

    def abort(self) -> None:
        """Record that the connection is cut."""
        self.end = "cut"

    def is_closing(self) -> bool:
        """Return False for a half-closed connection."""
        return self.end in ("closed", "cut")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Give a socket without a connection."""
        return self._socket if name == "socket" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let this protocol have what comes from now on."""
        self.protocol = protocol

    def lose(self) -> None:
        """Tell that the client has hung up."""
        protocol, self.protocol = self.protocol, None
        protocol.connection_lost(None)

    def pause_reading(self) -> None:
        """Do nothing; the test decides what is sent."""

    def resume_reading(self) -> None:
        """Do nothing."""


LARGE_BYTES = 8_000_000
LARGE = b"POST /run_code HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE_BYTES
ANSWER = Answer(200, b"content-length: 2\r\n", b"{}", Outcome.RESULT)


class Application:
    """Reads each request to its end and answers with an empty object; `bodies` has the complete bodies."""

    def __init__(self, *, is_hasty: bool = False) -> None:
        self.bodies: list[bytes] = []
        self.header_names: set[bytes] = set()
        self.running = 0
        self.keys: list[bytes] = []
        self.begun = 0  # jobs that did not arrive by ASGI
        self.parsed = 0  # parsed heads
        self.heads = HeadCache[JobHead]()
        self.recorder = Recorder()
        self.buffers = BodyBudget(2**30)
        self._is_hasty = is_hasty

    @property
    def known(self) -> int:
        """The number of jobs that began without parsing their heads."""
        return self.begun - self.parsed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; a hasty application does not read its body."""
        self.running += 1
        if self._is_hasty or await self._read(receive):
            self._note(scope["headers"])
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"{}"})
        self.running -= 1

    def asked(self, target: bytes, headers: Headers) -> Asked | None:
        """Tell jobs from other requests as JobHandler does."""
        path, _, query = target.partition(b"?")
        return Asked("POST", "/run_code", query, headers) if path == b"/run_code" else None

    def read(self, asked: Asked, *, keep_alive: bool) -> JobHead:
        """Read a head like JobHandler does."""
        self.parsed += 1
        request_id = dict(asked.headers).get(b"x-request-id")
        return JobHead(asked.path, b"", b"", Admission(asked.headers), keep_alive, request_id)

    def begin(
        self,
        head: JobHead,
        body: bytes,
        has_left: Callable[[], Coroutine[None, None, None]],
        deliver: AnswerCallback,
        begun: Callable[[JobRun], None],
        counted: BodyShare | None = None,
    ) -> None:
        """Accept a complete job and answer it a little later."""
        del has_left, begun
        if counted is not None:
            assert counted.held_bytes == len(body)
            counted.give_back()
        self.bodies.append(body)
        self.begun += 1
        self._note(head.admission.headers)
        asyncio.get_running_loop().call_soon(deliver, ANSWER)

    def share_of(self, length: int) -> BodyShare | None:
        """Return a share of a budget, as JobHandler does."""
        share = self.buffers.share()
        return share if share.grow_if_ample(length) else None

    def _note(self, headers: Headers) -> None:
        self.header_names |= {name for name, _ in headers}
        self.keys += [value for name, value in headers if name == b"x-key"]

    async def _read(self, receive: Receive) -> bool:
        body = b""
        while (message := await receive())["type"] != "http.disconnect":
            body += message["body"]
            if not message["more_body"]:
                self.bodies.append(body)
                return True
        return False


class Clock:
    """The loop's timers, by a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: dict[asyncio.TimerHandle, Callable[[], None]] = {}

    def time(self) -> float:
        """Return the clock's time."""
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Schedule a callback for when the clock has moved that far."""
        loop = cast("asyncio.AbstractEventLoop", self)
        timer = asyncio.TimerHandle(self.now + delay_s, callback, (), loop)
        self._timers[timer] = callback
        return timer

    def call_soon(self, callback: Callable[..., None], *args: object) -> None:
        """Pass the callback to the real loop."""
        asyncio.get_running_loop().call_soon(callback, *args)

    def get_debug(self) -> bool:
        """Return False, so that timers keep no tracebacks."""
        return False

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        self._timers.pop(timer, None)

    def create_task(self, coroutine: Any) -> asyncio.Task[None]:
        """Create the task in the real loop."""
        return asyncio.get_running_loop().create_task(coroutine)

    def move(self, seconds: float) -> None:
        """Move the clock, and run the timers that are due."""
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer.when() <= end]:
            timer = min(due, key=lambda timer: timer.when())
            self.now = timer.when()
            self._timers.pop(timer)()
        self.now = end


class Connected:
    """A connection on a Wire with its application; with a given `state` it is not opened at once."""

    def __init__(self, *, is_hasty: bool = False, is_direct: bool = False, state: dict[str, Any] | None = None) -> None:
        self.application = Application(is_hasty=is_hasty)
        config = Config(self.application, log_config=None, access_log=False, lifespan="off", proxy_headers=False)
        config.timeout_keep_alive = 10_000
        self.wire = Wire()
        self.clock = Clock()
        loop = cast("asyncio.AbstractEventLoop", self.clock)
        self.state: dict[str, Any] = {HANDLER: self.application} if is_direct else {}
        self.protocol = ClientConnection(config, ServerState(), self.state if state is None else state, loop)
        self.wire.set_protocol(self.protocol)
        if state is None:
            self.protocol.connection_made(self.wire)

    async def receive(self, *pieces: bytes) -> None:
        """Receive these pieces one at a time, and let the application finish its work."""
        for piece in pieces:
            feed(self.wire, piece)
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def statuses(self) -> list[int]:
        """The status of each answer."""
        return [int(part[:3]) for part in self.wire.written.split(b"HTTP/1.1 ")[1:]]


def received(pieces: list[bytes], *, is_hasty: bool = False, is_direct: bool = False) -> Connected:
    """Return a new connection that has received these pieces."""

    async def receive() -> Connected:
        connected = Connected(is_hasty=is_hasty, is_direct=is_direct)
        await connected.receive(*pieces)
        return connected

    return asyncio.run(receive())


def served_in_turn(requests: list[bytes]) -> Connected:
    """Return a new connection that has received these requests, each after the previous one's answer."""

    async def receive() -> Connected:
        connected = Connected(is_direct=True)
        for request in requests:
            if not connected.wire.end:
                await connected.receive(request)
        return connected

    return asyncio.run(receive())


def cut(request: bytes, places: list[float]) -> list[bytes]:
    """Return `request` in pieces, cut at these shares of its length, none longer than uvloop reads at once."""
    at = sorted({*(int(place * len(request)) for place in places), *range(0, len(request), READ_BYTES), len(request)})
    return [request[start:end] for start, end in pairwise(at)]


cuts = st.lists(st.floats(0, 1), max_size=4)


@settings(max_examples=1000)
@given(st.sampled_from(sorted(MALFORMED)), cuts, st.booleans())
def test_malformed_requests_are_refused_however_they_are_cut(name: str, places: list[float], is_direct: bool) -> None:
    """The answer is the same wherever packets begin and end, and the application sees nothing."""
    request, status = MALFORMED[name]
    connected = received(cut(request, places), is_direct=is_direct)
    assert connected.statuses == [status]
    head, _, body = connected.wire.written.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert json.loads(body)["detail"]
    assert connected.wire.end == "eof"
    assert (connected.application.bodies, connected.application.running) == ([], 0)


@given(st.sampled_from(sorted(WELL_FORMED)), cuts, st.booleans())
def test_good_requests_are_served_however_they_are_cut(name: str, places: list[float], is_direct: bool) -> None:
    """A well-formed request is served, even if it is unusual; trailers are dropped."""
    connected = received(cut(WELL_FORMED[name], places), is_direct=is_direct)
    assert (connected.statuses, connected.application.bodies) == ([200], [b"{}"])
    assert b"x-trailer" not in connected.application.header_names


@pytest.mark.parametrize("name", ["two Hosts", "chunk size g", "long trailer"])
@given(cuts, st.booleans())
def test_request_before_a_malformed_one_is_answered_first(name: str, places: list[float], is_direct: bool) -> None:
    """A malformed request that is pipelined behind a good one does not affect the good one."""
    connected = received(cut(WELL_FORMED["plain"] + MALFORMED[name][0], places), is_direct=is_direct)
    assert connected.statuses in ([200], [200, MALFORMED[name][1]])
    assert connected.application.bodies == [b"{}"]
    assert connected.wire.end


def test_refusal_of_a_malformed_body_is_the_only_answer() -> None:
    """The refusal is the only answer, even if the application has one ready."""
    connected = received([MALFORMED["chunk size g"][0]], is_hasty=True)
    assert connected.statuses == [HTTPStatus.BAD_REQUEST]


@pytest.mark.parametrize("is_direct", [False, True])
def test_pipelined_requests_are_all_answered_in_order(is_direct: bool) -> None:
    """Three requests in one packet, of which the last is not complete, are answered in order."""
    last = WELL_FORMED["plain"]
    pieces = [WELL_FORMED["plain"] + WELL_FORMED["chunked"] + last[:9], last[9:]]
    connected = received(pieces, is_direct=is_direct)
    assert (connected.statuses, connected.application.bodies) == ([200] * 3, [b"{}"] * 3)


# Heads in the head cache

KEYED = b"POST /run_code HTTP/1.1\r\nHost: a\r\nX-Key: %s\r\nContent-Length: %d\r\n\r\n%s"


def keyed(key: bytes, body: bytes) -> bytes:
    """Return a job whose head differs from others' in one field."""
    return KEYED % (key, len(body), body)


@pytest.mark.parametrize("name", sorted(WELL_FORMED))
def test_repeated_request_is_served_like_the_first(name: str) -> None:
    """Its head may be in the cache by then, and then it is not parsed."""
    connected = served_in_turn([WELL_FORMED[name]] * 3)
    is_kept = b"connection: close" not in connected.wire.written.lower()
    assert connected.application.bodies == [b"{}"] * (3 if is_kept else 1)
    assert set(connected.statuses) == {200}
    if name == "plain":
        assert connected.application.known == 2


@pytest.mark.parametrize("name", sorted(MALFORMED))
def test_malformed_request_is_refused_with_a_full_head_cache(name: str) -> None:
    """No head is mistaken for another one, however similar they are."""
    request, status = MALFORMED[name]

    async def receive() -> list[int]:
        knowing = Connected(is_direct=True)
        for good in (*WELL_FORMED.values(), keyed(b"1", b"{}")):
            other = Connected(is_direct=True)
            other.application.heads = knowing.application.heads
            await other.receive(good)
        await knowing.receive(*cut(request, []))
        return knowing.statuses

    assert asyncio.run(receive()) == [status]


def test_head_is_cached_for_bodies_of_any_length() -> None:
    """Heads that differ only in the body's length share one entry."""
    bodies = [b"{}", b'{"code": "1"}', b"x" * 60_000, b""]
    connected = served_in_turn([keyed(b"1", body) for body in bodies])
    assert (connected.application.bodies, connected.application.known) == (bodies, 3)


async def test_head_of_a_pipelined_job_is_not_mistaken_for_the_previous_one() -> None:
    """A job arrives while the one before, whose head was just read, still runs; then both arrive again."""
    connected = Connected(is_direct=True)
    connected.protocol.data_received(keyed(b"1", b"a"))
    connected.protocol.data_received(keyed(b"2", b"b"))
    await connected.receive()
    await connected.receive(keyed(b"1", b"c"), keyed(b"2", b"d"), keyed(b"1", b"e"))
    assert connected.application.bodies == [b"a", b"b", b"c", b"d", b"e"]
    assert connected.application.keys == [b"1", b"2", b"1", b"2", b"1"]


@pytest.mark.parametrize("field", [b"X-Request-Id: 7", b"Expect: 100-continue"])
def test_head_that_cannot_repeat_is_not_cached(field: bytes) -> None:
    """A request id never repeats, and a client that waits for a 100 must get it each time."""
    request = WELL_FORMED["plain"].replace(b"\r\n", b"\r\n" + field + b"\r\n", 1)
    connected = served_in_turn([request] * 3)
    assert (len(connected.application.bodies), connected.application.known) == (3, 0)


@given(cuts, st.sampled_from([0, 2, HIGH_WATER_LIMIT]))
def test_small_job_begins_at_its_body_s_end(places: list[float], size: int) -> None:
    """A small job needs no task and no ASGI scope, however its bytes are cut."""
    request = keyed(b"1", b"x" * size)
    connected = received(cut(request, places), is_direct=True)
    assert (connected.statuses, connected.application.begun) == ([200], 1)
    assert connected.application.bodies == [b"x" * size]


@pytest.mark.parametrize(
    "pieces",
    [
        [WELL_FORMED["chunked"]],
        [WELL_FORMED["plain"].replace(b"Host", b"Origin: http://a\r\nHost")],
        [WELL_FORMED["plain"].replace(b"Host", b"Expect: 100-continue\r\nHost")],
    ],
    ids=["chunked", "of a page", "waits for 100"],
)
def test_special_job_goes_by_asgi(pieces: list[bytes]) -> None:
    """Its body's length is not known, a page needs CORS, and a client may wait for a 100 before its body."""
    connected = received(pieces, is_direct=True)
    assert (connected.statuses[-1], len(connected.application.bodies), connected.application.begun) == (200, 1, 0)


@given(st.integers(HIGH_WATER_LIMIT - 1, HIGH_WATER_LIMIT + 1), st.integers(0, 2**20), cuts, st.booleans())
def test_long_body_is_read_whole_however_it_is_cut(size: int, more: int, places: list[float], has_room: bool) -> None:
    """It is counted before it comes, or by ASGI's way as it comes; the next request may follow at once."""
    bodies = [bytes(1) * (size + more), b"{}", b"y" * size]

    async def receive() -> Connected:
        connected = Connected(is_direct=True)
        if not has_room:
            connected.application.buffers = BodyBudget(2 * size)
        await connected.receive(*cut(b"".join(keyed(b"1", body) for body in bodies), places))
        return connected

    connected = asyncio.run(receive())
    assert (connected.statuses, connected.application.bodies) == ([200] * 3, bodies)
    assert connected.application.buffers.held_bytes == 0


@pytest.mark.parametrize("end", ["lost", "too slow"])
async def test_long_body_that_never_gets_whole_is_let_go(end: str) -> None:
    """Its memory is free again as soon as the client has left, or is refused for sending too slowly."""
    connected = Connected(is_direct=True)
    await connected.receive(LARGE, b"x" * 70_000)
    assert connected.application.buffers.held_bytes == LARGE_BYTES
    if end == "lost":
        connected.wire.lose()
    else:
        connected.clock.move(31)
        assert connected.statuses == [408]
        await connected.receive(b"x" * 70_000)
    assert connected.application.buffers.held_bytes == 0
    assert connected.application.bodies == []


async def test_absolute_target_s_host_replaces_host() -> None:
    """Its sender does not count as a user of this host, because such targets are for proxies (RFC 9112 §3.2.2)."""
    connected = Connected()
    seen: list[tuple[Headers, str]] = []

    async def application(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(([field for field in scope["headers"] if field[0] == b"host"], peer_in(scope)))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    connected.protocol.app = application
    for target in (b"http://evil.com/admin", b"http://router/admin", b"/admin"):
        await connected.receive(b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % target)
    assert [hosts for hosts, _ in seen] == [[(b"host", name)] for name in (b"evil.com", b"router", b"127.0.0.1")]
    assert [peer == PROXY for _, peer in seen] == [True, True, False]


# Time

REQUEST = WELL_FORMED["plain"]
HEAD = REQUEST.removesuffix(b"{}")


async def test_connection_that_sends_nothing_is_closed_silently() -> None:
    """Without a request there is nothing to answer."""
    connected = Connected()
    connected.clock.move(29.9)
    assert connected.wire.end == ""
    connected.clock.move(0.1)
    assert (connected.wire.end, connected.wire.written) == ("closed", b"")


async def test_head_s_time_starts_at_the_opening_and_later_at_the_first_byte() -> None:
    """A client may pause between two requests, but not within a head."""
    connected = Connected()
    connected.clock.move(29)
    await connected.receive(REQUEST)
    connected.clock.move(60)
    await connected.receive(REQUEST[:9])
    connected.clock.move(29)
    await connected.receive(REQUEST[9:])
    connected.clock.move(60)
    assert (connected.statuses, connected.wire.end) == ([200, 200], "")
    await connected.receive(REQUEST[:9])
    connected.clock.move(30)
    assert (connected.statuses, connected.wire.end) == ([200, 200, 408], "eof")


async def test_pipelined_head_has_the_usual_time_limit() -> None:
    """The answer to the previous request does not make the connection idle."""
    connected = Connected(is_direct=True)
    await connected.receive(REQUEST + REQUEST[:9])
    connected.clock.move(29)
    assert (connected.statuses, connected.wire.end) == ([200], "")
    connected.clock.move(1)
    assert (connected.statuses, connected.wire.end) == ([200, 408], "eof")


@pytest.mark.parametrize("is_direct", [False, True])
async def test_body_s_time_starts_at_its_head_s_end(is_direct: bool) -> None:
    """A slow head does not shorten its body's time, and nothing is read after the refusal."""
    connected = Connected(is_direct=is_direct)
    await connected.receive(HEAD[:9])
    connected.clock.move(29)
    await connected.receive(HEAD[9:])
    connected.clock.move(29)
    await connected.receive(b"{")
    assert connected.statuses == []
    connected.clock.move(1.1)
    assert (connected.statuses, connected.wire.end) == ([408], "eof")
    await connected.receive(b"}", REQUEST)
    assert connected.statuses == [408]
    assert (connected.application.bodies, connected.application.running) == ([], 0)


@pytest.mark.parametrize("is_direct", [False, True])
async def test_body_that_stops_is_refused_however_much_has_arrived(is_direct: bool) -> None:
    """After nearly all of 8 MB, silence or a byte now and then is allowed for 30 s only."""
    for drip in (b"", b"x"):
        connected = Connected(is_direct=is_direct)
        await connected.receive(LARGE, *[b"x" * 79_999] * 100)
        for _ in range(3):
            connected.clock.move(9.9)
            await connected.receive(*([drip] if drip else []))
        assert connected.statuses == []
        connected.clock.move(0.4)
        await connected.receive()
        assert (connected.statuses, connected.wire.end) == ([408], "eof")
        assert connected.application.running == 0


async def test_slow_but_steady_body_is_never_refused() -> None:
    """A client that sends 100 kB a second is in time, in pieces of any size."""
    connected = Connected()
    await connected.receive(LARGE)
    for _ in range(4):
        connected.clock.move(20)
        await connected.receive(*[b"x" * 200_000] * 10)
    assert (connected.statuses, [len(body) for body in connected.application.bodies]) == ([200], [8_000_000])


async def test_refused_client_gets_a_moment_to_stop() -> None:
    """Closing at once would reset the connection, and the client could lose the answer."""
    connected = Connected()
    await connected.receive(MALFORMED["two Hosts"][0])
    connected.clock.move(LINGER_S - 0.1)
    assert connected.wire.end == "eof"
    connected.clock.move(0.1)
    assert connected.wire.end == "closed"


async def test_unread_answer_is_cut() -> None:
    """The connection is cut a minute after the last progress, and at most one check later."""
    connected = Connected()
    await connected.receive(REQUEST)
    connected.wire.unread_bytes = 100_000
    connected.clock.move(60)
    assert connected.wire.end == ""
    connected.clock.move(15)
    assert connected.wire.end == "cut"


async def test_reader_that_caught_up_between_two_checks_is_not_cut() -> None:
    """Equal numbers of unread bytes at two checks do not prove that nothing was read."""
    connected = Connected()
    await connected.receive(REQUEST)
    connected.wire.unread_bytes = 100_000
    connected.protocol.pause_writing()
    connected.clock.move(50)
    connected.protocol.resume_writing()
    connected.protocol.pause_writing()
    connected.clock.move(60)
    assert connected.wire.end == ""


async def test_streamed_answer_that_is_not_read_is_cut() -> None:
    """An application that waits for its client continues once nothing was read for `read_s`."""
    is_let_go = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"][TIMEOUTS] = ClientTimeouts(read_s=0.5)
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
        is_let_go.set()

    async with served(application) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), limit=1)
        writer.write(REQUEST)
        await is_let_go.wait()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


# The end of the process


@pytest.mark.parametrize("is_direct", [False, True])
@pytest.mark.parametrize("before", [[], [REQUEST], [REQUEST, REQUEST]], ids=["fresh", "kept", "known"])
async def test_connection_of_an_ending_process_has_a_second_for_a_last_request(
    before: list[bytes], is_direct: bool
) -> None:
    """That request's answer says that it is the last; without a request the connection is closed silently."""
    for is_used in (False, True):
        connected = Connected(is_direct=is_direct)
        for request in before:
            await connected.receive(request)
        assert b"connection: close" not in connected.wire.written
        connected.protocol.shutdown()
        connected.clock.move(LAST_REQUEST_S - 0.1)
        assert connected.wire.end == ""
        if is_used:
            await connected.receive(REQUEST)
            assert connected.wire.written.count(b"connection: close") == 1
        connected.clock.move(0.1)
        assert (connected.statuses, connected.wire.end) == ([200] * (len(before) + is_used), "closed")


@pytest.mark.parametrize("is_direct", [False, True])
async def test_started_request_of_an_ending_process_is_answered(is_direct: bool) -> None:
    """A request may be in its head or its body at that moment, and its answer is the last."""
    for length in (9, len(HEAD), len(HEAD) + 1):
        connected = Connected(is_direct=is_direct)
        await connected.receive(REQUEST[:length])
        connected.protocol.shutdown()
        connected.clock.move(20)
        await connected.receive(REQUEST[length:])
        assert (connected.statuses, connected.wire.end) == ([200], "closed")
        assert b"connection: close" in connected.wire.written


async def test_started_answer_of_an_ending_process_is_not_the_last() -> None:
    """Its head has told the client to keep the connection, so closing it would lose the client's next job."""
    connected = Connected()
    gate = asyncio.Event()

    async def slow(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await gate.wait()
        await send({"type": "http.response.body", "body": b"{}"})

    connected.protocol.app = slow
    await connected.receive(REQUEST)
    connected.protocol.shutdown()
    gate.set()
    await connected.receive()
    assert connected.wire.end == ""
    await connected.receive(REQUEST)
    assert (connected.statuses, connected.wire.end) == ([200, 200], "closed")


async def test_connection_made_while_its_process_ends_ends_too() -> None:
    """Otherwise a client accepted at the last moment could keep the process alive."""
    first = Connected()
    late = Connected(state=first.state)
    first.protocol.shutdown()
    late.protocol.connection_made(late.wire)
    await late.receive(REQUEST)
    assert (late.statuses, late.wire.end) == ([200], "closed")


async def test_application_that_starts_while_its_process_ends_is_notified() -> None:
    """Otherwise an endless stream would keep the process alive."""
    connected = Connected()
    stopping = asyncio.Event()

    async def stream(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["state"][STOPPING] = stopping
        await stopping.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    connected.protocol.app = stream
    connected.protocol.shutdown()
    await connected.receive(REQUEST)
    assert (connected.statuses, connected.wire.end) == ([200], "closed")


# Connections that make room for others


@pytest.mark.parametrize("is_direct", [False, True])
@pytest.mark.parametrize("before", [[], [REQUEST], [REQUEST, REQUEST]], ids=["fresh", "kept", "known"])
async def test_connection_that_makes_room_closes_after_its_next_answer(before: list[bytes], is_direct: bool) -> None:
    """A new connection keeps its usual time, and an idle one closes exactly after MAKE_ROOM_S."""
    for is_used in (False, True):
        connected = Connected(is_direct=is_direct)
        for request in before:
            await connected.receive(request)
        connected.clock.move(1)
        connected.protocol.leave()
        connected.clock.move(MAKE_ROOM_S - 1.1)
        assert connected.wire.end == ""
        if is_used:
            await connected.receive(REQUEST)
            assert connected.wire.written.count(b"connection: close") == 1
        connected.clock.move(0.1)
        assert (connected.wire.end == "closed") is (is_used or bool(before))
        assert connected.statuses == [200] * (len(before) + is_used)


async def test_application_is_not_stopped_by_a_connection_that_makes_room() -> None:
    """Otherwise a batch would end without its last lines."""
    connected = Connected()
    stopping = asyncio.Event()

    async def batch(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["state"][STOPPING] = stopping
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    connected.protocol.app = batch
    connected.protocol.leave()
    await connected.receive(REQUEST)
    assert (connected.statuses, connected.wire.end, stopping.is_set()) == ([200], "closed", False)


def test_closed_connection_leaves_nothing_to_the_garbage_collector() -> None:
    """Parts that refer to each other would cost the collector much CPU if each job has its own connection."""

    async def come_and_go() -> None:
        for _ in range(50):
            connected = Connected(is_direct=True)
            await connected.receive(REQUEST)
            await connected.receive(REQUEST)  # with a head from the cache
            connected.wire.lose()

    gc.collect()
    gc.disable()
    try:
        asyncio.run(come_and_go())
        assert sum(isinstance(each, ClientConnection) for each in gc.get_objects()) == 0
    finally:
        gc.enable()
