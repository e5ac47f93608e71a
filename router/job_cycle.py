"""A job's way from its client's connection to the door and back, without ASGI's messages in between.

uvicorn's cycle as it is, but for what it costs: the scope, its copies and the checks of each message.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from router.answers import Answer
from router.asgi import JOB_ENDPOINTS, Asked, JobDoor, Receive, Scope, Send, send_answer
from router.headers import Headers

CLOSE = (b"connection", b"close")
# A job's target as it mostly is; with a query, or percent-encoded, ASGI's way is good enough.
JOB_TARGETS = {path.encode("ascii"): path for path, method in JOB_ENDPOINTS.items() if method == "POST"}


class JobCycle(RequestResponseCycle):
    """uvicorn's cycle of request and response, for a job: without ASGI's scope, and with one write an answer."""

    def __init__(self, connection: HttpToolsProtocol, door: JobDoor, asked: Asked, version: str) -> None:
        super().__init__(
            scope={  # type: ignore[typeddict-item]  # what uvicorn's own methods read
                "type": "http",
                "method": asked.method,
                "path": asked.path,
                "query_string": asked.query,
                "http_version": version,
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
            keep_alive=version != "1.0" and connection.parser.should_keep_alive(),
            on_response=connection.on_response_complete,
        )
        self._door = door
        self._asked = asked
        self._parts: list[bytes] = []

    def start(self, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]]) -> None:
        """Serve the job in a task that is one of `tasks` until it has ended."""
        self._tasks = tasks
        # uvicorn's care for what goes wrong is kept.
        self._task = loop.create_task(self.run_asgi(self._serve))  # type: ignore[arg-type]
        tasks.add(self._task)

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
            answer = await self._door.answer(self._asked, receive, whole)
            if answer is None or self.disconnected:
                return
            if answer.rest is None and not self.access_log and not self.flow.write_paused:
                self._write(answer)
            else:
                await send_answer(answer, receive, send)
        finally:
            self._tasks.discard(self._task)  # a callback of its own would be another turn of the loop

    def _write(self, answer: Answer) -> None:
        self.response_started = self.response_complete = True
        if not self.keep_alive:
            answer.headers.append(CLOSE)
        self.transport.write(rendered(answer, self.default_headers))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def rendered(answer: Answer, own: Headers) -> bytes:
    """Return a whole answer as HTTP/1.1 bytes; `own` are the server's fields."""
    fields = b"".join([b"%s: %s\r\n" % field for field in (*own, *answer.headers)])
    return b"".join((STATUS_LINE[answer.status], fields, b"\r\n", answer.body))
