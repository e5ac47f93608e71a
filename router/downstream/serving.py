"""Makes uvicorn's server accept by an Acceptor, and serve all waiting clients before it stops.

uvicorn closes its listening sockets first. If no other process holds them, the kernel then resets the connections that
have not been accepted; under load these are dozens. They cannot be waited for with uvloop's server: it accepts one in
each turn of its loop, and clients that are answered meanwhile come again. uvicorn has no setting for its server's
class, so this module replaces methods of that class.
"""

import asyncio
import socket
from functools import partial
from pathlib import Path
from typing import Any, cast

from uvicorn.config import Config
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
    """Start the application, and accept by an Acceptor: from `sockets`, or from uvicorn's own where there are none."""
    await _startup_as_uvicorn(server, [])  # without sockets uvicorn starts the application and makes no server
    if not server.started:
        return
    config, state = server.config, server.server_state
    try:
        listening = sockets or [_bound(config)]
    except SystemExit:  # uvicorn has logged why
        await server.lifespan.shutdown()
        raise
    if config.fd is not None:
        # uvicorn takes each --fd for a Unix socket, whose clients would count as being on this host.
        listening = [socket.socket(fileno=each.detach()) for each in listening]
    make = partial(cast("Any", config.http_protocol_class), config, state, server.lifespan.state)
    acceptor = Acceptor(listening, make, config.ssl)
    state.connections = acceptor.clients  # type: ignore[assignment]  # it is a set of them
    acceptor.listen(config.backlog)
    server.servers.append(acceptor)  # type: ignore[arg-type]  # it has the methods that uvicorn calls


def _bound(config: Config) -> socket.socket:
    """Return the socket that the options of a single uvicorn name. Raises SystemExit."""
    if config.uds is not None and Path(config.uds).is_socket():  # of a process that was killed
        Path(config.uds).unlink()
    return config.bind_socket()


async def _shutdown(server: Server, sockets: list[socket.socket] | None = None) -> None:
    """Accept all clients that have connected, then shut down as uvicorn does."""
    notifying = asyncio.create_task(_go_on_notifying(server))
    for each in server.servers:
        await cast("Acceptor", each).finish(server.config.backlog)
    await _shutdown_as_uvicorn(server, sockets)
    notifying.cancel()


async def _go_on_notifying(server: Server) -> None:
    """Go on telling gunicorn's master that this process lives. uvicorn stops; the master would then kill long jobs."""
    while server.config.callback_notify is not None:
        await server.config.callback_notify()
        await asyncio.sleep(_NOTIFY_EVERY_S)
