"""One connection to a worker: a request's bytes go out, what comes back is parsed by httptools into a response.

It knows no address, no pool and no time limit; upstream.py does. An answer is held up to HOLD_BYTES and handed over
whole; of a larger one the rest is read from the socket only as it is asked for.
"""

import asyncio
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

import httptools

from router.http.head_cache import HeadCache, cut
from router.http.headers import Headers, WorkerHead, read_worker_head
from router.http.response import Body, Broken, Phase, Response, Stale

# An answer up to this size can be judged, and its job be tried elsewhere, before the client has seen a byte of it.
HOLD_BYTES = 2**20
# What comes before the body (interim answers included), and what stands between or after its chunks.
MAX_HEAD_BYTES = 2**16
# A worker that had closed the connection before the request came says so within a round trip, its second try included
# (1 s, RFC 6298 §2). One that closes it later has had the job.
STALE_WITHIN_S = 1.0

# Up to here one write is cheaper than no copy.
JOINED_BYTES = 2**16
_FIRST_STATUS, _UPGRADE, _FIRST_FINAL_STATUS, _LAST_STATUS = 100, 101, 200, 599
# The parser takes RTSP, ICE and other versions, too, whose framing need not be what it reads (RFC 9112 §2.3).
_STATUS_LINE = re.compile(rb"[\r\n]*+HTTP/1\.[01] ")
_END_OF_HEAD = b"\r\n\r\n"
_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})  # whatever Content-Length they name


Deliver = Callable[[Response | Broken], None]


