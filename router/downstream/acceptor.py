"""Accepts clients from sockets that several processes share, and decides when to leave the next one to another process.

The servers of asyncio and uvloop accept every client at once. An Acceptor pauses in two cases: for a moment, while this
process has more clients than others (balance.py); and until a client leaves, when the remaining file handles are needed
for workers and Redis. Clients that are not accepted wait in the kernel, with what they have sent.
"""

import asyncio
import logging
import resource
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, cast, runtime_checkable

from router.downstream.balance import BALANCE
from router.policy.client_timeouts import LAST_REQUEST_S

log = logging.getLogger(__name__)

# Accepted in one turn of the event loop. One a turn costs more CPU; hundreds would make running jobs wait.
_AT_ONCE = 16
# How long other processes have to accept the next client. uvloop's timers cannot be shorter.
_GIVE_WAY_S = 0.001
# The pause after accepting failed for lack of memory or file handles.
_RETRY_S = 0.05
# Waits less than this apart count as one, and are logged once.
_CALM_S = 2.0
# Twice as many as a process without clients has open: files, pipes, listening sockets, connections to Redis.
_OWN_HANDLES = 48


def seats(limit: int) -> int:
    """Return how many clients a process with `limit` file handles accepts; each needs a second one for its worker.

    >>> seats(256), seats(1024), seats(20)
    (104, 488, 1)
    """
    if limit == resource.RLIM_INFINITY:  # -1 on Linux
        return sys.maxsize
    return max(1, (limit - _OWN_HANDLES) // 2)


@runtime_checkable
class Client(Protocol):
    """What an Acceptor needs of a client's connection; uvicorn's own protocols have no `leave`."""

    def leave(self) -> None:
        """Take one more request, then close."""

    def shutdown(self) -> None:
        """Do as `leave`, because the process is to end."""


class Clients(set[Client]):
    """The open connections. uvicorn's protocols add and discard themselves; `has_left` is called for each that goes."""

    def __init__(self, has_left: Callable[[], None]) -> None:
        super().__init__()
        self._has_left = has_left

    def discard(self, client: object) -> None:
        """Forget a connection that is closed."""
        super().discard(cast("Client", client))
        self._has_left()


class Acceptor:
    """Takes the place of the servers that uvicorn would make of `sockets`."""

    def __init__(
        self, sockets: Sequence[socket.socket], make: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> None:
        self.sockets = sockets
        self.clients = Clients(self._has_left)
        self._make = make
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._seats = seats(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._count = 0  # of clients, connections that are still being made included
        self._beginning: set[asyncio.Task[None]] = set()
        self._is_full = self._has_waited = False
        self._is_closed = False

    def listen(self, backlog: int) -> None:
        """Begin to accept; up to `backlog` clients wait in the kernel."""
        for listening in self.sockets:
            if listening.family != socket.AF_UNIX:
                # asyncio sets it on clients only where the socket's protocol number is given, which uvicorn's is not.
                # Without it the end of an answer waits for the client's delayed ACK. Clients inherit it.
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            listening.listen(backlog)
            listening.setblocking(False)
        self._go_on()

    def _go_on(self) -> None:
        if not self._is_closed:
            for listening in self.sockets:
                self._loop.add_reader(listening, self._accept, listening)

    def _pause(self) -> None:
        for listening in self.sockets:
            self._loop.remove_reader(listening)

    def _pause_for(self, seconds: float) -> None:
        self._pause()
        self._loop.call_later(seconds, self._go_on)

    def _accept(self, listening: socket.socket) -> None:
        """Accept some of the clients that wait."""
        try:
            for _ in range(_AT_ONCE):
                if self._count >= self._seats:
                    self._be_full()
                    return
                if not self._take(listening):
                    return
                if BALANCE.is_ahead:
                    self._pause_for(_GIVE_WAY_S)
                    return
        except OSError:  # FileHandles logs it, if it lasts
            self._pause_for(_RETRY_S)

    def _take(self, listening: socket.socket) -> bool:
        """Accept one client; return whether one waited. Raises OSError where memory or file handles lack."""
        try:
            client, _ = listening.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionError:  # it has disconnected already
            return True
        self._count += 1
        BALANCE.has(self._count)
        task = self._loop.create_task(self._begin(client))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)
        return True

    async def _begin(self, client: socket.socket) -> None:
        try:
            _, protocol = await self._loop.connect_accepted_socket(self._make, client, ssl=self._tls)
        except OSError:  # ssl.SSLError is one
            client.close()
            self._has_left()
            return
        if self._is_full and isinstance(protocol, Client):
            protocol.leave()

    def _be_full(self) -> None:
        """Pause until a client leaves. Each leaves after its next answer: else the waiting ones would never get in."""
        self._pause()
        self._has_waited = True
        if not self._is_full:
            self._is_full = True
            self._loop.call_later(_CALM_S, self._look)
            message = "Clients wait: this process has %d, as many as its file handles allow (ulimit -Hn, LimitNOFILE)"
            log.warning(message, self._seats)
            for client in tuple(self.clients):
                if isinstance(client, Client):
                    client.leave()

    def _look(self) -> None:
        """Let clients stay again, once none has had to wait for _CALM_S."""
        if self._has_waited:
            self._has_waited = False
            self._loop.call_later(_CALM_S, self._look)
        else:
            self._is_full = False
            log.info("Clients wait no longer for file handles")

    def _has_left(self) -> None:
        self._count -= 1
        BALANCE.has(self._count)
        if self._is_full:
            self._go_on()

    async def finish(self, most: int) -> None:
        """Accept the clients that wait, at most `most` of each socket; where there is no room, as others leave.

        Closes the sockets. Where another process has them, too, it takes the clients that come later.
        """
        self.close()
        told: set[Client] = set()
        for listening in self.sockets:
            for _ in range(most):
                if not await self._take_in_time(listening, told):
                    break
            # At once: the kernel would accept a client that comes now, and reset it when the socket is closed later.
            listening.close()
        if self._beginning:
            await asyncio.wait(self._beginning, timeout=LAST_REQUEST_S)

    async def _take_in_time(self, listening: socket.socket, told: set[Client]) -> bool:
        while True:
            with suppress(OSError):
                if self._count < self._seats:
                    return self._take(listening)
            for client in self.clients - told:
                client.shutdown()
                told.add(client)
            await asyncio.sleep(_RETRY_S)

    # uvicorn calls these of a server

    def close(self) -> None:
        """Accept no more clients."""
        if not self._is_closed:
            self._is_closed = True
            self._pause()

    async def wait_closed(self) -> None:
        """Return at once: `close` leaves nothing to wait for."""
