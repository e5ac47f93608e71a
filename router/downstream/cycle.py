"""A job's way from its client's connection to the handler and back, without ASGI's messages in between.

JobCycle is uvicorn's cycle of request and response, without the scope, its copies and the checks of each message. A job
that has come whole, with a head that is known, needs nothing of it: that is WholeJob, which no task serves.
"""

import asyncio
import logging
from contextlib import suppress
from functools import lru_cache
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from router.downstream.protocol import LightProtocol
from router.http.answer import Answer
from router.http.asgi import Receive, Scope, Send
from router.http.headers import Headers, as_lines
from router.jobs import job_log
from router.jobs.endpoints import Asked, BadDeadline, JobHead
from router.jobs.handler import Foreign, JobHandler, answering, send_job_answer
from router.upstream.connection import JOINED_BYTES

log = logging.getLogger(__name__)

# Who sends these sends others with each job.
_ONE_JOBS_ALONE = frozenset({b"x-request-id", b"traceparent"})


class JobCycle(RequestResponseCycle):
    """uvicorn's cycle of request and response, for a job: without ASGI's scope, and with one write an answer."""

    def __init__(self, connection: HttpToolsProtocol, handler: JobHandler, asked: Asked, *, keep_alive: bool) -> None:
        super().__init__(
            scope={  # type: ignore[typeddict-item]  # what uvicorn's own methods read
                "type": "http",
                "method": asked.method,
                "path": asked.path,
                "query_string": asked.query,
                "http_version": connection.parser.get_http_version(),
                "client": connection.client,
            },
            transport=connection.transport,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=connection.access_log,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=connection.expect_100_continue,
            keep_alive=keep_alive,
            on_response=connection.on_response_complete,
        )
        self._asked = asked
        self._handler = handler
        self._parts: list[bytes] = []

    def start(self, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]]) -> None:
        """Serve the job in a task that is one of `tasks` until it has ended."""
        self._tasks = tasks
        # uvicorn's care for what goes wrong is kept.
        self._task = loop.create_task(self.run_asgi(self._serve))  # type: ignore[arg-type]
        tasks.add(self._task)

    def make_known(self, name: bytes) -> None:
        """Let its head, which `heads.cut` named so, be known when it comes again."""
        comes_once = any(field in _ONE_JOBS_ALONE for field, _ in self._asked.headers)
        if comes_once or self.waiting_for_100_continue or self.scope["http_version"] != "1.1":
            return
        with suppress(BadDeadline, Foreign):
            self._handler.heads.learn(name, self._handler.read(self._asked, keep_alive=self.keep_alive))

    def take(self, part: bytes) -> int:
        """Take a part of the body, uncopied; return how many bytes nobody has asked for yet."""
        self._parts.append(part)
        return sum(map(len, self._parts))

    async def receive(self) -> Any:
        """Return what has come of the body, or the news that the client has left."""
        message = await super().receive()
        if message["type"] == "http.request":
            message["body"] = b"".join(self._parts)
            self._parts.clear()
        return message

    async def _serve(self, _scope: Scope, receive: Receive, send: Send) -> None:
        try:
            whole = None if self.more_body else b"".join(self._parts)
            answer = await self._handler.answer(self._asked, receive, whole)
            if answer is None or self.disconnected:
                _drop(self._asked.path, answer)
                return
            if answer.rest is None and not self.access_log and not self.flow.write_paused:
                write(self, answer, self.default_headers)
                self.message_event.set()
            else:
                await send_job_answer(self._asked.path, answer, receive, send)
        finally:
            self._tasks.discard(self._task)  # a callback of its own would be another turn of the loop


class WholeJob:
    """A job that has come whole: what uvicorn and the connection ask of a cycle, and no more."""

    __slots__ = (
        *("_connection", "_handler", "_event", "_head", "disconnected", "flow", "keep_alive", "on_response"),
        *("response_complete", "response_started", "transport"),
    )
    scope: ClassVar[Scope] = {}
    more_body = False
    waiting_for_100_continue = False

    def __init__(self, connection: LightProtocol, handler: JobHandler, head: JobHead) -> None:
        self.transport = connection.transport
        self.flow = connection.flow
        self.on_response = connection.on_response_complete
        self.keep_alive = head.keep_alive and not connection.is_leaving
        self.disconnected = self.response_started = self.response_complete = False
        self._connection = connection
        self._handler = handler
        self._head = head
        self._event: asyncio.Event | None = None

    def start(self, body: bytes) -> None:
        """Serve it."""
        self._handler.begin(self._head, body, self._has_left, self._answer)

    @property
    def message_event(self) -> asyncio.Event:
        """What is set when the client leaves; hardly ever does anybody wait for that."""
        if self._event is None:
            self._event = asyncio.Event()
        return self._event

    async def _has_left(self) -> None:
        while not self.disconnected:
            self.message_event.clear()
            await self.message_event.wait()

    def _answer(self, answer: Answer | None) -> None:
        if answer is None or self.disconnected:
            _drop(self._head.path, answer)
            return
        try:
            if answer.rest is None and not self.flow.write_paused:
                write(self, answer, self._connection.server_state.default_headers)
            else:
                self._hand_over(answer)
        except Exception:
            log.exception("An answer could not be written: its connection is closed")
            if answer.rest is not None:
                answer.rest.close()
            self.transport.abort()

    def _hand_over(self, answer: Answer) -> None:
        """Let uvicorn's cycle send an answer that takes its time."""
        connection, head = self._connection, self._head
        asked = Asked("POST", head.path, head.target.partition(b"?")[2], head.headers)
        cycle = JobCycle(connection, self._handler, asked, keep_alive=self.keep_alive)
        cycle.more_body = cycle.waiting_for_100_continue = False
        connection.cycle = cycle
        connection._start_asgi_task(cycle, cast("Any", answering(answer)))  # noqa: SLF001  (uvicorn's way to begin one)


def _drop(path: str, answer: Answer | None) -> None:
    """Let go of an answer whose client has hung up; None: it hung up while its job waited."""
    if answer is not None:
        if answer.rest is not None:
            answer.rest.close()
        job_log.unheard(path, answer)


def write(cycle: JobCycle | WholeJob, answer: Answer, own: Headers) -> None:
    """Write a whole answer at once, and be done with this request; `own` are the server's fields."""
    cycle.response_started = cycle.response_complete = True
    body = answer.body
    if len(body) < JOINED_BYTES:
        cycle.transport.write(rendered(answer, body, own, keep_alive=cycle.keep_alive))
    else:
        cycle.transport.writelines((rendered(answer, b"", own, keep_alive=cycle.keep_alive), body))
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def rendered(answer: Answer, body: bytes, own: Headers, *, keep_alive: bool) -> bytes:
    """Return an answer's head and `body` as HTTP/1.1 bytes; `own` are the server's fields."""
    end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
    return b"".join((STATUS_LINE[answer.status], _lines(tuple(own)), answer.lines, end, body))


@lru_cache(maxsize=4)
def _lines(own: tuple[tuple[bytes, bytes], ...]) -> bytes:
    # They change each second.
    return as_lines(list(own))
