"""An Acceptor accepts clients, leaves some to other processes, and loses none of the pending connections."""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from router.downstream.acceptor import Acceptor
from router.downstream.balance import BALANCE
from tests.support.eventually import eventually
from tests.support.handles import no_more_file_handles


class Plain(asyncio.Protocol):
    """Sends back its input, and cannot be asked to leave."""

    transport: asyncio.Transport

    def __init__(self, acceptor: Acceptor, is_ending: asyncio.Event) -> None:
        self.acceptor = acceptor
        self.is_ending = is_ending

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the Acceptor's clients."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.acceptor.clients.add(self)  # type: ignore[arg-type]  # as uvicorn's own protocols do

    def data_received(self, data: bytes) -> None:
        """Send the data back, and close if the process is ending."""
        self.transport.write(data)
        if self.is_ending.is_set():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        """Leave the Acceptor's clients."""
        self.acceptor.clients.discard(self)

    def shutdown(self) -> None:
        """Record for all clients that the process is ending, and close."""
        self.is_ending.set()
        self.transport.close()


class Echo(Plain):
    """Sends back its input, and records the calls of the Acceptor."""

    def __init__(self, acceptor: Acceptor, is_ending: asyncio.Event) -> None:
        super().__init__(acceptor, is_ending)
        self.told: list[str] = []

    def leave(self) -> None:
        """Record the call."""
        self.told.append("leave")


class Accepting:
    """An Acceptor on one socket with `seats` for its clients."""

    def __init__(
        self, listening: socket.socket, seats: int = 1000, tls: ssl.SSLContext | None = None, kind: type[Plain] = Echo
    ) -> None:
        self.address = listening.getsockname()
        self._is_ending = asyncio.Event()
        self._kind = kind
        self.acceptor = Acceptor([listening], self._made, tls)
        self.acceptor._seats = seats
        self.acceptor.listen(64)

    def _made(self) -> Plain:
        return self._kind(self.acceptor, self._is_ending)

    def connect(self) -> socket.socket:
        """Return a client that has sent one byte; it may still be in the kernel's queue."""
        client = socket.create_connection(self.address)
        client.send(b"x")
        client.setblocking(False)
        return client

    @property
    def clients(self) -> int:
        """The number of clients that are served."""
        return len(self.acceptor.clients)


async def echoed(client: socket.socket) -> bytes:
    """Return the bytes that a client receives: its own byte, or none if it was closed."""
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 10)


@pytest.fixture
async def listening() -> AsyncIterator[socket.socket]:
    """A listening socket without an Acceptor."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@contextmanager
def clients_of(accepting: Accepting, count: int) -> Iterator[list[socket.socket]]:
    """Connect `count` clients."""
    clients = [accepting.connect() for _ in range(count)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


async def test_client_without_a_seat_is_served_when_one_leaves(listening: socket.socket) -> None:
    """Clients with a seat are asked to leave when another one waits."""
    accepting = Accepting(listening, seats=2)
    with clients_of(accepting, 3) as clients:
        assert [await echoed(client) for client in clients[:2]] == [b"x"] * 2
        await eventually(
            lambda: all(client.told == ["leave"] for client in accepting.acceptor.clients),  # type: ignore[attr-defined]
            what="the request to leave",
        )
        assert accepting.clients == 2
        clients[0].close()
        assert await echoed(clients[2]) == b"x"
    accepting.acceptor.close()


async def test_client_that_cannot_be_asked_to_leave_keeps_its_seat(
    listening: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """Protocols of uvicorn's own have no `leave`; when one of their clients goes, the next one is served."""
    caplog.set_level(logging.ERROR)
    accepting = Accepting(listening, seats=2, kind=Plain)
    with clients_of(accepting, 3) as clients:
        assert [await echoed(client) for client in clients[:2]] == [b"x"] * 2
        await eventually(lambda: accepting.acceptor._is_full, what="a client that waits")
        clients[0].close()
        assert await echoed(clients[2]) == b"x"
    assert not caplog.records
    accepting.acceptor.close()


