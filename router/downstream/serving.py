"""How uvicorn's server begins and ends in a router process: by an Acceptor, and whoever has connected is served first.

uvicorn closes its listening sockets at once. Where no other process holds them, the kernel then resets the connections
that nobody has accepted yet; under load those are dozens. uvicorn makes its server itself, and of no class but its own:
so methods of that class are replaced here.
"""

import asyncio
import select
import socket
from functools import partial
from typing import Any, cast

from uvicorn.server import Server

from router.downstream.acceptor import Acceptor

# Often enough for gunicorn's shortest `timeout`, 1 s.
_NOTIFY_EVERY_S = 0.5


def take_over() -> None:
    """Let uvicorn's servers in this process begin and end as this module has it."""
    Server.startup = _startup  # type: ignore[method-assign, assignment]
    Server.shutdown = _shutdown  # type: ignore[method-assign, assignment]


_startup_as_uvicorn, _shutdown_as_uvicorn = Server.startup, Server.shutdown


async def _startup(server: Server, sockets: list[socket.socket] | None = None) -> None:
    """Start the application, and accept by an Acceptor where sockets are given: by gunicorn, or `uvicorn --workers`."""
    # With no socket uvicorn starts the application, and nothing else.
    await _startup_as_uvicorn(server, None if sockets is None else [])
    if sockets and server.started:
        config, state = server.config, server.server_state
        make = partial(cast("Any", config.http_protocol_class), config, state, server.lifespan.state)
        acceptor = Acceptor(sockets, make, config.ssl)
        state.connections = acceptor.clients  # type: ignore[assignment]  # it is a set of them
        acceptor.listen(config.backlog)
        server.servers.append(acceptor)  # type: ignore[arg-type]  # as far as it is asked


async def _shutdown(server: Server, sockets: list[socket.socket] | None = None) -> None:
    """Accept all that have connected, then do as uvicorn does."""
    notifying = asyncio.create_task(_go_on_notifying(server))
    for each in server.servers:
        if isinstance(each, Acceptor):
            await each.finish(server.config.backlog)
        else:
            await _accept_all(each, server.config.backlog)
    await _shutdown_as_uvicorn(server, sockets)
    notifying.cancel()


async def _accept_all(server: asyncio.Server, most: int) -> None:
    """Close a server when no connection waits to be accepted; uvloop accepts one at each turn of its loop."""
    waiting = select.poll()
    for listening in server.sockets:
        waiting.register(listening.fileno(), select.POLLIN)
    for _ in range(most):  # more cannot wait; those that come on are not waited for
        if not waiting.poll(0):
            break
        await asyncio.sleep(0)
    server.close()
    await asyncio.sleep(0)  # the last connection accepted is made, so that it is told as the others are


async def _go_on_notifying(server: Server) -> None:
    """Tell gunicorn's master that this process lives. uvicorn stops to, and with a long job it would be killed."""
    while server.config.callback_notify is not None:
        await server.config.callback_notify()
        await asyncio.sleep(_NOTIFY_EVERY_S)
