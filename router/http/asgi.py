"""ASGI as this program uses it: its types, how an answer is sent, and the events that its messages lack."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from router.http.answer import Answer
from router.http.headers import Head
from router.http.response import Parts, UpstreamFailed

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Printable ASCII, which is safe in a header and in a log line.
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


async def send_answer(answer: Answer, receive: Receive, send: Send) -> bool:
    """Send an answer by ASGI's messages; return False if the client disconnected before the end of a large one."""
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": answer.rest is not None})
        return answer.rest is None or await _send_rest(answer.rest, send, leaving(receive))
    finally:
        if answer.rest is not None:
            answer.rest.close()


async def leaving(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_rest(rest: Parts, send: Send, leaving: Coroutine[None, None, None]) -> bool:
    """Send the rest of an answer until the client disconnects; return whether it was sent to its end.

    Where the worker breaks it off, no last message is sent, so uvicorn closes the connection and the client sees that
    the answer is cut short.
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
    """Return the client's x-request-id if it is safe in a header and in a log line, else a new one."""
    given = head.request_id
    return given if given is not None and _REQUEST_ID.fullmatch(given) else new_request_id()


def new_request_id() -> bytes:
    """Return a random id of 128 bits in hexadecimal."""
    return b"%032x" % random.getrandbits(128)


# Keys in a request's state. An application that puts an asyncio.Event there has it set when this happens.
CLIENT_LEFT = "client_left"  # the client has disconnected; `receive` would tell only once the body is read
STOPPING = "stopping"  # the process is to end, as soon as all its requests have ended


def tell(cycle: RequestResponseCycle | None, key: str) -> None:
    """Set the event that the application has put into this request's state under `key`, if it has."""
    if cycle is not None and (event := cycle.scope.get("state", {}).get(key)):
        event.set()
        cycle.message_event.set()  # wakes an application that waits for more of the body
