"""The data path's door: jobs are taken here, in plain ASGI, before FastAPI sees anything.

FastAPI's middleware and routing cost 28 µs a request, as much as all that is done for a job. Whatever is no job goes
on to it unchanged.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec

from router.answers import Answer, buffers_full, problem
from router.bodies import Buffers, BuffersFull, Share
from router.course import Deliver
from router.dispatch import Dispatcher
from router.headers import DEADLINE, Head, Headers, read_head
from router.heads import Heads
from router.job import Job
from router.policy.origin import Pages
from router.response import Parts
from router.settings import Settings
from router.tally import Tally
from router.upstream import UpstreamFailed
from router.waiter import ClientLeft

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# SandboxFusion's endpoints and their methods. /v1/ping is not among them: the router answers that for itself.
JOB_ENDPOINTS = {
    "/run_code": "POST",
    "/run_jupyter": "POST",
    "/list_datasets": "GET",
    "/list_ids": "POST",
    "/get_prompts": "POST",
    "/get_prompt_by_id": "POST",
    "/submit": "POST",
    "/get_metrics": "POST",
    "/get_metrics_function": "POST",
}

# What lies below a job's endpoint takes jobs, too.
BELOW = tuple(f"{path}/" for path in JOB_ENDPOINTS)
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class BadDeadline(Exception):
    """The client's deadline is no number of milliseconds."""


class Foreign(Exception):
    """The request may be a page of another site's."""


class BodyTooLarge(Exception):
    """The request's body is longer than the limit."""


class Asked(msgspec.Struct, frozen=True):
    """The head of a request for a job; header names are in lower case."""

    method: str
    path: str
    query: bytes
    headers: Headers


class JobHead(msgspec.Struct, frozen=True):
    """What is the same for all jobs that are sent with this head, but for the length of their bodies.

    `lines` go on to the worker; `headers` are all that came.
    """

    path: str
    target: bytes
    lines: bytes
    headers: Headers
    keep_alive: bool
    request_id: bytes | None = None
    client_s: float | None = None


