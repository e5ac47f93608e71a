"""The client's connection, byte by byte and second by second: what is malformed, what is slow."""

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
from router.jobs.endpoints import Asked, JobHead
from router.jobs.job import AnswerCallback
from router.policy.client_timeouts import LAST_REQUEST_S, LINGER_S, MAKE_ROOM_S, ClientTimeouts
from router.policy.verdict import Outcome
from router.telemetry.recorder import Recorder
from tests.support.malformed import MALFORMED, WELL_FORMED
from tests.support.serving import served

# As much as uvloop reads at once.
READ_BYTES = 256_000


class Wire(asyncio.Transport):
    """A transport that records what is written, and how it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unread_bytes = 0
        self.end = ""
        self._socket = socket.socket()

    def __del__(self) -> None:
        self._socket.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        assert not self.end
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        """Return what the test says."""
        return self.unread_bytes

    def write_eof(self) -> None:
        """Close the way out."""
        self.end = "eof"

    def can_write_eof(self) -> bool:
        """As TCP can."""
        return True

    def close(self) -> None:
        """Close it."""
        self.end = "closed"

    def abort(self) -> None:
        """Cut it."""
        self.end = "cut"

    def is_closing(self) -> bool:
        """Return False for a half-closed connection."""
        return self.end in ("closed", "cut")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Give a socket without a connection."""
        return self._socket if name == "socket" else default

    def pause_reading(self) -> None:
        """Go on; the test sends what it sends."""

    def resume_reading(self) -> None:
        """Go on."""


ANSWER = Answer(200, b"content-length: 2\r\n", b"{}", Outcome.RESULT)


class Application:
    """Reads each request to its end, then answers with an empty object; `bodies` holds the whole ones."""

    def __init__(self, *, is_hasty: bool = False) -> None:
        self.bodies: list[bytes] = []
        self.header_names: set[bytes] = set()
        self.running = 0
        self.keys: list[bytes] = []
        self.begun = 0  # jobs that did not come by ASGI
        self.parsed = 0  # heads
        self.heads = HeadCache[JobHead]()
        self.recorder = Recorder()
        self._is_hasty = is_hasty

    @property
    def known(self) -> int:
        """How many jobs were begun without parsing their heads."""
        return self.begun - self.parsed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; a hasty application does not read the body."""
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
        """Read a head as JobHandler does."""
        self.parsed += 1
        request_id = dict(asked.headers).get(b"x-request-id")
        return JobHead(asked.path, b"", b"", Admission(asked.headers), keep_alive, request_id)

    def begin(
        self, head: JobHead, body: bytes, has_left: Callable[[], Coroutine[None, None, None]], deliver: AnswerCallback
    ) -> None:
        """Take a job that has come whole, and answer it a little later."""
        del has_left
        self.bodies.append(body)
        self.begun += 1
        self._note(head.admission.headers)
        asyncio.get_running_loop().call_soon(deliver, ANSWER)

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
    """The loop's timers by a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: dict[asyncio.TimerHandle, Callable[[], None]] = {}

    def time(self) -> float:
        """Return the moment."""
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back when the clock reaches that moment."""
        loop = cast("asyncio.AbstractEventLoop", self)
        timer = asyncio.TimerHandle(self.now + delay_s, callback, (), loop)
        self._timers[timer] = callback
        return timer

    def call_soon(self, callback: Callable[..., None], *args: object) -> None:
        """Leave this to the real loop."""
        asyncio.get_running_loop().call_soon(callback, *args)

    def get_debug(self) -> bool:
        """Keep no tracebacks."""
        return False

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        self._timers.pop(timer, None)

    def create_task(self, coroutine: Any) -> asyncio.Task[None]:
        """Leave tasks to the real loop."""
        return asyncio.get_running_loop().create_task(coroutine)

    def move(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer.when() <= end]:
            timer = min(due, key=lambda timer: timer.when())
            self.now = timer.when()
            self._timers.pop(timer)()
        self.now = end


class Connected:
    """A connection on a wire, and the application behind it; with another's `state` it is not made at once."""

    def __init__(self, *, is_hasty: bool = False, is_direct: bool = False, state: dict[str, Any] | None = None) -> None:
        self.application = Application(is_hasty=is_hasty)
        config = Config(self.application, log_config=None, access_log=False, lifespan="off", proxy_headers=False)
        config.timeout_keep_alive = 10_000
        self.wire = Wire()
        self.clock = Clock()
        loop = cast("asyncio.AbstractEventLoop", self.clock)
        self.state: dict[str, Any] = {HANDLER: self.application} if is_direct else {}
        self.protocol = ClientConnection(config, ServerState(), self.state if state is None else state, loop)
        if state is None:
            self.protocol.connection_made(self.wire)

    async def receive(self, *pieces: bytes) -> None:
        """Receive these pieces, one at a time, and let the application come to rest."""
        for piece in pieces:
            self.protocol.data_received(piece)
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
    """Return a new connection that has received these requests, each after the answer to the one before."""

    async def receive() -> Connected:
        connected = Connected(is_direct=True)
        for request in requests:
            if not connected.wire.end:
                await connected.receive(request)
        return connected

    return asyncio.run(receive())


