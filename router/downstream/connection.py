"""HTTP/1.1 from clients: uvicorn's protocol, with strict parsing and with time limits.

A malformed request is answered here, with 400 and a reason. A client that sends too slowly gets 408; one that reads
nothing of its answer is cut off. policy/request_head.py decides what is malformed, policy/client_timeouts.py what is
too slow; this module tells uvicorn.
"""

import asyncio
import logging
from enum import Enum, auto
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.auth.access import PEER, PROXY, peer_of
from router.downstream import serving
from router.downstream.cycle import WholeJob, rendered, whole_job
from router.downstream.protocol import LightProtocol, RequestRefused, reason_of
from router.http.answer import Answer, problem
from router.http.asgi import CLIENT_LEFT, STOPPING, new_request_id, tell
from router.http.head_cache import split
from router.http.sockets import LingeringTransport, has_ended, name_of, reset, unread_bytes
from router.jobs.handler import JobHandler, answering
from router.policy.client_timeouts import LAST_REQUEST_S, MAKE_ROOM_S, ClientClock, ClientTimeouts, Owed
from router.policy.request_head import (
    HEAD_TOO_LARGE,
    MAX_HEAD_BYTES,
    NO_UPGRADE,
    Refusal,
    authority_of,
    head_bytes,
    is_authority,
    malformed,
    refusal,
)

log = logging.getLogger(__name__)

serving.take_over()  # here, because uvicorn loads this module before it makes its server

# The keys in the lifespan state under which the application hands these to ClientConnection, which uvicorn makes.
TIMEOUTS, HANDLER = "client_timeouts", "job_handler"
_SLASH = ord("/")


class ClientState(Enum):
    """What a client's connection is doing; `ClientConnection` has the table of transitions."""

    WAITING = auto()
    HEAD = auto()
    BODY = auto()
    ANSWERING = auto()
    DEAF = auto()