class JobDoor:
    """An ASGI application that takes jobs, and hands all else to `rest`.

    `heads` are those that its connections have read.
    """

    def __init__(
        self, dispatcher: Dispatcher, rest: Application, buffers: Buffers, settings: Settings, tally: Tally
    ) -> None:
        self.heads = Heads[JobHead]()
        self.tally = tally
        self._dispatcher = dispatcher
        self._rest = rest
        self._buffers = buffers
        self._pages = Pages(settings.cors_origins, settings.trusted_hosts)
        self._max_body_bytes = int(settings.max_body_mb * 2**20)
        self._full_status = settings.error_status.queue_full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        path: str = scope["path"]
        if path in JOB_ENDPOINTS:
            asked = Asked(scope["method"], path, scope["query_string"], scope["headers"])
            answer = await self.answer(asked, receive)
        else:
            below = path.startswith(BELOW)
            answer = self._refusal(scope["headers"]) if below else self._stranger(scope["headers"])
            if answer is None:
                await self._pass_on(scope, receive, send)
                return
            self.tally.refused(answer.status, answer.outcome)
        if answer is not None:
            await send_answer(answer, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._rest(scope, receive, send)

    def _refusal(self, headers: Headers) -> Answer | None:
        """Return the answer to jobs that may not come with these headers, None where they may."""
        return _forbidden(self._pages.job_refusal(headers), headers)

    def _stranger(self, headers: Headers) -> Answer | None:
        return _forbidden(self._pages.refusal(headers), headers)

    async def answer(self, asked: Asked, receive: Receive, whole: bytes | None = None) -> Answer | None:
        """Return the answer to a request for one of JOB_ENDPOINTS; None where its client has left.

        `whole` is its body where that has come already. What may not come is refused before any of its body is read.
        """
        if refusal := self._refusal(asked.headers):
            return self._refused(asked.path, refusal)
        return await self._take(asked, receive, whole)

    async def _take(self, asked: Asked, receive: Receive, whole: bytes | None) -> Answer | None:
        head = read_head(asked.headers)
        request_id = request_id_of(head)
        method = JOB_ENDPOINTS[asked.path]
        if asked.method != method:
            answer = problem(HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed", request_id)
            return self._refused(asked.path, answer.with_field(b"allow", method.encode("ascii")))
        try:
            with self._buffers.share() as share:
                if whole is None:
                    body = await _read_body(head, receive, self._max_body_bytes, share)
                else:
                    body = _admitted(whole, self._max_body_bytes, share)
                return await self._dispatcher.run(_job(asked, head, body, request_id, receive, share))
        except ClientLeft:
            return None
        except (BadDeadline, BodyTooLarge, BuffersFull) as reason:
            return self._unfit(asked.path, reason, request_id)

    def read(self, asked: Asked, *, keep_alive: bool) -> JobHead:
        """Return what this head says of each job that comes with it. Raises BadDeadline, Foreign."""
        if self._pages.job_refusal(asked.headers):
            raise Foreign
        head = read_head(asked.headers)
        request_id = None if head.request_id is None else request_id_of(head)
        target = _target(asked)
        return JobHead(asked.path, target, head.lines, asked.headers, keep_alive, request_id, client_s_of(head))

    def begin(
        self, head: JobHead, body: bytes, has_left: Callable[[], Coroutine[None, None, None]], deliver: Deliver
    ) -> None:
        """Take a job that has come whole, by POST; `deliver` is called once, with what `answer` would return."""
        request_id = head.request_id or new_request_id()
        share = self._buffers.share()
        try:
            _admitted(body, self._max_body_bytes, share)
        except (BodyTooLarge, BuffersFull) as reason:
            deliver(self._unfit(head.path, reason, request_id))
            return

        def end(answer: Answer | None) -> None:
            share.give_back()
            deliver(answer)

        job = Job(b"POST", head.path, head.target, head.lines, body, request_id, has_left, share, head.client_s)
        self._dispatcher.begin(job, end)

    def _unfit(self, path: str, reason: BadDeadline | BodyTooLarge | BuffersFull, request_id: bytes) -> Answer:
        match reason:
            case BadDeadline():
                answer = problem(HTTPStatus.BAD_REQUEST, str(reason), request_id)
            case BodyTooLarge():
                limit = f"Request body is larger than {self._max_body_bytes / 2**20:g} MB"
                answer = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, limit, request_id)
            case _:
                answer = buffers_full(self._full_status, self._buffers.max_bytes, request_id)
        return self._refused(path, answer)

    def _refused(self, path: str, answer: Answer) -> Answer:
        """Count the answer to what is no job yet; jobs are the dispatcher's to count."""
        self.tally.refused(answer.status, answer.outcome, path)
        return answer


def _forbidden(reason: str | None, headers: Headers) -> Answer | None:
    if reason is None:
        return None
    return problem(HTTPStatus.FORBIDDEN, reason, request_id_of(read_head(headers)))


async def send_answer(answer: Answer, receive: Receive, send: Send) -> None:
    """Send an answer by ASGI's messages, a large one for as long as its client is there."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": answer.rest is not None})
    if answer.rest is not None:
        await _send_rest(answer.rest, send, _leaving(receive))


def answering(answer: Answer) -> Application:
    """Return an application that gives this answer to whatever it is asked."""

    async def application(_scope: Scope, receive: Receive, send: Send) -> None:
        await send_answer(answer, receive, send)

    return application


async def _leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _target(asked: Asked) -> bytes:
    path = asked.path.encode("ascii")
    return path + b"?" + asked.query if asked.query else path


def _job(asked: Asked, head: Head, body: bytes, request_id: bytes, receive: Receive, share: Share) -> Job:
    return Job(
        method=asked.method.encode("ascii"),
        path=asked.path,
        target=_target(asked),
        lines=head.lines,
        body=body,
        request_id=request_id,
        has_left=partial(_leaving, receive),
        share=share,
        client_s=client_s_of(head),
    )


def client_s_of(head: Head) -> float | None:
    """Return for how many seconds the client waits, where it says so. Raises BadDeadline."""
    deadline = head.deadline
    if deadline is None:
        return None
    if not deadline.isdigit() or int(deadline) == 0:
        raise BadDeadline(f"{DEADLINE.decode()}: expected a whole number of milliseconds above 0")
    return int(deadline) / 1000


def _admitted(body: bytes, limit: int, share: Share) -> bytes:
    if len(body) > limit:
        raise BodyTooLarge
    share.grow(len(body))
    return body


async def _read_body(head: Head, receive: Receive, limit: int, share: Share) -> bytes:
    if head.content_length > limit:  # before a byte of it is read, and before uvicorn answers `Expect: 100-continue`
        raise BodyTooLarge
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > limit:
            raise BodyTooLarge
        share.grow(len(parts[-1]))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _send_rest(rest: Parts, send: Send, leaving: Coroutine[None, None, None]) -> None:
    """Send what follows, for as long as the client is there.

    What the worker has broken off ends without its end: uvicorn then closes the connection short.
    """

    async def pass_on() -> None:
        with suppress(UpstreamFailed):
            async for part in rest:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    sending, watching = asyncio.create_task(pass_on()), asyncio.create_task(leaving)
    try:
        await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        sending.cancel()
        watching.cancel()
        await asyncio.gather(sending, watching, return_exceptions=True)
        rest.close()


def request_id_of(head: Head) -> bytes:
    """Return the client's x-request-id where it can stand in a header and a log line, else a new one."""
    given = head.request_id
    return given if given is not None and _REQUEST_ID.fullmatch(given) else new_request_id()


def new_request_id() -> bytes:
    """Return an id that no other request has."""
    return b"%032x" % random.getrandbits(128)