def cut(request: bytes, places: list[float]) -> list[bytes]:
    """Return `request` in pieces, cut at these shares of its length, and none longer than uvloop reads at once."""
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
    """A malformed request that is pipelined behind a good one does not harm it."""
    connected = received(cut(WELL_FORMED["plain"] + MALFORMED[name][0], places), is_direct=is_direct)
    assert connected.statuses in ([200], [200, MALFORMED[name][1]])
    assert connected.application.bodies == [b"{}"]
    assert connected.wire.end


def test_application_that_does_not_wait_for_a_malformed_body_answers_nothing() -> None:
    """The refusal is the only answer, even if the application has one ready."""
    connected = received([MALFORMED["chunk size g"][0]], is_hasty=True)
    assert connected.statuses == [HTTPStatus.BAD_REQUEST]


@pytest.mark.parametrize("is_direct", [False, True])
def test_pipelined_requests_are_all_answered_in_order(is_direct: bool) -> None:
    """Three requests in one packet, the last one not whole."""
    last = WELL_FORMED["plain"]
    pieces = [WELL_FORMED["plain"] + WELL_FORMED["chunked"] + last[:9], last[9:]]
    connected = received(pieces, is_direct=is_direct)
    assert (connected.statuses, connected.application.bodies) == ([200] * 3, [b"{}"] * 3)


# Heads that have been read before

KEYED = b"POST /run_code HTTP/1.1\r\nHost: a\r\nX-Key: %s\r\nContent-Length: %d\r\n\r\n%s"


def keyed(key: bytes, body: bytes) -> bytes:
    """Return a job whose head is told from others' by a field."""
    return KEYED % (key, len(body), body)


@pytest.mark.parametrize("name", sorted(WELL_FORMED))
def test_request_that_comes_again_is_served_as_at_first(name: str) -> None:
    """Its head may be known by then or not; a known head is not parsed."""
    connected = served_in_turn([WELL_FORMED[name]] * 3)
    is_kept = b"connection: close" not in connected.wire.written.lower()
    assert connected.application.bodies == [b"{}"] * (3 if is_kept else 1)
    assert set(connected.statuses) == {200}
    if name == "plain":
        assert connected.application.known == 2


@pytest.mark.parametrize("name", sorted(MALFORMED))
def test_malformed_request_is_refused_by_who_knows_all_good_heads(name: str) -> None:
    """No head is mistaken for another, however alike they are."""
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


def test_head_is_known_whatever_the_length_of_its_body() -> None:
    """Bodies differ, heads do not."""
    bodies = [b"{}", b'{"code": "1"}', b"x" * 60_000, b""]
    connected = served_in_turn([keyed(b"1", body) for body in bodies])
    assert (connected.application.bodies, connected.application.known) == (bodies, 3)


