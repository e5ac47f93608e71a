"""ASGI as this program uses it: its types, how an answer is sent, and what its messages do not tell."""

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

# Printable ASCII: what can stand in a header and in a log line.
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


async def send_answer(answer: Answer, receive: Receive, send: Send) -> bool:
    """Send an answer by ASGI's messages, a large one for as long as its client is there. False: it left before."""
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": answer.rest is not None})
        return answer.rest is None or await _send_rest(answer.rest, send, leaving(receive))
    finally:
        if answer.rest is not None:
            answer.rest.close()


async def leaving(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


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


CLIENT_LEFT = "client_left"  # also while nothing is read of its request
STOPPING = "stopping"  # this process ends when all its requests have


def tell(cycle: RequestResponseCycle | None, news: str) -> None:
    """Set the event that the application of this request has left for these news, if it has."""
    if cycle is not None and (event := cycle.scope.get("state", {}).get(news)):
        event.set()
        cycle.message_event.set()  # whoever waits for more of the body looks up
