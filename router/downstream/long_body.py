"""A request's long body: it is read from the socket straight into the memory in which its job holds it.

By the connection's own protocol each byte would be copied three times before its job has it. This module decides
nothing: the connection gives its place away when there is room for the body, and goes on when the body is whole.
"""

import asyncio
from collections.abc import Callable

from router.downstream.protocol import LightProtocol
from router.http.sockets import follow
from router.jobs.body_budget import BodyShare
from router.policy.client_timeouts import ClientClock

# Read at once, so that other connections have their turns.
_READ_BYTES = 2**20


class LongBody(asyncio.BufferedProtocol):
    """Holds a body of a known length, all of which `share` counts from the beginning.

    `add` takes what has come with the head. Then `read` has the rest read, if there is any.
    """

    _connection: LightProtocol
    _clock: ClientClock
    _end: Callable[[], None]

    def __init__(self, length: int, share: BodyShare) -> None:
        self.share = share
        self.held = bytearray(length)
        self._came = 0
        self._is_read = False

    def add(self, part: bytes) -> None:
        """Take a part of the body."""
        end = self._came + len(part)
        self.held[self._came : end] = part
        self._came = end

    def read(self, connection: LightProtocol, clock: ClientClock, end: Callable[[], None]) -> None:
        """Take the connection's place at its transport until the body is whole. Then `end` is called."""
        self._connection, self._clock, self._end = connection, clock, end
        self._is_read = True
        follow(connection.transport, self)

    def stop(self) -> None:
        """Read no more, and let go of what has come: the body will never be whole."""
        self.share.give_back()
        self.held = bytearray()
        self._give_way()

    def _give_way(self) -> None:
        if self._is_read:
            self._is_read = False
            follow(self._connection.transport, self._connection)

    # Called by the event loop

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return the memory for the next bytes: never more than the body lacks, because the next request follows it."""
        return memoryview(self.held)[self._came : self._came + _READ_BYTES]

    def buffer_updated(self, count: int) -> None:
        """Take note of the bytes that have come."""
        self._came += count
        self._clock.body_bytes += count
        if self._came < len(self.held):
            self._clock.has_come_on(self._connection.loop.time())
        elif self._is_read:
            self._give_way()
            self._end()

    def eof_received(self) -> None:
        """Let the connection know."""
        self._connection.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Let the connection know."""
        self._is_read = False
        self._connection.connection_lost(error)

    def pause_writing(self) -> None:
        """Let the connection know."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Let the connection know."""
        self._connection.resume_writing()
