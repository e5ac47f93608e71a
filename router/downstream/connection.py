"""HTTP/1.1 from clients: uvicorn's protocol, made strict about what it is sent, and impatient.

Malformed requests end here, with 400 and a reason. So do clients that send too slowly (408) or read nothing of their
answer (the connection is cut). What is malformed stands in policy/request_head, what is slow in policy/patience; this
room knows how uvicorn is told.
"""

import asyncio
import logging
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from router.auth.access import PEER, PROXY, peer_of
from router.downstream import serving
from router.downstream.cycle import JobCycle, WholeJob, rendered
from router.downstream.protocol import LightProtocol, Refused, reason_of
from router.http.answer import Answer, problem
from router.http.asgi import CLIENT_LEFT, STOPPING, new_request_id, tell
from router.http.head_cache import split
from router.http.sockets import LingeringTransport, has_ended, name_of, reset, unread_bytes
from router.jobs.endpoints import Asked
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

serving.take_over()  # here, where uvicorn is handed the class below

# The lifespan state's entries by which the application hands both to this class, which uvicorn makes.
TIMEOUTS, HANDLER = "client_timeouts", "job_door"
_SLASH = ord("/")


class ClientConnection(LightProtocol):
    """One client's connection; for `uvicorn --http router.downstream:ClientConnection`."""

    # What differs from connection to connection, as it begins.
    _watch: asyncio.TimerHandle | None = None
    _loose_bytes = 0  # come since a head began, or since a body's last: fields, trailers, a chunk's extensions
    _is_deaf = False  # nothing more is read from this client
    _unstarted: JobCycle | None = None  # until its body has come, or has not come in one piece with its head
    _name: bytes | None = None  # of the head that is being read, where its body came with it

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
        """Stop watching."""
        if self._watch:
            self._watch.cancel()
        if isinstance(self.cycle, WholeJob) and self.cycle.response_complete:
            self.cycle = None  # it has nobody to tell
        tell(self.cycle, CLIENT_LEFT)
        super().connection_lost(exc)
        self.cycle = None  # type: ignore[assignment]  # each knows the other: else the garbage collector has to find them

    def leave(self, idle_s: float = MAKE_ROOM_S) -> None:
        """Close after the next answer, which says so; and at the latest when nothing has come for `idle_s`."""
        super().leave()
        self._clock.keep_alive_s = min(self._clock.keep_alive_s, idle_s)
        if self._clock.owed is Owed.REQUEST:
            self._look_in_time(self.loop.time())
        elif self._clock.owed is not Owed.HEAD and self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Take one more request, if it comes within LAST_REQUEST_S: the process is to end.

        uvicorn would close at once what waits for a request: a client that sends at that moment loses its job.
        """
        tell(self.cycle, STOPPING)
        super().shutdown()
        self.leave(LAST_REQUEST_S)
        if self._waits_for_request():
            self._expect_request()

    def _waits_for_request(self) -> bool:
        """Whether nothing of a request has come since the connection was made, or since the last answer."""
        owed = self._clock.owed
        return owed is Owed.REQUEST or (owed is Owed.HEAD and not self._loose_bytes)

    def _expect_request(self) -> None:
        now = self.loop.time()
        self._clock.begin(Owed.REQUEST, now)
        self._look_in_time(now)

    def data_received(self, data: bytes) -> None:
        """Parse what came; at the first malformed byte, refuse."""
        if self._is_deaf:
            return
        patience = self._clock
        is_between = patience.owed is Owed.REQUEST or (patience.owed is Owed.HEAD and not self._loose_bytes)
        if is_between and self._has_begun(data):
            return
        if patience.owed is None or patience.owed is Owed.REQUEST:
            patience.begin(Owed.HEAD, self.loop.time())
        self._loose_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._refuse(reason_of(error))
            return
        if patience.owed is not None:
            self._expect_more()

    def _has_begun(self, data: bytes) -> bool:
        """Begin a job that came in one piece, and with a head that is known."""
        if (handler := self._handler) is None or self.access_log or (parts := split(data)) is None:
            return False
        self._name, body = parts  # the parser's to forget, where it has to read this
        if (head := handler.heads.get(self._name)) is None:
            return False
        self._clock.owed = self._name = None
        self.cycle = job = WholeJob(self, handler, head)  # type: ignore[assignment]  # as far as it is asked
        job.start(body)
        return True

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it; uvicorn's timer for that costs a microsecond."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._clock.owed is None:
            self._clock.begin(Owed.REQUEST, self.loop.time())
            if self.is_leaving:
                self._look_in_time(self._clock.since)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if isinstance(cycle, JobCycle) and app is self.app:  # another one answers what turned out malformed
            cycle.start(self.loop, self.tasks)
        else:
            super()._start_asgi_task(cycle, app)

    def _expect_more(self) -> None:
        """Go on with a request that has not come in one piece."""
        self._start_job()
        if self._loose_bytes > MAX_HEAD_BYTES:
            self._refuse(HEAD_TOO_LARGE)
        elif self._clock.owed is Owed.BODY and self.cycle.transport is self.transport:
            self._clock.begin(Owed.BODY, self.loop.time())
            self.cycle.transport = LingeringTransport(self.transport, self._close_after_answer)
        elif self._clock.owed is Owed.BODY:
            self._clock.has_come_on(self.loop.time())

    # The parser's callbacks: for every request, so without super(), which would cost a microsecond in all

    def on_headers_complete(self) -> None:
        """Start the job, or the application, if the head is good. Raises Refused."""
        if self.parser.should_upgrade():
            raise Refused(NO_UPGRADE)
        if self._loose_bytes > MAX_HEAD_BYTES and head_bytes(self.url, self.headers) > MAX_HEAD_BYTES:
            raise Refused(HEAD_TOO_LARGE)
        version = self.parser.get_http_version()
        if reason := refusal(version, self.headers):
            raise Refused(reason)
        if self.url[0] != _SLASH:
            self._take_host_of_target()
        path, _, query = self.url.partition(b"?")
        is_job = self._handler is not None and path in self._handler.job_paths and self.parser.get_method() == b"POST"
        # What a browser sends for a page goes the application's way, which has CORS.
        if self._handler is not None and is_job and b"origin" not in dict(self.headers):
            self._begin_job(self._handler, Asked("POST", self._handler.job_paths[path], query, self.headers), version)
        else:
            self._start_application()
        # Trailers are dropped (RFC 9110 §6.5.1): the application has the list that has been filled so far.
        self.headers = []
        self._loose_bytes = 0
        self._clock.owed = Owed.BODY

    def _take_host_of_target(self) -> None:
        """Let an absolute-form target's host count in the place of Host (RFC 9112 §3.2.2). Raises Refused."""
        if (authority := authority_of(self.url)) is None:
            return
        if not is_authority(authority):
            raise Refused(malformed("invalid target"))
        self.headers = [(b"host", authority), *(field for field in self.headers if field[0] != b"host")]

    def _begin_job(self, handler: JobHandler, asked: Asked, version: str) -> None:
        previous = self.cycle
        keep_alive = version != "1.0" and self.parser.should_keep_alive() and not self.is_leaving
        self.cycle = cycle = JobCycle(self, handler, asked, keep_alive=keep_alive)
        if previous is None or previous.response_complete:
            self._unstarted = cycle
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start_job(self) -> None:
        if self._unstarted is not None:
            self._unstarted.start(self.loop, self.tasks)
            self._unstarted = None

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
        self._loose_bytes = 0
        self._clock.body_bytes += len(body)
        cycle = self.cycle
        if cycle.response_complete:
            return
        if isinstance(cycle, JobCycle):
            unread = cycle.take(body)
        else:
            cycle.body += body
            unread = len(cycle.body)
        if unread > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End a request."""
        name, self._name = self._name, None
        self._loose_bytes = 0
        self._clock.owed = None
        if self.cycle.response_complete:
            self._expect_request()
            return
        self.cycle.more_body = False
        self.cycle.message_event.set()
        if name is not None and isinstance(self.cycle, JobCycle):
            self.cycle.make_known(name)
        self._start_job()

    # Time

    def resume_writing(self) -> None:
        """Go on writing: the client has read."""
        self._clock.has_read()
        super().resume_writing()

    def _look(self) -> None:
        now = self.loop.time()
        patience = self._clock
        if self.flow.read_paused and has_ended(self.transport.get_extra_info("socket")):
            self.transport.abort()  # who does not read does not hear of it
            return
        is_served = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (is_served and self.cycle.response_started):
            # It is not the client who does not send; or the application answers already, and keeps the time itself.
            patience.since = now
        # While an answer is being written, the application may be adding to what is unread, unasked.
        unread = 0 if is_served and not self.flow.write_paused else unread_bytes(self.transport)
        if patience.has_stalled(unread, now):
            log.info("Cut %s off: it read nothing for %g s", name_of(self.client), patience.timeouts.read_s)
            reset(self.transport)
            return
        if now >= patience.due:
            self._end_wait()
        self._look_in_time(now)

    def _look_in_time(self, now: float) -> None:
        if self._watch:
            self._watch.cancel()
        delay_s = min(self._clock.timeouts.look_every_s, self._clock.due - now)
        self._watch = self.loop.call_later(delay_s, self._look)

    def _end_wait(self) -> None:
        if reason := self._clock.refusal(has_begun=self._loose_bytes > 0):
            self._refuse(reason)
        else:
            self._clock.owed = None
            self.transport.close()

    # Refusing

    def _refuse(self, reason: Refusal) -> None:
        """Answer the request that is being read, after those before it, and close the connection."""
        log.info("Refused %s: %d %s", name_of(self.client), reason.status, reason.detail)
        self._is_deaf = True
        is_in_body = self._clock.owed is Owed.BODY
        self._clock.owed = None
        self._unstarted = None
        answer = problem(reason.status, reason.detail, new_request_id())
        if self._handler is not None:
            self._handler.recorder.refused(answer.status, answer.outcome)
        cycle = self.cycle  # the latest request whose head was whole
        if is_in_body and self.pipeline:
            self.pipeline[0] = (cycle, cast("Any", answering(answer.with_field(b"connection", b"close"))))
        elif is_in_body:
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
            self._close(None if cycle.response_started else answer)
        elif cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False  # its answer is the last one
        else:
            self._close(answer)

    def _close_after_answer(self) -> None:
        if self._clock.owed is Owed.BODY:
            self._close()
        else:
            self.transport.close()

    def _close(self, answer: Answer | None = None) -> None:
        """Close the connection, after a last answer, once the client has stopped sending, or soon."""
        self._is_deaf = True
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
