"""A single uvicorn accepts by an Acceptor, from the socket that its options name."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import Server

from router.downstream import serving
from router.downstream.acceptor import Acceptor
from router.http.asgi import Receive, Scope, Send


class Application:
    """Starts and stops as the server asks, and records that."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the lifespan."""
        assert scope["type"] == "lifespan"
        while self.asked[-1:] != ["lifespan.shutdown"]:
            self.asked.append((await receive())["type"])
            await send({"type": f"{self.asked[-1]}.complete"})


@asynccontextmanager
async def accepting(
    application: Application, sockets: list[socket.socket] | None = None, **options: Any
) -> AsyncIterator[Acceptor]:
    """Run uvicorn's server with these options."""
    server = Server(Config(application, log_config=None, **options))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await serving._startup(server, sockets)
    (acceptor,) = server.servers
    assert isinstance(acceptor, Acceptor)
    yield acceptor
    await serving._shutdown(server, sockets)


async def test_unix_socket_of_a_killed_process_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process leaves its socket's file; the next one starts with the same `--uds`."""
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as client:
            async with accepting(Application(), uds="s"):
                client.connect("s")
    assert Path("s").is_socket()


@pytest.mark.parametrize("is_given", [False, True], ids=["uvicorn", "uvicorn --workers"])
async def test_file_descriptor_of_a_tcp_socket_makes_no_unix_socket(is_given: bool) -> None:
    """A Unix socket's clients count as being on this host; uvicorn takes each `--fd` for a Unix socket."""
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        given = [socket.fromfd(tcp.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)] if is_given else None
        async with accepting(Application(), given, fd=tcp.fileno()) as acceptor:
            assert [each.family for each in acceptor.sockets] == [socket.AF_INET]


async def test_port_that_is_taken_ends_the_application_in_order() -> None:
    """The process exits, but its application is stopped first, so that it leaves nothing over."""
    application = Application()
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SystemExit):
        async with accepting(application, host="127.0.0.1", port=other.getsockname()[1]):
            pass
    assert application.asked == ["lifespan.startup", "lifespan.shutdown"]
