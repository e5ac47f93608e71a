"""One connection to a worker, byte by byte: its calls of the transport, and the moment of each delivery."""

import asyncio
import time
from collections.abc import Callable

import pytest

from router.http.head_cache import HeadCache
from router.http.headers import WorkerHead
from router.http.response import Broken, Phase, Response, Stale
from router.upstream.connection import HOLD_BYTES, JOINED_BYTES, MAX_HEAD_BYTES, STALE_WITHIN_S, Connection
from tests.support.timeless import timeless
from tests.support.transport import Transport, feed

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
OK = HEAD + b"ok"
DUE = 1000.0


def sized(body: bytes) -> bytes:
    """Return an answer with this body."""
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body


class Wire:
    """A connection with its deliveries."""

    def __init__(self, heads: HeadCache[WorkerHead] | None = None) -> None:
        self.heads = heads or HeadCache[WorkerHead]()
        self.connection = Connection(self.heads)
        self.transport = Transport()
        self.transport.set_protocol(self.connection)
        self.connection.connection_made(self.transport)
        self.given: list[Response | Broken] = []

    def ask(self, body: bytes = b"{}", due: float = DUE) -> None:
        """Send a request."""
        assert self.connection.is_reusable
        self.connection.send(b"head ", body, asyncio.get_running_loop().time(), due, self.given.append)
        assert not self.connection.is_reusable

    def hear(self, *parts: bytes) -> None:
        """Receive these bytes."""
        for part in parts:
            feed(self.transport, part)

    @property
    def bodies(self) -> list[bytes | str]:
        """The delivered bodies or causes."""
        return [each.body if isinstance(each, Response) else each.cause for each in self.given]


def run(law: Callable[[], None]) -> None:
    """Run code that needs a loop, with a clock that does not move by itself."""

    async def main() -> None:
        law()

    timeless(main())


@pytest.mark.parametrize("knows_head", [False, True])
@pytest.mark.parametrize("unsent", [0, 1])
def test_answer_before_the_whole_request_ends_the_connection(knows_head: bool, unsent: int) -> None:
    """The worker may read the rest of the body as the next job; a cached head makes no difference."""

    def law() -> None:
        wire = Wire()
        for _ in range(2 if knows_head else 0):
            wire.ask()
            wire.hear(OK)
        wire.ask()
        wire.transport.unsent = unsent
        wire.hear(OK)
        assert wire.bodies[-1] == b"ok"
        assert wire.connection.is_reusable is (unsent == 0)

    run(law)


def test_cached_head_is_not_parsed_again() -> None:
    """A cached head gives the same object again, and nothing is left of earlier answers."""

    def law() -> None:
        wire = Wire()
        for body in (b"ok", b"three", b"", b"ok"):
            wire.ask()
            wire.hear(sized(body))
        heads = [each.head for each in wire.given if isinstance(each, Response)]
        assert wire.bodies == [b"ok", b"three", b"", b"ok"]
        assert all(head is heads[0] for head in heads)
        wire.ask()
        wire.hear(HEAD, b"ok")
        assert wire.bodies[-1] == b"ok"

    run(law)