class Connection(asyncio.Protocol):
    """One connection: a request out, its response in, and again while both sides keep it alive.

    `heads` are those of workers' answers, of all connections.
    """

    def __init__(self, heads: HeadCache[WorkerHead]) -> None:
        self.idle_since = 0.0
        self.is_streaming = False  # the response that was handed over lacks what `read` gives
        self._heads = heads
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._is_busy = False  # an answer is due, or on its way
        self._is_spent = False  # no other request may go over it
        self._is_kept = False  # it has carried an answer before
        self._deliver: Deliver | None = None
        self._more: asyncio.Future[None] | None = None
        self._failure: Broken | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._name: bytes | None = None  # of the head that the parser reads now
        self._begin()

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent: the last answer is whole, and both sides kept the connection."""
        return not self._is_busy and not self._is_spent

    def send(self, head: bytes, body: Body, now: float, due: float, deliver: Deliver) -> None:
        """Send one request; `deliver` is called once, with its response or with how that failed.

        Stale: a fresh connection is worth a try. Where `is_streaming` is set then, the response lacks its rest. `now`
        and `due`, the moment to wait for it no longer, are by time.monotonic, as the loop's own clock is. To be called
        where `is_reusable`.
        """
        if self._has_head:  # the last answer's; of one that `_has_taken`, nothing is left
            self._begin()
        self._deliver = deliver
        self._due = due
        if self._timer is None or due < self._timer.when():
            self._look_at(due)
        self._is_busy = True
        self._sent_at = now
        if len(body) < JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def _begin(self) -> None:
        """Expect an answer."""
        self.is_streaming = False
        self._has_head = False
        self._has_length = False
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._held_bytes = 0
        self._bytes_without_body = 0
        self._heads_text, self._head_starts = b"", 0  # what has come up to the answer's head, the interim ones included

    # One timer for many requests: it looks whether the answer is overdue that is due then. One a request, as
    # asyncio.timeout sets it, costs 4 µs.

    def _look_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._is_busy or self.is_streaming:
            return
        if asyncio.get_running_loop().time() < self._due:
            self._look_at(self._due)
        else:
            self._fail(Broken(Phase.TIMED_OUT, "timed out"))
            self._settle()

    async def read(self) -> bytes:
        """Return the next part of the answer, b"" at its end. Raises Broken."""
        if not self._body and self._is_busy:
            self._more = asyncio.get_running_loop().create_future()
            self._transport.resume_reading()
            await self._more
        part = b"".join(self._body)
        self._body.clear()
        if not part and self._failure:
            raise self._failure
        return part

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self._is_spent = True
        self._transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # TCP gives nothing else

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if not self._is_busy:
            self.abort()  # nobody asked
            return
        if not self._bytes_without_body and not self._has_head and self._has_taken(data):
            return
        if not self._has_head:
            self._heads_text += data
        room = MAX_HEAD_BYTES - self._bytes_without_body
        self._bytes_without_body += len(data)
        try:
            if self._has_head or len(data) <= room:
                self._parser.feed_data(data)
            else:
                self._parser.feed_data(data[:room])
                if self._has_head:
                    self._parser.feed_data(data[room:])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            what = f"an answer that is not HTTP: {error}" if self._is_busy else "more than its answer's length"
            self._fail(Broken(Phase.GARBLED, f"sent {what}"))
        if self._bytes_without_body > MAX_HEAD_BYTES:
            self._fail(Broken(Phase.GARBLED, f"sent a header block of more than {MAX_HEAD_BYTES // 1024} kB"))
        if not self._is_busy:
            self._settle()

    def _has_taken(self, data: bytes) -> bool:
        """Take an answer that comes in one piece, and with a head that is known."""
        parts = cut(data)
        if parts is None:
            self._name = None
            return False
        self._name, body = parts
        head = self._heads.get(self._name)
        if head is None or len(body) > HOLD_BYTES:
            return False
        self._is_busy = False
        self._is_kept = True
        if self._transport.get_write_buffer_size():  # as in on_message_complete
            self._is_spent = True
        deliver, self._deliver = self._deliver, None
        if deliver is not None:
            deliver(Response(head, body))
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Say what a closed connection means for the answer that is due."""
        self._is_spent = True
        del self._parser  # they know each other; the garbage collector would find them, and 1 MB that is held, late
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_busy:
            return
        if self._has_head and not self._has_length and error is None:
            self._is_busy = False  # RFC 9112 §6.3: without a length, the answer ends with the connection
        elif self._has_head or self._bytes_without_body:
            self._fail(Broken(Phase.DIED, "closed the connection in mid-answer"))
        elif self._is_kept and time.monotonic() - self._sent_at < STALE_WITHIN_S:
            self._fail(Stale(Phase.DIED, "closed a kept-alive connection"))
        else:
            self._fail(Broken(Phase.DIED, "closed the connection without an answer"))
        self._settle()

    # httptools' side

    def on_message_begin(self) -> None:
        """Notice an answer that nobody waits for."""
        if not self._is_busy:
            self._is_spent = True  # more than was asked for: the connection is not to be trusted again

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field."""
        if self._has_head:
            return  # a trailer's
        name = name.lower()
        if name == b"content-length":
            self._has_length = True
        elif name == b"transfer-encoding":
            is_second, self._has_length = self._has_length, True
            if is_second or value.strip().lower() != b"chunked":
                self._fail(Broken(Phase.GARBLED, "sent an answer in a transfer encoding that nobody asked for"))
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Tell an interim answer from the one that is due."""
        status = self._parser.get_status_code()
        if self._has_head:
            return  # of an answer that nobody waits for
        if _STATUS_LINE.match(self._heads_text, self._head_starts) is None:
            self._fail(Broken(Phase.GARBLED, "sent an answer that is not HTTP/1.1"))
        elif _FIRST_FINAL_STATUS <= status <= _LAST_STATUS:
            self._heads_text = b""
            self._has_head = True
            self._head = read_worker_head(status, self._headers)
        elif status == _UPGRADE:
            self._fail(Broken(Phase.GARBLED, "answered with an upgrade that nobody asked for"))
        elif not _FIRST_STATUS <= status <= _LAST_STATUS:
            self._fail(Broken(Phase.GARBLED, f"sent an answer that is not HTTP: status {status}"))
        else:  # an interim one; the next head comes after its end
            self._head_starts = self._heads_text.find(_END_OF_HEAD, self._head_starts) + len(_END_OF_HEAD)

    def on_body(self, part: bytes) -> None:
        """Hold a part of the body, or stop reading until it is asked for."""
        if not (self._has_head and self._is_busy):
            self._head_starts += len(part)  # an interim answer's, or one's that nobody waits for
            return
        self._bytes_without_body = 0
        self._body.append(part)
        self._held_bytes += len(part)
        if self._held_bytes > HOLD_BYTES:
            self._transport.pause_reading()
            self.is_streaming = True
            self._hand_over()

    def on_message_complete(self) -> None:
        """End an interim answer, or the one that was due."""
        if not self._has_head:  # the answer follows (RFC 9110 §15.2)
            self._headers = []
            self._has_length = False
            self._name = None
            return
        self._is_busy = False
        self._is_kept = True
        if not self._parser.should_keep_alive():
            self._is_spent = True
        elif self._name is not None and not self._failure and self._head.status not in _BODILESS:
            self._heads.learn(self._name, self._head)
        # A worker that answers before it has read all may take the rest for the next request.
        if self._transport.get_write_buffer_size():
            self._is_spent = True

    def _fail(self, failure: Broken) -> None:
        self._failure = self._failure or failure
        self._is_busy = False
        self.abort()

    def _settle(self) -> None:
        """Say that no more comes of the answer, well or badly."""
        if self.is_streaming:
            self._transport.resume_reading()
        self._hand_over()

    def _hand_over(self) -> None:
        """Give whoever waits the answer, its beginning, or the news that there is more of it."""
        deliver, self._deliver = self._deliver, None
        if deliver is None:
            if self._more is not None and not self._more.done():
                self._more.set_result(None)
            return
        if self._failure:
            deliver(self._failure)
            return
        response = Response(self._head, b"".join(self._body))
        self._body.clear()
        if self.is_streaming:  # the parser is at work
            asyncio.get_running_loop().call_soon(deliver, response)
        else:
            deliver(response)
