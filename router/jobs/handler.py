"""The data path's handler: jobs are taken here, in plain ASGI, before FastAPI sees anything.

FastAPI's middleware and routing cost 28 µs a request, as much as all that is done for a job. Whatever is no job goes
on to it unchanged.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus

import msgspec

from router.aio import start
from router.auth.origin import Pages
from router.config.settings import Settings
from router.http.answer import Answer, problem
from router.http.asgi import Application, Receive, Scope, Send, leaving, new_request_id, request_id_of, send_answer
from router.http.head_cache import HeadCache
from router.http.headers import Head, Headers, read_head
from router.http.response import Body
from router.jobs import job_log
from router.jobs.answers import broken, buffers_full
from router.jobs.body_budget import BodyBudget, BodyBudgetFull, BodyShare
from router.jobs.dispatcher import Dispatcher
from router.jobs.endpoints import Asked, BadDeadline, JobHead, client_s_of
from router.jobs.job import Deliver, Job
from router.policy.deadline import SMALL_BYTES
from router.policy.endpoints import endpoints_of
from router.scheduling.pending import ClientLeft
from router.telemetry.recorder import Recorder

log = logging.getLogger(__name__)

# In a request's state, the name of the API key that it came with.
KEY_NAME = "key_name"


class Foreign(Exception):
    """The request may be a page of another site's."""


class BodyTooLarge(Exception):
    """The request's body is longer than the limit."""


class JobHandler:
    """An ASGI application that takes jobs, and hands all else to `rest`.

    `heads` are those that its connections have read.
    """

    def __init__(
        self, dispatcher: Dispatcher, rest: Application, buffers: BodyBudget, settings: Settings, recorder: Recorder
    ) -> None:
        self.heads = HeadCache[JobHead]()
        self.recorder = recorder
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
            self.recorder.refused(found.status, found.outcome)
            answer = found
        if answer is not None:
            await send_job_answer(path, answer, receive, send)

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
        except (BadDeadline, BodyTooLarge, BodyBudgetFull) as reason:
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
            except (BodyTooLarge, BodyBudgetFull) as reason:
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
        self, asked: Asked | JobHead, reason: BadDeadline | BodyTooLarge | BodyBudgetFull, request_id: bytes
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
        self.recorder.refused(answer.status, answer.outcome, path)
        return answer


def _forbidden(reason: str | None, headers: Headers) -> Answer | None:
    if reason is None:
        return None
    return problem(HTTPStatus.FORBIDDEN, reason, request_id_of(read_head(headers)))


def _target(asked: Asked) -> bytes:
    path = asked.path.encode("ascii")
    return path + b"?" + asked.query if asked.query else path


def _job(asked: Asked, head: Head, body: Body, request_id: bytes, receive: Receive, share: BodyShare) -> Job:
    return Job(
        method=asked.method.encode("ascii"),
        path=asked.path,
        target=_target(asked),
        lines=head.lines,
        body=body,
        request_id=request_id,
        has_left=partial(leaving, receive),
        share=share,
        client_s=client_s_of(head),
        key_name=asked.key_name,
    )


def _admitted(body: bytes, limit: int, share: BodyShare) -> bytes:
    if len(body) > limit:
        raise BodyTooLarge
    share.grow(len(body))
    return body


async def _read_body(head: Head, receive: Receive, limit: int, share: BodyShare) -> Body:
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


async def send_job_answer(path: str, answer: Answer, receive: Receive, send: Send) -> None:
    """Send an answer by ASGI's messages; the log tells of a result that its client has not heard to the end."""
    if not await send_answer(answer, receive, send):
        job_log.unheard(path, answer, "and its client left before the end")


def answering(answer: Answer) -> Application:
    """Return an application that gives this answer to whatever it is asked."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send_job_answer(scope["path"], answer, receive, send)

    return application
