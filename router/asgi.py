"""The data path's door: jobs are taken here, in plain ASGI, before FastAPI sees anything.

FastAPI's middleware and routing cost 28 µs a request, as much as all that is done for a job. Whatever is no job goes
on to it unchanged.
"""

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec

from router import job_log
from router.answers import Answer, broken, buffers_full, problem
from router.bodies import Body, Buffers, BuffersFull, Share
from router.course import Deliver
from router.dispatch import Dispatcher
from router.headers import DEADLINE, Head, Headers, read_head
from router.heads import Heads
from router.job import Job
from router.policy.deadline import SMALL_BYTES
from router.policy.endpoints import SANDBOX_FUSION, endpoints_of
from router.policy.origin import Pages
from router.response import Parts
from router.settings import Settings
from router.tally import Tally
from router.tasks import start
from router.upstream import UpstreamFailed
from router.waiter import ClientLeft

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# SandboxFusion's endpoints and their methods. /v1/ping is not among them: the router answers that for itself.
JOB_ENDPOINTS = {path: endpoint.method for path, endpoint in SANDBOX_FUSION.items()}
# The largest deadline in ms that is told from a larger one: 31 years.
_DEADLINE_DIGITS = 12

# In a request's state, the name of the API key that it came with.
KEY_NAME = "key_name"

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class BadDeadline(Exception):
    """The client's deadline is no number of milliseconds."""


class Foreign(Exception):
    """The request may be a page of another site's."""


class BodyTooLarge(Exception):
    """The request's body is longer than the limit."""


class Asked(msgspec.Struct, frozen=True):
    """The head of a request for a job; header names are in lower case. `key_name`: as Job has it."""

    method: str
    path: str
    query: bytes
    headers: Headers
    key_name: str = ""


class JobHead(msgspec.Struct, frozen=True):
    """What is the same for all jobs that are sent with this head, but for the length of their bodies.

    `lines` go on to the worker; `headers` are all that came. `key_name`: as Job has it.
    """

    path: str
    target: bytes
    lines: bytes
    headers: Headers
    keep_alive: bool
    request_id: bytes | None = None
    client_s: float | None = None
    key_name: str = ""


class JobDoor:
    """An ASGI application that takes jobs, and hands all else to `rest`.

    `heads` are those that its connections have read.
    """

    def __init__(
        self, dispatcher: Dispatcher, rest: Application, buffers: Buffers, settings: Settings, tally: Tally
    ) -> None:
        self.heads = Heads[JobHead]()
        self.tally = tally
        self.methods = {path: endpoint.method for path, endpoint in endpoints_of(settings.endpoints).items()}
        # Those of jobs as they mostly are; percent-encoded, ASGI's way is good enough.
        self.job_paths = {path.encode("ascii"): path for path, method in self.methods.items() if method == "POST"}
        # What lies below a job's endpoint takes jobs, too.
        self._below = tuple(f"{path}/" for path in self.methods)
        self._beginning: set[asyncio.Task[None]] = set()
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
        if path in self.methods:
            asked = Asked(scope["method"], path, scope["query_string"], scope["headers"])
            answer = await self.answer(asked, receive)
        else:
            found = self._admit(scope["headers"]) if path.startswith(self._below) else self._known(scope["headers"])
            if not isinstance(found, Answer):
                await self._pass_on(scope, receive, send, found)
                return
            self.tally.refused(found.status, found.outcome)
            answer = found
        if answer is not None:
            await send_answer(answer, receive, send, path)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, key_name: str) -> None:
        scope.setdefault("state", {})[KEY_NAME] = key_name
        await self._rest(scope, receive, send)

    def _admit(self, headers: Headers) -> str | Answer:
        """Return the name of the key that jobs with these headers came with, or the answer where they may not come."""
        return _forbidden(self._pages.job_refusal(headers), headers) or ""

    def _known(self, headers: Headers) -> str | Answer:
        return _forbidden(self._pages.refusal(headers), headers) or ""

    async def answer(self, asked: Asked, receive: Receive, whole: bytes | None = None) -> Answer | None:
        """Return the answer to a request for one of `methods`; None where its client has left.

        `whole` is its body where that has come already. What may not come is refused before any of its body is read.
        """
        found = self._admit(asked.headers)
        if isinstance(found, Answer):
            return self._refused(asked.path, found)
        return await self._take(msgspec.structs.replace(asked, key_name=found) if found else asked, receive, whole)

    async def _take(self, asked: Asked, receive: Receive, whole: bytes | None) -> Answer | None:
        head = read_head(asked.headers)
        request_id = request_id_of(head)
        method = self.methods[asked.path]
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
            return self._unfit(asked, reason, request_id)

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

        def end(answer: Answer | None) -> None:
            share.give_back()
            deliver(answer)

        try:
            try:
                _admitted(body, self._max_body_bytes, share)
            except (BodyTooLarge, BuffersFull) as reason:
                end(self._unfit(head, reason, request_id))
                return
            job = Job(
                *(b"POST", head.path, head.target, head.lines, body, request_id, has_left, share),
                *(head.client_s, head.key_name),
            )
            if job.is_large:
                start(self._beginning, self._begin_large(job, end))
            else:
                self._dispatcher.begin(job, end)
        except Exception:
            log.exception("A job met with a fault of the router's own")
            end(broken(request_id))

    async def _begin_large(self, job: Job, deliver: Deliver) -> None:
        try:
            self._dispatcher.begin(await self._dispatcher.looked_into(job), deliver)
        except Exception:
            log.exception("A job met with a fault of the router's own")
            deliver(broken(job.request_id))

    def _unfit(
        self, asked: Asked | JobHead, reason: BadDeadline | BodyTooLarge | BuffersFull, request_id: bytes
    ) -> Answer:
        match reason:
            case BadDeadline():
                answer = problem(HTTPStatus.BAD_REQUEST, str(reason), request_id)
            case BodyTooLarge():
                limit = f"Request body is larger than {self._max_body_bytes / 2**20:g} MB"
                answer = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, limit, request_id)
            case _:
                answer = buffers_full(self._full_status, self._buffers.max_bytes, request_id)
                job_log.refused(request_id, asked.path, asked.key_name, answer)
        return self._refused(asked.path, answer)

    def _refused(self, path: str, answer: Answer) -> Answer:
        """Count the answer to what is no job yet; jobs are the dispatcher's to count."""
        self.tally.refused(answer.status, answer.outcome, path)
        return answer