@pytest.mark.parametrize(
    ("first", "is_learnt"),
    [
        (OK, True),
        (HEAD.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + b"ok", False),
        (b"HTTP/1.1 204 X\r\ncontent-length: 2\r\n\r\n", False),
        (b"HTTP/1.1 304 X\r\ncontent-length: 2\r\n\r\n", False),
        (b"HTTP/1.1 204 X\r\ncontent-length: 0\r\n\r\n", False),
        (b"HTTP/1.1 103 X\r\n\r\n" + OK, False),
        (HEAD.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: gzip\r\n\r\n") + b"ok", False),
    ],
)
def test_only_a_complete_head_is_cached(first: bytes, is_learnt: bool) -> None:
    """A head that closes, has no body in spite of its length, or follows an interim answer is parsed each time."""

    def law() -> None:
        wire = Wire()
        wire.ask()
        wire.hear(first)
        assert bool(wire.heads._meanings) is is_learnt

    run(law)


def test_large_answer_is_never_delivered_in_one_piece() -> None:
    """Even with a cached head the client gets it as it arrives."""

    async def main() -> None:
        wire = Wire()
        for size in (2, HOLD_BYTES, HOLD_BYTES, HOLD_BYTES + 1):
            wire.ask()
            wire.hear(sized(b"x" * size))
            await asyncio.sleep(0)
            answer = wire.given[-1]
            assert isinstance(answer, Response)
            assert (answer.rest is wire.connection) is (size > HOLD_BYTES)

    timeless(main())


@pytest.mark.parametrize("size", [JOINED_BYTES - 6, JOINED_BYTES - 1, JOINED_BYTES, JOINED_BYTES + 1])
def test_small_body_goes_with_its_head_and_a_large_one_uncopied(size: int) -> None:
    """In both cases the whole body is sent."""

    def law() -> None:
        wire = Wire()
        wire.ask(b"x" * size)
        assert b"".join(wire.transport.written) == b"head " + b"x" * size
        assert len(wire.transport.written) == (1 if size < JOINED_BYTES else 2)

    run(law)


def test_unrequested_bytes_close_the_connection() -> None:
    """Bytes before a request or after its answer make the connection unusable."""

    def law() -> None:
        for asked in (0, 1):
            wire = Wire()
            for _ in range(asked):
                wire.ask()
                wire.hear(OK)
            wire.hear(b"HTTP/1.1 408 X\r\n\r\n")
            assert (wire.transport.is_aborted, wire.connection.is_reusable, len(wire.given)) == (True, False, asked)

    run(law)


@pytest.mark.parametrize("pieces", [1, 2])
def test_second_answer_behind_the_first_closes_the_connection(pieces: int) -> None:
    """The first answer is the job's, the second is dropped, and the connection is not used again."""

    def law() -> None:
        wire = Wire()
        wire.ask()
        wire.hear(*([OK + OK] if pieces == 1 else [OK, OK]))
        assert (wire.bodies, wire.connection.is_reusable) == ([b"ok"], False)

    run(law)


def test_length_of_a_head_is_limited() -> None:
    """The limit is exact to the byte, whatever body arrives with the head."""

    def law() -> None:
        for extra, body in ((0, b"ok"), (0, b"x" * 100), (1, b"ok"), (1, b"x" * 100)):
            wire = Wire()
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nx: " % len(body)
            head += b"y" * (MAX_HEAD_BYTES - len(head) - 4 + extra) + b"\r\n\r\n"
            wire.ask()
            wire.hear(*((head, body) if body == b"ok" else (head[:100], head[100:] + body)))
            told = body if not extra else f"sent a header block of more than {MAX_HEAD_BYTES // 1024} kB"
            assert wire.bodies == [told]

    run(law)


@pytest.mark.parametrize(("status", "is_taken"), [(200, True), (599, True), (600, False)])
def test_answer_s_status_is_below_600(status: int, *, is_taken: bool) -> None:
    """HTTP has no status of 600 or more (RFC 9110 §15)."""

    def law() -> None:
        wire = Wire()
        wire.ask()
        wire.hear(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\nok" % status)
        assert wire.bodies == [b"ok" if is_taken else f"sent an answer that is not HTTP: status {status}"]

    run(law)


def test_many_chunks_do_not_count_as_a_head() -> None:
    """The limit is on the bytes between two chunks, not on their sum."""

    def law() -> None:
        wire = Wire()
        wire.ask()
        wire.hear(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(MAX_HEAD_BYTES // 6 + 10):
            wire.hear(b"1\r\nx\r\n")
        wire.hear(b"0\r\n\r\n")
        assert wire.bodies == [b"x" * (MAX_HEAD_BYTES // 6 + 10)]

    run(law)


@pytest.mark.parametrize(
    ("parts", "error", "told"),
    [
        ((), None, "closed the connection without an answer"),
        ((), OSError(), "closed the connection without an answer"),
        ((HEAD,), None, "closed the connection in mid-answer"),
        ((b"HTTP",), None, "closed the connection in mid-answer"),
        ((b"HTTP/1.1 200 OK\r\n\r\nok",), None, b"ok"),
        ((b"HTTP/1.1 200 OK\r\n\r\nok",), OSError(), "closed the connection in mid-answer"),
        (
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",),
            None,
            "closed the connection in mid-answer",
        ),
        ((b"HTTP/1.1 103 X\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nok"), None, b"ok"),
    ],
)
def test_end_of_the_connection_ends_the_answer(
    parts: tuple[bytes, ...], error: Exception | None, told: bytes | str
) -> None:
    """An answer without a length is complete then, unless the connection is reset; any other is cut short."""

    def law() -> None:
        wire = Wire()
        wire.ask()
        wire.hear(*parts)
        wire.connection.connection_lost(error)
        assert wire.bodies == [told]
        assert not wire.connection.is_reusable
        assert all(each.phase is Phase.DIED for each in wire.given if isinstance(each, Broken))

    run(law)


def test_kept_connection_that_closes_at_once_was_stale() -> None:
    """It was stale if it had carried an answer and closes within a round trip; otherwise the worker had the job."""

    async def main() -> None:
        for answers, after_s, kind in ((1, 0.0, Stale), (1, STALE_WITHIN_S, Broken), (2, 0.5, Stale), (0, 0.0, Broken)):
            wire = Wire()
            for _ in range(answers):
                wire.ask()
                wire.hear(OK)
            wire.ask()
            wire.connection._sent_at -= after_s
            wire.connection._sent_at += time.monotonic() - asyncio.get_running_loop().time()
            wire.connection.connection_lost(None)
            assert type(wire.given[-1]) is kind

    timeless(main())


def test_each_answer_has_its_own_time_limit() -> None:
    """Each request has its own limit, and an earlier request's timer does not cut its answer."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        wire = Wire()
        wire.ask(due=10)
        wire.hear(OK)
        await asyncio.sleep(5)
        wire.ask(due=30)
        await asyncio.sleep(24.5)
        assert wire.bodies == [b"ok"]
        await asyncio.sleep(0.6)
        assert wire.bodies == [b"ok", "timed out"]
        assert (wire.transport.is_aborted, wire.connection.is_reusable) == (True, False)
        wire = Wire()
        wire.ask(due=loop.time() + 100)
        wire.hear(OK)
        wire.ask(due=loop.time() + 1)  # sooner than the running timer
        await asyncio.sleep(1.1)
        assert wire.bodies == [b"ok", "timed out"]
        wire.connection.connection_lost(None)
        assert wire.bodies == [b"ok", "timed out"]

    timeless(main())


def test_idle_connection_and_large_answer_have_no_time_limit_here() -> None:
    """The limit is for an answer's beginning; the reader limits the rest."""

    async def main() -> None:
        wire = Wire()
        wire.ask(due=10)
        wire.hear(OK)
        await asyncio.sleep(20)
        assert wire.connection.is_reusable
        wire.ask(due=30)
        size = 2 * HOLD_BYTES
        wire.hear(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size, b"x" * (HOLD_BYTES + 1))
        await asyncio.sleep(20)
        assert len(wire.bodies[-1]) == HOLD_BYTES + 1
        assert not wire.transport.is_aborted

    timeless(main())


def test_rest_of_a_large_answer_is_read_on_demand() -> None:
    """The socket is read until enough waits for the reader, and after the end the connection may be used again."""

    async def main() -> None:
        wire = Wire()
        wire.ask()
        body = bytes(range(256)) * (HOLD_BYTES // 64)
        wire.hear(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body), body[: HOLD_BYTES + 1])
        assert (wire.given, wire.transport.is_paused) == ([], True)
        await asyncio.sleep(0)
        got = wire.bodies[0]
        for start in range(HOLD_BYTES + 1, len(body), HOLD_BYTES):
            reading = asyncio.ensure_future(anext(wire.connection))
            await asyncio.sleep(0)
            assert not wire.transport.is_paused
            wire.hear(body[start : start + HOLD_BYTES])
            assert wire.transport.is_paused is (start + HOLD_BYTES < len(body))
            assert isinstance(got, bytes)
            got += await reading
            while len(got) < min(start + HOLD_BYTES, len(body)):
                got += await anext(wire.connection)
        assert got == body
        assert [part async for part in wire.connection] == []
        assert wire.connection.is_reusable
        wire.ask()
        wire.hear(OK)
        assert wire.bodies[-1] == b"ok"

    timeless(main())


@pytest.mark.parametrize("is_waited_for", [False, True])
def test_large_answer_that_breaks_off_fails_its_reader(is_waited_for: bool) -> None:
    """The reader first gets the bytes that arrived, then the failure."""

    async def main() -> None:
        wire = Wire()
        wire.ask()
        wire.hear(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (3 * HOLD_BYTES), b"x" * (HOLD_BYTES + 1))
        await asyncio.sleep(0)
        if is_waited_for:
            reading = asyncio.ensure_future(anext(wire.connection))
            await asyncio.sleep(0)
            wire.connection.connection_lost(None)
        else:
            wire.hear(b"more")
            wire.connection.connection_lost(None)
            assert await anext(wire.connection) == b"more"
            reading = asyncio.ensure_future(anext(wire.connection))
        with pytest.raises(Broken, match="closed the connection in mid-answer"):
            await reading
        assert len(wire.given) == 1

    timeless(main())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"HTTP/1.1 101 X\r\n\r\n", "answered with an upgrade that nobody asked for"),
        (b"HTTP/1.1 099 X\r\n\r\n", "sent an answer that is not HTTP: status 99"),
        (b"nonsense", "sent an answer that is not HTTP"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            "sent an answer in a transfer encoding that nobody asked for",
        ),
    ],
)
def test_invalid_answer_fails_once_and_closes(text: bytes, told: str) -> None:
    """One failure is delivered, whatever bytes follow."""

    def law() -> None:
        wire = Wire()
        wire.ask()
        wire.hear(text, OK)
        (failure,) = wire.given
        assert isinstance(failure, Broken)
        assert failure.phase is Phase.GARBLED
        assert failure.cause.startswith(told)
        assert (wire.transport.is_aborted, wire.connection.is_reusable) == (True, False)

    run(law)


def test_fields_of_an_answer_are_its_own() -> None:
    """They contain no field of an interim answer, a trailer or the previous answer."""

    def law() -> None:
        wire = Wire()
        wire.ask()
        wire.hear(b"HTTP/1.1 103 X\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\nX-One: 1\r\ntransfer-encoding: Chunked\r\n\r\n")
        wire.hear(b"2\r\nok\r\n0\r\ntrailer: x\r\n\r\n")
        wire.ask()
        wire.hear(b"HTTP/1.1 201 X\r\ncontent-length: 0\r\nX-Two: 2\r\n\r\n")
        first, second = wire.given
        assert isinstance(first, Response)
        assert isinstance(second, Response)
        assert first.head.headers == [(b"x-one", b"1"), (b"transfer-encoding", b"Chunked")]
        assert (second.head.status, second.body) == (201, b"")
        assert second.head.headers == [(b"content-length", b"0"), (b"x-two", b"2")]

    run(law)


def test_head_in_pieces_replaces_no_cached_head() -> None:
    """A head that arrived in pieces has no key, so it replaces no other entry."""

    def law() -> None:
        wire = Wire()
        for parts in ((OK,), (b"HTTP/1.1 201 X\r\n", b"content-length: 2\r\n\r\nok"), (OK,)):
            wire.ask()
            wire.hear(*parts)
        assert [each.head.status for each in wire.given if isinstance(each, Response)] == [200, 201, 200]

    run(law)


def test_answer_within_an_answer_is_ignored() -> None:
    """Bytes that look like an answer with a cached head may be part of a large body or of a head."""

    async def main() -> None:
        wire = Wire()
        wire.ask()
        wire.hear(OK)
        wire.ask()
        wire.hear(sized(b"x" * (HOLD_BYTES + 1) + OK)[: -len(OK)])
        await asyncio.sleep(0)
        wire.hear(OK)
        assert await anext(wire.connection) == OK
        assert [part async for part in wire.connection] == []
        wire.ask()
        wire.hear(b"HTTP/1.1 200 OK\r\nx: y\r\n", OK)
        assert str(wire.bodies[-1]).startswith("sent an answer that is not HTTP")

    timeless(main())


def test_large_answer_without_a_length_ends_with_the_connection() -> None:
    """The reader gets the end and does not wait for more."""

    async def main() -> None:
        wire = Wire()
        wire.ask()
        wire.hear(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * (HOLD_BYTES + 1))
        await asyncio.sleep(0)
        wire.hear(b"more")
        wire.connection.connection_lost(None)
        assert [part async for part in wire.connection] == [b"more"]

    timeless(main())


def test_first_answer_with_a_cached_head_makes_the_connection_a_kept_one() -> None:
    """If the connection closes before the second answer, the attempt does not fail."""

    async def main() -> None:
        first = Wire()
        first.ask()
        first.hear(OK)
        wire = Wire(first.heads)
        wire.ask()
        wire.hear(OK)
        wire.ask()
        wire.connection._sent_at = time.monotonic()
        wire.connection.connection_lost(None)
        assert type(wire.given[-1]) is Stale

    timeless(main())


def test_process_that_was_stopped_reads_before_it_gives_up() -> None:
    """An answer that came while the process was stopped counts, although its time limit rings first."""

    async def main() -> None:
        answered, silent = Wire(), Wire()
        for wire in (answered, silent):
            wire.ask(due=asyncio.get_running_loop().time() - 5)
        await asyncio.sleep(0.01)
        answered.hear(OK)
        await asyncio.sleep(1)
        assert (answered.bodies, silent.bodies) == ([b"ok"], ["timed out"])

    timeless(main())


def test_request_after_a_long_pause_has_its_own_timer() -> None:
    """The previous request's timer has fired meanwhile without effect."""

    async def main() -> None:
        wire = Wire()
        wire.ask(due=10)
        wire.hear(OK)
        await asyncio.sleep(20)
        wire.ask(due=30)
        await asyncio.sleep(10.1)
        assert wire.bodies == [b"ok", "timed out"]

    timeless(main())


def test_interim_answer_is_never_taken_for_the_final_one() -> None:
    """This holds however often the same bytes arrived, with a length or without."""

    def law() -> None:
        wire = Wire()
        for _ in range(3):
            wire.ask()
            wire.hear(b"HTTP/1.1 103 X\r\ncontent-length: 0\r\n\r\n", OK)
        assert wire.bodies == [b"ok"] * 3

    run(law)
