"""A request's body as ASGI messages, each at its own second; after them the client is silent."""

import asyncio

from router.http.asgi import Message

END: Message = {"type": "http.request"}
GONE: Message = {"type": "http.disconnect"}


def part(body: bytes) -> Message:
    """Return a message with a part that is not the last one."""
    return {"type": "http.request", "body": body, "more_body": True}


def at_once(*parts: bytes) -> list[tuple[float, Message]]:
    """Return the messages of a body that arrived whole, in these parts."""
    return [*((0.0, part(body)) for body in parts), (0.0, END)]


class Sender:
    """A callable for the next message, for code that runs in tests/support/timeless.py."""

    def __init__(self, *sent: tuple[float, Message]) -> None:
        self._sent = list(sent)

    async def __call__(self) -> Message:
        """Return the next message at its second."""
        if not self._sent:
            await asyncio.Event().wait()
        at_s, message = self._sent[0]
        if (ahead_s := at_s - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(ahead_s)
        del self._sent[0]
        return message