def _forbidden(reason: str | None, headers: Headers) -> Answer | None:
    if reason is None:
        return None
    return problem(HTTPStatus.FORBIDDEN, reason, request_id_of(read_head(headers)))


async def send_answer(answer: Answer, receive: Receive, send: Send, path: str = "") -> None:
    """Send an answer by ASGI's messages, a large one for as long as its client is there; `path` is what it asked."""
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": answer.rest is not None})
        if answer.rest is not None and not await _send_rest(answer.rest, send, _leaving(receive)):
            job_log.unheard(path, answer, "and its client left before the end")
    finally:
        if answer.rest is not None:
            answer.rest.close()


def answering(answer: Answer) -> Application:
    """Return an application that gives this answer to whatever it is asked."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send_answer(answer, receive, send, scope["path"])

    return application


async def _leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _target(asked: Asked) -> bytes:
    path = asked.path.encode("ascii")
    return path + b"?" + asked.query if asked.query else path


def _job(asked: Asked, head: Head, body: Body, request_id: bytes, receive: Receive, share: Share) -> Job:
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
        key_name=asked.key_name,
    )


def client_s_of(head: Head) -> float | None:
    """Return for how many seconds the client waits, where it says so. Raises BadDeadline."""
    deadline = head.deadline
    if deadline is None:
        return None
    digits = deadline.lstrip(b"0")
    if not deadline.isdigit() or not digits:
        raise BadDeadline(f"{DEADLINE.decode()}: expected a whole number of milliseconds above 0")
    return (int(digits) if len(digits) <= _DEADLINE_DIGITS else 10**_DEADLINE_DIGITS) / 1000


def _admitted(body: bytes, limit: int, share: Share) -> bytes:
    if len(body) > limit:
        raise BodyTooLarge
    share.grow(len(body))
    return body


async def _read_body(head: Head, receive: Receive, limit: int, share: Share) -> Body:
    if head.content_length > limit:  # before a byte of it is read, and before uvicorn answers `Expect: 100-continue`
        raise BodyTooLarge
    body = bytearray()  # joined at its end, a large one would be copied at once
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        if len(body) + len(part) > limit:
            raise BodyTooLarge
        share.grow(len(part))
        body += part
        if not message.get("more_body", False):
            return body if len(body) > SMALL_BYTES else bytes(body)


async def _send_rest(rest: Parts, send: Send, leaving: Coroutine[None, None, None]) -> bool:
    """Send what follows, for as long as the client is there; return whether it was there to the end.

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
        if is_sent := sending.done():
            sending.result()
        return is_sent
    finally:
        sending.cancel()
        watching.cancel()
        await asyncio.gather(sending, watching, return_exceptions=True)


def request_id_of(head: Head) -> bytes:
    """Return the client's x-request-id where it can stand in a header and a log line, else a new one."""
    given = head.request_id
    return given if given is not None and _REQUEST_ID.fullmatch(given) else new_request_id()


def new_request_id() -> bytes:
    """Return an id that no other request has."""
    return b"%032x" % random.getrandbits(128)