async def test_head_of_a_pipelined_job_is_not_taken_for_the_one_before() -> None:
    """The second job comes while the first, whose head was just read, still runs; both come again."""
    connected = Connected(is_direct=True)
    connected.protocol.data_received(keyed(b"1", b"a"))
    connected.protocol.data_received(keyed(b"2", b"b"))
    await connected.receive()
    await connected.receive(keyed(b"1", b"c"), keyed(b"2", b"d"), keyed(b"1", b"e"))
    assert connected.application.bodies == [b"a", b"b", b"c", b"d", b"e"]
    assert connected.application.keys == [b"1", b"2", b"1", b"2", b"1"]


@pytest.mark.parametrize("field", [b"X-Request-Id: 7", b"Expect: 100-continue"])
def test_head_that_is_one_job_s_alone_is_not_kept(field: bytes) -> None:
    """A request id never comes again; a client that waits for a 100 must get it each time."""
    request = WELL_FORMED["plain"].replace(b"\r\n", b"\r\n" + field + b"\r\n", 1)
    connected = served_in_turn([request] * 3)
    assert (len(connected.application.bodies), connected.application.known) == (3, 0)


@given(cuts, st.sampled_from([0, 2, HIGH_WATER_LIMIT]))
def test_small_job_is_begun_at_its_body_s_end_however_it_is_cut(places: list[float], size: int) -> None:
    """It needs no task and no ASGI scope."""
    request = keyed(b"1", b"x" * size)
    connected = received(cut(request, places), is_direct=True)
    assert (connected.statuses, connected.application.begun) == ([200], 1)
    assert connected.application.bodies == [b"x" * size]


@pytest.mark.parametrize(
    "pieces",
    [
        [keyed(b"1", b"x" * (HIGH_WATER_LIMIT + 1))[:90], keyed(b"1", b"x" * (HIGH_WATER_LIMIT + 1))[90:]],
        [WELL_FORMED["chunked"]],
        [WELL_FORMED["plain"].replace(b"Host", b"Origin: http://a\r\nHost")],
        [WELL_FORMED["plain"].replace(b"Host", b"Expect: 100-continue\r\nHost")],
    ],
    ids=["large", "chunked", "of a page", "waits for 100"],
)
def test_job_that_needs_more_goes_by_asgi(pieces: list[bytes]) -> None:
    """A large body is read as there is room; a page needs CORS; a client may wait for a 100 before its body."""
    connected = received(pieces, is_direct=True)
    assert (connected.statuses[-1], len(connected.application.bodies), connected.application.begun) == (200, 1, 0)


async def test_absolute_target_s_host_counts_in_the_place_of_host() -> None:
    """RFC 9112 §3.2.2. Its sender does not count as a user of this host, because such targets are meant for proxies."""
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


async def test_connection_that_sends_nothing_is_closed_without_a_word() -> None:
    """There is no request to answer."""
    connected = Connected()
    connected.clock.move(29.9)
    assert connected.wire.end == ""
    connected.clock.move(0.1)
    assert (connected.wire.end, connected.wire.written) == ("closed", b"")


async def test_head_is_due_from_a_fresh_connection_s_opening_and_then_from_its_first_byte() -> None:
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


async def test_head_that_begins_behind_another_request_is_due_like_any_other() -> None:
    """The answer to the request before it does not make the connection an idle one."""
    connected = Connected(is_direct=True)
    await connected.receive(REQUEST + REQUEST[:9])
    connected.clock.move(29)
    assert (connected.statuses, connected.wire.end) == ([200], "")
    connected.clock.move(1)
    assert (connected.statuses, connected.wire.end) == ([200, 408], "eof")


@pytest.mark.parametrize("is_direct", [False, True])
async def test_body_is_due_from_its_head_s_end(is_direct: bool) -> None:
    """A slow head does not shorten its body's time; nothing is read after the refusal."""
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


LARGE = b"POST /run_code HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n"


@pytest.mark.parametrize("is_direct", [False, True])
async def test_body_that_comes_to_a_stop_is_refused_however_much_has_come(is_direct: bool) -> None:
    """After nearly all of 8 MB, silence or a byte now and then is allowed for 30 s."""
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


