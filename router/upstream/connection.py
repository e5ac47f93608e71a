"""One connection to a worker: sends a request's bytes, and parses the answer with httptools.

It knows no address, no pool and no retries; pool.py does. Up to HOLD_BYTES of an answer are held and delivered whole.
The rest of a larger answer is read from the socket only when it is asked for.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from http import HTTPStatus
from typing import Self, cast

import httptools

from router.http.head_cache import HeadCache, split
from router.http.headers import Headers, WorkerHead, read_worker_head
from router.http.response import Body, Broken, Phase, Response, Stale
from router.upstream.long_rest import LEAST_BYTES, LongRest

# An answer up to this size is judged, and its job tried on another worker, before the client has seen a byte of it.
HOLD_BYTES = 2**20
# The longest head, interim answers included; also the most bytes between two chunks of a body, or after the last one.
MAX_HEAD_BYTES = 2**16
# If the worker closed a kept-alive connection before our request arrived, we hear of it within one round trip. A lost
# packet costs one retransmission more (1 s, RFC 6298 §2). A connection that closes later has delivered the job.
STALE_WITHIN_S = 1.0
# uvloop rings timers before it reads. In a process that was stopped, the answer may have come long ago. So an answer is
# overdue only if it has not come after so many more seconds of reading.
_READ_FIRST_S = 0.05

# So many bytes of a large answer wait for their reader, and a block besides, before no more are read from the socket.
_AHEAD_BYTES = 2**19
# Below this size it is cheaper to copy the body behind the head than to write twice.
JOINED_BYTES = 2**16
_FIRST_STATUS, _UPGRADE, _FIRST_FINAL_STATUS, _LAST_STATUS = 100, 101, 200, 599
# The parser also accepts RTSP, ICE and other versions of HTTP. Their framing may differ from HTTP/1.1's (RFC 9112
# §2.3).
_STATUS_LINE = re.compile(rb"[\r\n]*+HTTP/1\.[01] ")
_TOO_MUCH = "sent more than its answer's length"
_END_OF_HEAD = b"\r\n\r\n"
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
# Answers with these statuses have no body, whatever Content-Length they carry.
_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class ConnectionState(Enum):
    """What a connection to a worker is doing; `Connection` has the table of transitions."""

    IDLE = auto()
    SENT = auto()
    HEAD = auto()
    BODY = auto()
    STREAMING = auto()
    SPENT = auto()


ResponseCallback = Callable[[Response | Broken], None]


class Connection(asyncio.Protocol):
    """One connection: it sends a request, takes its answer, and does so again while both sides keep it alive.

    Its state is one of these. From each, `close` and a lost connection lead to SPENT.

    | state     | meaning                                        | event                               | next state |
    |-----------|------------------------------------------------|-------------------------------------|------------|
    | IDLE      | no request is under way; one may be sent       | send                                | SENT       |
    |           |                                                | bytes that no request asked for     | SPENT      |
    | SENT      | a request is sent, no byte of its answer read  | a whole answer with a known head    | IDLE (1)   |
    |           |                                                | other bytes                         | HEAD       |
    | HEAD      | the answer has begun; its final head is not in | an interim answer (1xx)             | HEAD       |
    |           |                                                | the final head's end                | BODY       |
    | BODY      | the body is held                               | more than HOLD_BYTES                | STREAMING  |
    |           |                                                | the answer's end                    | IDLE (1)   |
    | STREAMING | its beginning is delivered; the rest is read   | the answer's end                    | IDLE (1)   |
    |           | as it is asked for                             |                                     |            |
    | SPENT     | no other request may be sent; to be closed     |                                     |            |

    (1) SPENT, where the worker closes after this answer or has not read the whole request, or where more bytes follow.
    SENT, HEAD, BODY and STREAMING also lead to SPENT when the answer is malformed, is overdue (not in STREAMING) or is
    cut short: these are failures, and are delivered in the answer's place.

    A connection is the `rest` of its own large answer: iterating gives the parts, and raises Broken where they end
    early.
    """

    def __init__(self, heads: HeadCache[WorkerHead]) -> None:
        """`heads` is shared by all connections to workers."""
        self.idle_since = 0.0  # the end of its last answer by time.monotonic; 0 before the first
        self._state = ConnectionState.IDLE
        self._heads = heads
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._deliver: ResponseCallback | None = None
        self._more: asyncio.Future[None] | None = None
        self._failure: Broken | None = None
        self._rest: LongRest | None = None  # reads what is left of a large answer of a known length
        self._is_kept = False  # whether the worker keeps the connection after it
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._head_key: bytes | None = None  # of the head that the parser reads; None where the cache cannot keep it

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent."""
        return self._state is ConnectionState.IDLE

    def send(self, head: bytes, body: Body, now: float, due: float, deliver: ResponseCallback) -> None:
        """Send one request; `deliver` is called once, with its response or with the failure.

        A failure is Stale where a fresh connection is worth a try. A response with `rest` is the beginning of a large
        answer. `now`, and `due` until when the answer is waited for, are by time.monotonic, which is also the event
        loop's clock. To be called only where `is_reusable`.
        """
        self._deliver = deliver
        self._due = due
        if self._timer is None or due < self._timer.when():
            self._set_timer(due)
        self._state = ConnectionState.SENT
        self._sent_at = now
        if len(body) < JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    # One timer serves many requests: when it rings, it checks whether the current answer is overdue. A timer for each
    # request, which is what asyncio.timeout sets, would cost more than all else that is done here.

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._check_due)

    def _check_due(self, overdue: float = 0.0) -> None:
        """Give up if the answer is overdue, and was already: `overdue` is the `due` that had passed the last time."""
        self._timer = None
        if self._state in (ConnectionState.IDLE, ConnectionState.STREAMING, ConnectionState.SPENT):
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._due:
            self._set_timer(self._due)
        elif overdue != self._due:
            self._timer = loop.call_later(_READ_FIRST_S, self._check_due, self._due)
        else:
            self._fail(Broken(Phase.TIMED_OUT, "timed out"))
            self._settle()

    def __aiter__(self) -> Self:
        return self

    def _take_part(self, part: memoryview, is_too_much: bool) -> None:
        """Take a part that the parser has not seen, and stop reading where many of them wait."""
        self._hold(part)
        if self._state is ConnectionState.BODY:
            self._stream_if_large()
        if self._rest is not None and not self._rest.left:
            self._rest = None
            self._parser = httptools.HttpResponseParser(self)
            self._be_over(is_kept=self._is_kept)
            if is_too_much:
                self._fail(Broken(Phase.GARBLED, _TOO_MUCH))
            self._settle()
        elif self._state is ConnectionState.STREAMING:
            if self._waiting_bytes >= _AHEAD_BYTES:
                self._transport.pause_reading()
            self._wake_reader()

    async def __anext__(self) -> bytes | memoryview:
        """Return the next part of a large answer. Raises Broken, after the parts that came before the failure."""
        if not self._body and self._state is ConnectionState.STREAMING:
            self._more = asyncio.get_running_loop().create_future()
            self._transport.resume_reading()
            await self._more
        if self._body:
            part = self._body.popleft()
            self._waiting_bytes -= len(part)
            return part
        if self._failure:
            raise self._failure
        raise StopAsyncIteration

    def close(self) -> None:
        """Close at once, whatever is under way."""
        self._state = ConnectionState.SPENT
        self._transport.abort()

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # TCP gives nothing else

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and deliver the answer where that ends it."""
        if self._state is ConnectionState.SENT:
            if self._take_whole(data):
                return
            self._begin_parsing()
        elif self._state in (ConnectionState.IDLE, ConnectionState.SPENT):
            self.close()
            return
        if self._state is ConnectionState.HEAD:
            self._head_text += data
        room = MAX_HEAD_BYTES - self._bytes_without_body
        self._bytes_without_body += len(data)
        try:
            if self._state is not ConnectionState.HEAD or len(data) <= room:
                self._parser.feed_data(data)
            else:
                self._parser.feed_data(data[:room])
                if self._state is not ConnectionState.HEAD:
                    self._parser.feed_data(data[room:])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            has_ended = self._state in (ConnectionState.IDLE, ConnectionState.SPENT)
            self._fail(Broken(Phase.GARBLED, _TOO_MUCH if has_ended else f"sent an answer that is not HTTP: {error}"))
        if self._bytes_without_body > MAX_HEAD_BYTES:
            self._fail(Broken(Phase.GARBLED, f"sent a header block of more than {MAX_HEAD_BYTES // 1024} kB"))
        self._look_after_parsing()

    def _look_after_parsing(self) -> None:
        """Deliver the answer where that has ended; have much of it that is yet to come read without the parser."""
        if self._state in (ConnectionState.IDLE, ConnectionState.SPENT):
            self._settle()
        elif self._state is ConnectionState.BODY:
            left = int(dict(self._head.headers).get(b"content-length", b"0")) - self._held_bytes
            if left >= LEAST_BYTES:
                self._is_kept = self._parser.should_keep_alive()
                self._rest = LongRest(self._transport, self, left, self._take_part)

    def _take_whole(self, data: bytes) -> bool:
        """Deliver an answer that came in one piece and with a known head; return whether `data` is one."""
        parts = split(data)
        if parts is None:
            self._head_key = None
            return False
        self._head_key, body = parts
        head = self._heads.get(self._head_key)
        if head is None or len(body) > HOLD_BYTES:
            return False
        # The same as in on_message_complete.
        self._state = ConnectionState.SPENT if self._transport.get_write_buffer_size() else ConnectionState.IDLE
        self.idle_since = time.monotonic()
        deliver, self._deliver = self._deliver, None
        if deliver is not None:
            deliver(Response(head, body))
        return True

    def _begin_parsing(self) -> None:
        self._state = ConnectionState.HEAD
        self._headers: Headers = []
        self._body: deque[bytes | memoryview] = deque()
        self._held_bytes = self._waiting_bytes = 0
        self._bytes_without_body = 0
        self._head_text = b""  # all up to the final head's end, interim answers included
        self._head_at = 0  # where the current head begins in it

    def connection_lost(self, error: Exception | None) -> None:
        """Decide what the closed connection means for the answer that is due."""
        state, self._state = self._state, ConnectionState.SPENT
        del (
            self._parser
        )  # it refers to this object; the cycle, which may hold 1 MB, would wait for the garbage collector
        if self._timer is not None:
            self._timer.cancel()
        if state in (ConnectionState.IDLE, ConnectionState.SPENT):
            return
        if state is ConnectionState.SENT:
            if self.idle_since and time.monotonic() - self._sent_at < STALE_WITHIN_S:
                self._fail(Stale(Phase.DIED, "closed a kept-alive connection"))
            else:
                self._fail(Broken(Phase.DIED, "closed the connection without an answer"))
        elif state is ConnectionState.HEAD or error is not None or not _FRAMING.isdisjoint(dict(self._head.headers)):
            self._fail(Broken(Phase.DIED, "closed the connection in mid-answer"))
        # Else the answer is whole: without a length, it ends with the connection (RFC 9112 §6.3).
        self._settle()

    # Called by httptools

    def on_message_begin(self) -> None:
        """Trust the connection no more if a second answer begins, which no request asked for."""
        if self._state is not ConnectionState.HEAD:
            self._state = ConnectionState.SPENT

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field; one that is not of this answer's head is a trailer, and is dropped."""
        if self._state is not ConnectionState.HEAD:
            return
        name = name.lower()
        if name == b"transfer-encoding":
            is_second = not _FRAMING.isdisjoint(dict(self._headers))
            if is_second or value.strip().lower() != b"chunked":
                self._fail(Broken(Phase.GARBLED, "sent an answer in a transfer encoding that nobody asked for"))
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Tell an interim answer from the final one."""
        if self._state is not ConnectionState.HEAD:
            return
        status = self._parser.get_status_code()
        if _STATUS_LINE.match(self._head_text, self._head_at) is None:
            self._fail(Broken(Phase.GARBLED, "sent an answer that is not HTTP/1.1"))
        elif _FIRST_FINAL_STATUS <= status <= _LAST_STATUS:
            self._head_text = b""
            self._state = ConnectionState.BODY
            self._head = read_worker_head(status, self._headers)
        elif status == _UPGRADE:
            self._fail(Broken(Phase.GARBLED, "answered with an upgrade that nobody asked for"))
        elif not _FIRST_STATUS <= status <= _LAST_STATUS:
            self._fail(Broken(Phase.GARBLED, f"sent an answer that is not HTTP: status {status}"))
        else:  # an interim answer; the next head follows it
            self._head_at = self._head_text.find(_END_OF_HEAD, self._head_at) + len(_END_OF_HEAD)

    def on_body(self, part: bytes) -> None:
        """Hold a part of the body, and stop reading where that is more than is held."""
        if self._state is not ConnectionState.BODY and self._state is not ConnectionState.STREAMING:
            self._head_at += len(part)  # an interim answer's body
            return
        self._bytes_without_body = 0
        self._hold(part)
        if self._state is ConnectionState.STREAMING:
            self._transport.pause_reading()
            self._wake_reader()
        else:
            self._stream_if_large()

    def _hold(self, part: bytes | memoryview) -> None:
        self._body.append(part)
        self._held_bytes += len(part)
        self._waiting_bytes += len(part)

    def _stream_if_large(self) -> None:
        """Deliver the beginning of an answer that is more than is held, and stop reading."""
        if self._held_bytes > HOLD_BYTES:
            self._transport.pause_reading()
            self._state = ConnectionState.STREAMING
            self._deliver_beginning()

    def on_message_complete(self) -> None:
        """End an interim answer, or the final one."""
        if self._state is ConnectionState.HEAD:  # the final one follows (RFC 9110 §15.2)
            self._headers = []
            self._head_key = None
            return
        if self._state is not ConnectionState.BODY and self._state is not ConnectionState.STREAMING:
            return
        is_kept = self._parser.should_keep_alive()
        if is_kept and self._head_key is not None and self._head.status not in _BODILESS:
            self._heads.learn(self._head_key, self._head)
        self._be_over(is_kept=is_kept)

    def _be_over(self, *, is_kept: bool) -> None:
        # A worker that answers before it has read the whole request may take the rest of it for the next one.
        self._state = (
            ConnectionState.IDLE if is_kept and not self._transport.get_write_buffer_size() else ConnectionState.SPENT
        )
        self.idle_since = time.monotonic()

    # How an answer is delivered

    def _fail(self, failure: Broken) -> None:
        self._failure = self._failure or failure
        self.close()

    def _settle(self) -> None:
        """Deliver the answer, of which nothing more will come, or its failure; wake the reader of a large one."""
        deliver, self._deliver = self._deliver, None
        if deliver is None:  # the beginning was delivered before
            self._transport.resume_reading()
            self._wake_reader()
        elif self._failure:
            deliver(self._failure)
        else:
            body = b"".join(self._body)
            self._body.clear()
            deliver(Response(self._head, body))

    def _deliver_beginning(self) -> None:
        deliver, self._deliver = self._deliver, None
        beginning = Response(self._head, b"".join(self._body), rest=self)
        self._body.clear()
        self._waiting_bytes = 0
        if deliver is not None:
            asyncio.get_running_loop().call_soon(deliver, beginning)  # not while the parser is at work

    def _wake_reader(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)
