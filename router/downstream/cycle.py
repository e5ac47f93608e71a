"""A job whose body has a length that there is room for: from its connection to the handler and back, without ASGI.

No task serves it, no scope is made for it, and no messages are passed. All other requests go uvicorn's way, by ASGI.
"""

import asyncio
import logging
from functools import lru_cache
from typing import Any, ClassVar, cast

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from router.downstream.long_body import LongBody
from router.downstream.protocol import LightProtocol
from router.http.answer import Answer, close_rest
from router.http.asgi import Scope
from router.http.headers import Headers, as_lines
from router.http.response import Body
from router.jobs import job_log
from router.jobs.body_budget import BodyShare
from router.jobs.endpoints import JobHead
from router.jobs.handler import JobHandler, answering
from router.jobs.job import JobRun
from router.upstream.connection import JOINED_BYTES

log = logging.getLogger(__name__)

# Clients that send these give them another value with each job, so the head never comes again.
_ONE_JOBS_ALONE = frozenset({b"x-request-id", b"traceparent"})


class WholeJob:
    """A job that is begun when its body is whole; it has what uvicorn and the connection ask of a cycle."""

    __slots__ = (
        *("_connection", "_event", "_handler", "_head", "_parts", "_run", "disconnected", "flow", "keep_alive"),
        *("long_body", "on_response", "response_complete", "response_started", "transport"),
    )
    scope: ClassVar[Scope] = {}

    def __init__(
        self, connection: LightProtocol, handler: JobHandler, head: JobHead, long_body: LongBody | None = None
    ) -> None:
        self.transport = connection.transport
        self.flow = connection.flow
        self.on_response = connection.on_response_complete
        self.keep_alive = head.keep_alive and not connection.is_leaving
        self.disconnected = self.response_started = self.response_complete = False
        self._connection = connection
        self._handler = handler
        self._head = head
        self.long_body = long_body  # until it is whole
        self._parts: list[bytes] = []
        self._event: asyncio.Event | None = None
        self._run: JobRun | None = None

    def take(self, part: bytes) -> None:
        """Keep a part of the body."""
        if self.long_body is None:
            self._parts.append(part)
        else:
            self.long_body.add(part)

    def end(self, head_key: bytes | None) -> None:
        """Begin the job: the body is whole. `head_key` is its head's, where that may be remembered."""
        if head_key is not None and not any(field in _ONE_JOBS_ALONE for field, _ in self._head.admission.headers):
            self._handler.heads.learn(head_key, self._head)
        long_body, self.long_body = self.long_body, None
        if long_body is None:
            body = b"".join(self._parts)
            self._parts.clear()
            self.start(body)
        else:
            self.start(long_body.held, long_body.share)

    def start(self, body: Body, share: BodyShare | None = None) -> None:
        """Begin the job; `share` counts the body already, if it is given."""
        self._run = self._handler.begin(self._head, body, self._has_left, self._answer, self._begun, share)

    def leave(self) -> None:
        """Tell the job that its client has hung up."""
        self.drop_body()
        if self._run is not None:
            self._handler.client_left(self._run)

    def drop_body(self) -> None:
        """Let go of what has come of a long body: it will never be whole."""
        if self.long_body is not None:
            self.long_body.stop()
            self.long_body = None

    def _begun(self, run: JobRun) -> None:
        self._run = run

    @property
    def message_event(self) -> asyncio.Event:
        """What is set when the client leaves; made only for a job that waits for this."""
        if self._event is None:
            self._event = asyncio.Event()
        return self._event

    async def _has_left(self) -> None:
        while not self.disconnected:
            self.message_event.clear()
            await self.message_event.wait()

    def _answer(self, answer: Answer | None) -> None:
        self._run = None  # breaks a reference cycle: the run has the body, and would wait for the garbage collector
        if answer is None or self.disconnected:
            _drop(self._head.path, answer)
            return
        try:
            if answer.rest is None and not self.flow.write_paused:
                self._write(answer)
            else:
                self._hand_over(answer)
        except Exception:
            log.exception("An answer could not be written: its connection is closed")
            close_rest(answer)
            self.transport.abort()

    def _write(self, answer: Answer) -> None:
        """Write a whole answer at once, and end this request."""
        self.response_started = self.response_complete = True
        own, body = self._connection.server_state.default_headers, answer.body
        if len(body) < JOINED_BYTES:
            self.transport.write(rendered(answer, body, own, keep_alive=self.keep_alive))
        else:
            self.transport.writelines((rendered(answer, b"", own, keep_alive=self.keep_alive), body))
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _hand_over(self, answer: Answer) -> None:
        """Let a cycle of uvicorn's send an answer that takes its time."""
        connection = self._connection
        cycle = _Streaming(
            scope={  # type: ignore[typeddict-item]  # what uvicorn's own methods read
                "type": "http",
                "method": "POST",
                "path": self._head.path,
            },
            transport=connection.transport,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=False,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=self.keep_alive,
            on_response=connection.on_response_complete,
        )
        cycle.more_body = False
        if connection.cycle is cast("object", self):
            connection.cycle = cycle
        connection._start_asgi_task(cycle, cast("Any", answering(answer)))  # noqa: SLF001  (uvicorn's way to begin one)


class _Streaming(RequestResponseCycle):
    """A cycle that does not copy the parts of a large answer to give them the form of chunks."""

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message."""
        body: Body = message.get("body", b"")  # type: ignore[assignment]  # a part may be a view
        if len(body) < JOINED_BYTES or not (self.chunked_encoding and message.get("more_body")):
            await super().send(message)
            return
        await super().send({"type": "http.response.body", "body": b"", "more_body": True})  # waits for the client
        if not self.disconnected:
            self.transport.writelines((b"%x\r\n" % len(body), body, b"\r\n"))


def whole_job(connection: LightProtocol, handler: JobHandler, head: JobHead, length: int) -> WholeJob | None:
    """Return the job, to be begun when so many bytes have come; None if there may be no room for them.

    Up to HIGH_WATER_LIMIT uvicorn, too, holds a body that no application has asked for.
    """
    if length <= HIGH_WATER_LIMIT:
        return WholeJob(connection, handler, head)
    share = handler.share_of(length)
    return None if share is None else WholeJob(connection, handler, head, LongBody(length, share))


def _drop(path: str, answer: Answer | None) -> None:
    """Log and close the answer to a client that has hung up; None if it hung up while its job waited."""
    if answer is not None:
        close_rest(answer)
        job_log.unheard(path, answer)


def rendered(answer: Answer, body: bytes, own: Headers, *, keep_alive: bool) -> bytes:
    """Return an answer's head and `body` as HTTP/1.1 bytes; `own` are the server's fields."""
    end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
    return b"".join((STATUS_LINE[answer.status], _lines(tuple(own)), answer.lines, end, body))


@lru_cache(maxsize=4)
def _lines(own: tuple[tuple[bytes, bytes], ...]) -> bytes:
    # They hold the date, so they change each second.
    return as_lines(list(own))
