"""Makes uvicorn's server accept by an Acceptor, and serve all waiting clients before it stops.

uvicorn closes its listening sockets first. If no other process holds them, the kernel then resets the connections that
have not been accepted; under load these are dozens. uvicorn has no setting for its server's class, so this module
replaces methods of that class.
"""

import asyncio
import select
import socket
from functools import partial
from typing import Any, cast

from uvicorn.server import Server

from router.downstream.acceptor import Acceptor

# Often enough for the shortest `timeout` of gunicorn, 1 s.
_NOTIFY_EVERY_S = 0.5


def take_over() -> None:
    """Replace the methods, for all of uvicorn's servers in this process."""
    Server.startup = _startup  # type: ignore[method-assign, assignment]
    Server.shutdown = _shutdown  # type: ignore[method-assign, assignment]


_startup_as_uvicorn, _shutdown_as_uvicorn = Server.startup, Server.shutdown


async def _startup(server: Server, sockets: list[socket.socket] | None = None) -> None:
    """Start the application; where gunicorn or `uvicorn --workers` gives sockets, accept by an Acceptor."""
    # With an empty list of sockets uvicorn starts the application and makes no server.
    await _startup_as_uvicorn(server, None if sockets is None else [])
    if sockets and server.started:
        config, state = server.config, server.server_state
        make = partial(cast("Any", config.http_protocol_class), config, state, server.lifespan.state)
        acceptor = Acceptor(sockets, make, config.ssl)
        state.connections = acceptor.clients  # type: ignore[assignment]  # it is a set of them
        acceptor.listen(config.backlog)
        server.servers.append(acceptor)  # type: ignore[arg-type]  # it has the methods that uvicorn calls


async def _shutdown(server: Server, sockets: list[socket.socket] | None = None) -> None:
    """Accept all clients that have connected, then shut down as uvicorn does."""
    notifying = asyncio.create_task(_go_on_notifying(server))
    for each in server.servers:
        if isinstance(each, Acceptor):
            await each.finish(server.config.backlog)
        else:
            await _accept_all(each, server.config.backlog)
    await _shutdown_as_uvicorn(server, sockets)
    notifying.cancel()


async def _accept_all(server: asyncio.Server, most: int) -> None:
    """Close a server once no client waits to be accepted; uvloop accepts one in each turn of its loop."""
    waiting = select.poll()
    for listening in server.sockets:
        waiting.register(listening.fileno(), select.POLLIN)
    for _ in range(most):  # no more can wait now; later clients are not waited for
        if not waiting.poll(0):
            break
        await asyncio.sleep(0)
    server.close()
    await asyncio.sleep(0)  # lets the last connection be made, so that uvicorn shuts it down like the others


async def _go_on_notifying(server: Server) -> None:
    """Go on telling gunicorn's master that this process lives. uvicorn stops; the master would then kill long jobs."""
    while server.config.callback_notify is not None:
        await server.config.callback_notify()
        await asyncio.sleep(_NOTIFY_EVERY_S)