class ClientConnection(LightProtocol):
    """One client's connection; for `uvicorn --http router.downstream:ClientConnection`.

    Its state is what is being read from the client. Answers are independent of it: one may be written in any state.

    | state     | meaning                                     | event                                     | next state |
    |-----------|---------------------------------------------|-------------------------------------------|------------|
    | WAITING   | no byte of a request has come since the     | a whole job with a known head             | ANSWERING  |
    |           | connection was made, or the last answer     | other bytes                               | HEAD       |
    |           |                                             | the keep-alive time passes                | DEAF       |
    | HEAD      | a request's head has begun                  | its end                                   | BODY       |
    |           |                                             | it is malformed, too large or too slow    | DEAF       |
    | BODY      | the head is whole, the body is not          | its end                                   | ANSWERING, |
    |           |                                             |                                           | WAITING (1)|
    |           |                                             | it is malformed or too slow, or an answer | DEAF       |
    |           |                                             | before its end closes the connection      |            |
    | ANSWERING | the request is whole, its answer is due     | the answer's end                          | WAITING    |
    |           |                                             | bytes of the next request (pipelining)    | HEAD       |
    | DEAF      | nothing more is read; the connection closes |                                           |            |
    |           | after its last answer                       |                                           |            |

    (1) if it was answered before its end.
    `_clock` holds until when the client must have sent what this state expects of it.
    """

    # What a connection begins with; all other attributes are copied from the first one.
    _state = ClientState.WAITING
    _watch: asyncio.TimerHandle | None = None
    _bytes_without_body = 0  # read since a head began, or since a body's last byte: fields, trailers, chunk extensions
    _head_key: bytes | None = None  # of the head that is being read, where its body came with it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._handler: JobHandler | None = self.app_state.get(HANDLER)
        self._clock = ClientClock(self.app_state.get(TIMEOUTS) or ClientTimeouts(), self.timeout_keep_alive)
        self._clock.begin(Owed.HEAD, self.loop.time())
        self._watch = self.loop.call_later(self._clock.timeouts.look_every_s, self._look)
        if self.is_leaving:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is served."""
        if self._watch:
            self._watch.cancel()
        if isinstance(self.cycle, WholeJob) and self.cycle.response_complete:
            self.cycle = None  # there is nothing to tell
        cycle = self.cycle
        super().connection_lost(exc)
        self.cycle = None  # type: ignore[assignment]  # breaks a reference cycle, else found by the garbage collector
        tell(cycle, CLIENT_LEFT)
        if isinstance(cycle, WholeJob):
            cycle.leave()

    def leave(self, idle_s: float = MAKE_ROOM_S) -> None:
        """Close after the next answer, which says so; and at the latest when nothing has come for `idle_s` seconds."""
        super().leave()
        self._clock.keep_alive_s = min(self._clock.keep_alive_s, idle_s)
        if self._state is ClientState.WAITING:
            self._look_in_time(self.loop.time())
        elif self._state is not ClientState.HEAD and self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Take one more request, if it comes within LAST_REQUEST_S: the process is to end.

        uvicorn would close an idle connection at once. A client that sends at that moment would lose its job.
        """
        tell(self.cycle, STOPPING)
        super().shutdown()
        self.leave(LAST_REQUEST_S)
        if self._state is ClientState.WAITING:
            self._expect_request()

    def _expect_request(self) -> None:
        now = self.loop.time()
        self._state = ClientState.WAITING
        self._clock.begin(Owed.REQUEST, now)
        self._look_in_time(now)

    def _expect_head(self) -> None:
        self._state = ClientState.HEAD
        if self._clock.owed is not Owed.HEAD:  # a fresh connection's time runs since it was made
            self._clock.begin(Owed.HEAD, self.loop.time())

    def data_received(self, data: bytes) -> None:
        """Parse what came; refuse the request at its first malformed byte."""
        if self._state is ClientState.WAITING:
            if self._take_whole(data):
                return
            self._expect_head()
        elif self._state is ClientState.ANSWERING:
            self._expect_head()
        elif self._state is ClientState.DEAF:
            return
        self._bytes_without_body += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._refuse(reason_of(error))
            return
        if self._state is ClientState.HEAD or self._state is ClientState.BODY:
            self._expect_more()

    def _take_whole(self, data: bytes) -> bool:
        """Begin a job that came in one piece and with a known head; return whether `data` is one."""
        if (handler := self._handler) is None or self.access_log or (parts := split(data)) is None:
            return False
        self._head_key, body = parts
        if (head := handler.heads.get(self._head_key)) is None:
            return False
        self._state = ClientState.ANSWERING
        self._clock.owed = self._head_key = None
        self.cycle = job = WholeJob(self, handler, head)  # type: ignore[assignment]  # it has what is asked of a cycle
        job.start(body)
        return True

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it; `_look` does what a timer of uvicorn's would."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._state is ClientState.ANSWERING:
            self._state = ClientState.WAITING
            self._clock.begin(Owed.REQUEST, self.loop.time())
            if self.is_leaving:
                self._look_in_time(self._clock.since)

    def _expect_more(self) -> None:
        """Go on with a request that has not come in one piece."""
        if self._bytes_without_body > MAX_HEAD_BYTES:
            self._refuse(HEAD_TOO_LARGE)
        elif self._state is not ClientState.BODY:
            return
        elif self._clock.owed is Owed.BODY:
            self._clock.has_come_on(self.loop.time())
        else:
            self._clock.begin(Owed.BODY, self.loop.time())
            if not isinstance(self.cycle, WholeJob):  # which is not answered before its end
                self.cycle.transport = LingeringTransport(self.transport, self._close_after_answer)
            elif self.cycle.long_body is not None:
                del self.parser  # it hears no more of this request; the next one makes another
                self.cycle.long_body.read(self, self._clock, self.on_message_complete)

    # The parser's callbacks. They do not call super(): that would be paid for each request.

    def on_message_begin(self) -> None:
        """Begin a request. uvicorn would make a scope for it here."""
        if self._state is not ClientState.HEAD:  # it begins behind another one's last byte
            self._expect_head()
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Begin the job, or the application, if the head is good. Raises RequestRefused."""
        if self.parser.should_upgrade():
            raise RequestRefused(NO_UPGRADE)
        if self._bytes_without_body > MAX_HEAD_BYTES and head_bytes(self.url, self.headers) > MAX_HEAD_BYTES:
            raise RequestRefused(HEAD_TOO_LARGE)
        version = self.parser.get_http_version()
        if reason := refusal(version, self.headers):
            raise RequestRefused(reason)
        if self.url[0] != _SLASH:
            self._take_host_of_target()
        if not self._begin_job(version):
            self._start_application()
        # Trailers are dropped (RFC 9110 §6.5.1): the application has the list that has been filled so far.
        self.headers = []
        self._bytes_without_body = 0
        self._state = ClientState.BODY

    def _take_host_of_target(self) -> None:
        """Let an absolute-form target's host replace the Host field (RFC 9112 §3.2.2). Raises RequestRefused."""
        if (authority := authority_of(self.url)) is None:
            return
        if not is_authority(authority):
            raise RequestRefused(malformed("invalid target"))
        self.headers = [(b"host", authority), *(field for field in self.headers if field[0] != b"host")]

    def _begin_job(self, version: str) -> bool:
        """Wait for the body of a job that is to be begun as a whole; return False where ASGI has to serve the request.

        ASGI serves all that is not a job. It also serves a job that needs CORS (a browser's page), an interim answer, a
        place behind earlier requests, a line in the access log, or a large body that is counted as it comes, because
        there may be no room for it.
        """
        handler, cycle = self._handler, self.cycle
        if (
            handler is None
            or self.access_log
            or self.expect_100_continue
            or not (cycle is None or cycle.response_complete)
        ):
            return False
        if self.parser.get_method() != b"POST" or (asked := handler.asked(self.url, self.headers)) is None:
            return False
        fields = dict(self.headers)
        if b"origin" in fields or b"transfer-encoding" in fields:
            return False
        head = handler.read(asked, keep_alive=version != "1.0" and self.parser.should_keep_alive())
        length = 0 if self._head_key is not None else int(fields.get(b"content-length", b"0"))
        if head is None or (job := whole_job(self, handler, head, length)) is None:
            return False
        if version != "1.1":
            self._head_key = None
        self.cycle = job  # type: ignore[assignment]  # it has what is asked of a cycle
        return True

    def _start_application(self) -> None:
        # uvicorn copies this into each request's scope, where a proxy's word for its client stands instead.
        peer = peer_of(self.client, self.transport) if self.url[0] == _SLASH else PROXY
        self.app_state = {**self.app_state, PEER: peer}
        url, expects, headers = self.url, self.expect_100_continue, self.headers
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        HttpToolsProtocol.on_headers_complete(self)
        if self.is_leaving:
            self.cycle.keep_alive = False
        if self.process_is_ending:
            self.loop.call_soon(tell, self.cycle, STOPPING)  # the application has begun by then

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._bytes_without_body = 0
        self._clock.body_bytes += len(body)
        cycle = self.cycle
        if isinstance(cycle, WholeJob):
            cycle.take(body)
        elif not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End a request."""
        head_key, self._head_key = self._head_key, None
        self._bytes_without_body = 0
        self._state = ClientState.ANSWERING
        self._clock.owed = None
        cycle = self.cycle
        if isinstance(cycle, WholeJob):
            cycle.end(head_key)
        elif cycle.response_complete:
            self._expect_request()
        else:
            cycle.more_body = False
            cycle.message_event.set()

    # Time

    def resume_writing(self) -> None:
        """Go on writing: the client has read."""
        self._clock.has_read()
        super().resume_writing()

    def _look(self) -> None:
        now = self.loop.time()
        clock = self._clock
        if self.flow.read_paused and has_ended(self.transport.get_extra_info("socket")):
            self.transport.abort()  # a transport that does not read does not notice
            return
        is_served = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (is_served and self.cycle.response_started):
            # It is not the client that delays; or the application has begun its answer, and limits the time itself.
            clock.since = now
        # While an answer is written, what is unread may grow though the client reads.
        unread = 0 if is_served and not self.flow.write_paused else unread_bytes(self.transport)
        if clock.has_stalled(unread, now):
            log.info("Cut %s off: it read nothing for %g s", name_of(self.client), clock.timeouts.read_s)
            reset(self.transport)
            return
        if now >= clock.due:
            self._end_wait()
        self._look_in_time(now)

    def _look_in_time(self, now: float) -> None:
        if self._watch:
            self._watch.cancel()
        delay_s = min(self._clock.timeouts.look_every_s, self._clock.due - now)
        self._watch = self.loop.call_later(delay_s, self._look)

    def _end_wait(self) -> None:
        if reason := self._clock.refusal(has_begun=self._state is not ClientState.WAITING):
            self._refuse(reason)
        else:
            self._state = ClientState.DEAF
            self._clock.owed = None
            self.transport.close()

    # Refusing

    def _refuse(self, reason: Refusal) -> None:
        """Answer the request that is being read, after those before it, and close the connection."""
        log.info("Refused %s: %d %s", name_of(self.client), reason.status, reason.detail)
        is_in_body, self._state = self._state is ClientState.BODY, ClientState.DEAF
        self._clock.owed = None
        answer = problem(reason.status, reason.detail, new_request_id())
        if self._handler is not None:
            self._handler.recorder.refused(answer.status, answer.outcome)
        cycle = self.cycle  # the latest request whose head was whole
        if is_in_body and self.pipeline:
            self.pipeline[0] = (cycle, cast("Any", answering(answer.with_field(b"connection", b"close"))))
        elif is_in_body:
            cycle.disconnected = True
            if isinstance(cycle, WholeJob):
                cycle.drop_body()
            else:
                cycle.waiting_for_100_continue = False
            cycle.message_event.set()
            self._close(None if cycle.response_started else answer)
        elif cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False  # its answer is the last one
        else:
            self._close(answer)

    def _close_after_answer(self) -> None:
        if self._state is ClientState.BODY:
            self._close()
        else:
            self.transport.close()

    def _close(self, answer: Answer | None = None) -> None:
        """Send a last answer, half-close, discard what the client still sends, and close within LINGER_S.

        Closing at once would reset the connection, and the client could lose the answer.
        """
        self._state = ClientState.DEAF
        if answer is not None:
            self.transport.write(rendered(answer, answer.body, self.server_state.default_headers, keep_alive=False))
        if self.transport.is_closing() or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.flow.resume_reading()
        self.transport.write_eof()
        now = self.loop.time()
        self._clock.begin(Owed.END, now)
        self._look_in_time(now)
