"""How a router process ends: whoever has connected is served first.

uvicorn closes its listening sockets at once. Where no other process holds them, the kernel then resets the connections
that nobody has accepted yet; under load those are dozens. uvicorn makes its server itself, and of no class but its own:
so a method of that class is replaced here.
"""

import asyncio
import select
import socket

from uvicorn.server import Server

# Often enough for gunicorn's shortest `timeout`, 1 s.
_NOTIFY_EVERY_S = 0.5


def take_over() -> None:
    """Let uvicorn's servers in this process end as this module has it."""
    Server.shutdown = _shutdown  # type: ignore[method-assign, assignment]


_shutdown_as_uvicorn = Server.shutdown


async def _shutdown(server: Server, sockets: list[socket.socket] | None = None) -> None:
    """Accept all that have connected, then do as uvicorn does."""
    notifying = asyncio.create_task(_go_on_notifying(server))
    await _accept_all(server)
    for listening in server.servers:
        listening.close()
    await asyncio.sleep(0)  # the last connection accepted is made, so that it is told as the others are
    await _shutdown_as_uvicorn(server, sockets)
    notifying.cancel()


async def _accept_all(server: Server) -> None:
    """Return when no connection waits to be accepted; uvloop accepts one at each turn of its loop."""
    waiting = select.poll()
    for listening in server.servers:
        for sock in listening.sockets:
            waiting.register(sock.fileno(), select.POLLIN)
    for _ in range(server.config.backlog):  # more cannot wait; those that come on are not waited for
        if not waiting.poll(0):
            return
        await asyncio.sleep(0)


async def _go_on_notifying(server: Server) -> None:
    """Tell gunicorn's master that this process lives. uvicorn stops to, and with a long job it would be killed."""
    while server.config.callback_notify is not None:
        await server.config.callback_notify()
        await asyncio.sleep(_NOTIFY_EVERY_S)
