"""The data path's door: jobs are taken here, in plain ASGI, before FastAPI sees anything.

FastAPI's middleware and routing cost 28 µs a request, as much as all that is done for a job. Whatever is no job goes
on to it unchanged.
"""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

from router.answers import Answer, buffers_full, problem
from router.bodies import Buffers, BuffersFull, Share
from router.dispatch import Dispatcher
from router.headers import DEADLINE, Headers
from router.job import Job
from router.settings import Settings
from router.upstream import UpstreamFailed
from router.waiter import ClientLeft
from router.wire import Parts

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

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class BadDeadline(Exception):
    """The client's deadline is no number of milliseconds."""


class BodyTooLarge(Exception):
    """The request's body is longer than the limit."""


class JobDoor:
    """An ASGI application that takes jobs, and hands all else to `rest`."""

    def __init__(self, dispatcher: Dispatcher, rest: Application, buffers: Buffers, settings: Settings) -> None:
        self._dispatcher = dispatcher
        self._rest = rest
        self._buffers = buffers
        self._max_body_bytes = int(settings.max_body_mb * 2**20)
        self._full_status = settings.error_status.queue_full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        method = JOB_ENDPOINTS.get(scope["path"]) if scope["type"] == "http" else None
        if method is None:
            await self._rest(scope, receive, send)
            return
        request_id = _request_id(scope["headers"])
        if scope["method"] != method:
            answer = problem(HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed", request_id)
            answer.headers.append((b"allow", method.encode("ascii")))
        else:
            try:
                with self._buffers.share() as share:
                    body = await _read_body(scope["headers"], receive, self._max_body_bytes, share)
                    answer = await self._dispatcher.run(_job(scope, method, body, request_id, receive, share))
            except ClientLeft:
                return
            except BadDeadline:
                wanted = f"{DEADLINE.decode()}: expected a whole number of milliseconds above 0"
                answer = problem(HTTPStatus.BAD_REQUEST, wanted, request_id)
            except BodyTooLarge:
                limit = f"Request body is larger than {self._max_body_bytes / 2**20:g} MB"
                answer = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, limit, request_id)
            except BuffersFull:
                answer = buffers_full(self._full_status, self._buffers.max_bytes, request_id)
        await _send(answer, send)
        if answer.rest is not None:
            await _send_rest(answer.rest, send, _leaving(receive))


async def _leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _job(scope: Scope, method: str, body: bytes, request_id: bytes, receive: Receive, share: Share) -> Job:
    target = scope["path"].encode("ascii")
    if query := scope["query_string"]:
        target += b"?" + query
    client_s = _client_s(scope["headers"])
    has_left = partial(_leaving, receive)
    verb, path, fields = method.encode("ascii"), scope["path"], scope["headers"]
    return Job(verb, path, target, fields, body, request_id, has_left, share, client_s)


def _client_s(headers: Headers) -> float | None:
    """Return for how many seconds the client waits, where it says so."""
    for name, value in headers:
        if name == DEADLINE:
            if not value.isdigit() or int(value) == 0:
                raise BadDeadline
            return int(value) / 1000
    return None


async def _read_body(headers: Headers, receive: Receive, limit: int, share: Share) -> bytes:
    declared = next((value for name, value in headers if name == b"content-length"), b"0")
    if int(declared) > limit:  # before a byte of it is read, and before uvicorn answers `Expect: 100-continue`
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


async def _send(answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": answer.rest is not None})


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
        await rest.aclose()


def _request_id(headers: Headers) -> bytes:
    """Return the client's x-request-id where it can stand in a header and a log line, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex.encode("ascii")