async def test_slow_but_steady_body_is_waited_for() -> None:
    """A client that sends 100 kB a second is never refused, in whatever pieces."""
    connected = Connected()
    await connected.receive(LARGE)
    for _ in range(4):
        connected.clock.move(20)
        await connected.receive(*[b"x" * 200_000] * 10)
    assert (connected.statuses, [len(body) for body in connected.application.bodies]) == ([200], [8_000_000])


async def test_refused_client_is_given_a_moment_to_stop() -> None:
    """If the connection were closed at once, it would be reset, and the client could lose the answer."""
    connected = Connected()
    await connected.receive(MALFORMED["two Hosts"][0])
    connected.clock.move(LINGER_S - 0.1)
    assert connected.wire.end == "eof"
    connected.clock.move(0.1)
    assert connected.wire.end == "closed"


async def test_answer_of_which_nothing_is_read_is_cut() -> None:
    """The connection is cut a minute after the last progress, and at most one look later."""
    connected = Connected()
    await connected.receive(REQUEST)
    connected.wire.unread_bytes = 100_000
    connected.clock.move(60)
    assert connected.wire.end == ""
    connected.clock.move(15)
    assert connected.wire.end == "cut"


async def test_reader_that_caught_up_between_two_looks_is_not_cut() -> None:
    """The same number of unread bytes at two looks does not mean that nothing was read."""
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
    """An application that waits for its client goes on once nothing was read for `read_s`."""
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
async def test_connection_without_a_request_gets_a_second_for_one_when_its_process_ends(
    before: list[bytes], is_direct: bool
) -> None:
    """The answer to that request says that it is the last; without one, the connection is closed silently."""
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
async def test_request_that_has_begun_may_end_when_its_process_does(is_direct: bool) -> None:
    """A request may be in its head or in its body at that moment; its answer is the last."""
    for length in (9, len(HEAD), len(HEAD) + 1):
        connected = Connected(is_direct=is_direct)
        await connected.receive(REQUEST[:length])
        connected.protocol.shutdown()
        connected.clock.move(20)
        await connected.receive(REQUEST[length:])
        assert (connected.statuses, connected.wire.end) == ([200], "closed")
        assert b"connection: close" in connected.wire.written


async def test_answer_that_has_begun_when_its_process_ends_is_not_the_last() -> None:
    """Its head has told the client to keep the connection; closing it would lose the client's next job."""
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


async def test_connection_made_when_its_process_ends_already_is_told() -> None:
    """A client accepted at the last moment could else keep the process alive for as long as it likes."""
    first = Connected()
    late = Connected(state=first.state)
    first.protocol.shutdown()
    late.protocol.connection_made(late.wire)
    await late.receive(REQUEST)
    assert (late.statuses, late.wire.end) == ([200], "closed")


async def test_application_that_begins_when_its_process_ends_is_told() -> None:
    """An endless stream would else keep the process alive."""
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


# Room for others


@pytest.mark.parametrize("is_direct", [False, True])
@pytest.mark.parametrize("before", [[], [REQUEST], [REQUEST, REQUEST]], ids=["fresh", "kept", "known"])
async def test_connection_that_makes_room_closes_after_its_next_answer(before: list[bytes], is_direct: bool) -> None:
    """A fresh connection keeps its usual time; an idle one closes after MAKE_ROOM_S, and not before."""
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


async def test_application_is_not_told_to_stop_where_its_connection_makes_room() -> None:
    """A batch would else end without its last lines."""
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


def test_connection_that_closes_leaves_nothing_to_collect() -> None:
    """Its parts refer to each other; collecting them would cost much CPU where each job has its own connection."""

    async def come_and_go() -> None:
        for _ in range(50):
            connected = Connected(is_direct=True)
            await connected.receive(REQUEST)
            await connected.receive(REQUEST)  # with a head that is known by now
            connected.protocol.connection_lost(None)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(come_and_go())
        assert sum(isinstance(each, ClientConnection) for each in gc.get_objects()) == 0
    finally:
        gc.enable()