async def test_client_without_a_file_handle_is_served_later(listening: socket.socket) -> None:
    """A connection that cannot be accepted is neither closed nor forgotten."""
    accepting = Accepting(listening)
    with clients_of(accepting, 1) as clients:
        with no_more_file_handles():
            await asyncio.sleep(0)
            accepting.acceptor._accept(listening)
            assert accepting.clients == 0
        assert await echoed(clients[0]) == b"x"
    accepting.acceptor.close()


async def test_end_of_an_answer_waits_for_no_acknowledgement(listening: socket.socket) -> None:
    """Each client has TCP_NODELAY: an answer in two parts would else take as long as a delayed ACK."""
    accepting = Accepting(listening)
    with clients_of(accepting, 1) as (client,):
        assert await echoed(client) == b"x"
        (served,) = accepting.acceptor.clients
        assert isinstance(served, Echo)
        taken = served.transport.get_extra_info("socket")
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_ending_process_serves_all_pending_connections(listening: socket.socket) -> None:
    """Pending connections are served when earlier clients, which are asked to, leave."""
    accepting = Accepting(listening, seats=2)
    with clients_of(accepting, 7) as clients:
        await accepting.acceptor.finish(64)
        assert accepting.acceptor._count <= 2
        for client in clients:
            assert await echoed(client) == b"x"
    await accepting.acceptor.wait_closed()


async def test_ending_process_accepts_a_limited_number(listening: socket.socket) -> None:
    """Otherwise a stream of new clients would keep the process alive."""
    accepting = Accepting(listening)
    accepting.acceptor.close()
    with clients_of(accepting, 7):
        await accepting.acceptor.finish(5)
        assert accepting.clients == 5


async def test_client_after_the_last_one_is_refused_at_once(listening: socket.socket) -> None:
    """Otherwise the kernel would accept it during other clients' handshakes, and reset it at the end."""
    accepting = Accepting(listening, tls=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    with socket.create_connection(accepting.address):  # it never starts TLS
        finishing = asyncio.create_task(accepting.acceptor.finish(64))
        await eventually(lambda: accepting.acceptor._beginning, what="the client's handshake")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(accepting.address)
        assert not finishing.done()
    await finishing


async def test_process_with_more_clients_than_others_gives_way(listening: socket.socket) -> None:
    """It waits only for a moment, and its event loop is not blocked meanwhile."""
    other, own = BALANCE.enter(), BALANCE.enter()
    accepting = Accepting(listening)
    try:
        with clients_of(accepting, 8) as clients:
            accepting.acceptor._accept(listening)
            assert accepting.acceptor._count < 8
            assert [await echoed(client) for client in clients] == [b"x"] * 8
    finally:
        accepting.acceptor.close()
        BALANCE.leave(own)
        BALANCE.leave(other)
        BALANCE._place = None


async def test_tls_client_and_plain_client_on_a_tls_socket(listening: socket.socket) -> None:
    """A TLS client is served, and a client that does not speak TLS gives its seat back."""
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    accepting = Accepting(listening, tls=server)
    with clients_of(accepting, 1) as (plain,):
        plain.send(b"GET / HTTP/1.1\r\n\r\n")
        reader, writer = await asyncio.open_connection(*accepting.address, ssl=client, server_hostname="localhost")
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await eventually(lambda: accepting.acceptor._count == 1, what="the plain client's end")
        writer.close()
    await eventually(lambda: accepting.acceptor._count == 0, what="the TLS client's end")
    accepting.acceptor.close()


async def test_unix_socket(tmp_path: Path) -> None:
    """Clients of a Unix socket are accepted like those of a TCP socket."""
    path = os.path.relpath(tmp_path / "s")  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        accepting = Accepting(listening)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()
        accepting.acceptor.close()
