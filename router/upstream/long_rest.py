"""What is left of a long answer after its head: it is read from the socket straight into memory, without the parser.

That is possible where the answer's length is known. The connection decides when it is read, and what its end means.
"""

import asyncio
from collections.abc import Callable

from router.http.sockets import follow

# Read at once, so that other connections have their turns. A few reads fill a block.
_BLOCK_BYTES, LEAST_BYTES = 2**19, 2**16


class LongRest(asyncio.BufferedProtocol):
    """Reads the last `left` bytes of an answer, in place of its connection's own protocol.

    `take` is called with each part, and with whether more has come than the answer has. After the last part the
    connection has its place back.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        connection: asyncio.Protocol,
        left: int,
        take: Callable[[memoryview, bool], None],
    ) -> None:
        self.left = left
        self._transport = transport
        self._connection = connection
        self._take = take
        self._block = memoryview(b"")
        follow(transport, self)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return the memory for the next bytes, and for one more than the answer has: nothing may follow it."""
        if len(self._block) < min(self.left + 1, LEAST_BYTES):
            self._block = memoryview(bytearray(min(self.left + 1, _BLOCK_BYTES)))
        return self._block[: self.left + 1]

    def buffer_updated(self, count: int) -> None:
        """Hand on what has come."""
        part, self._block = self._block[: min(count, self.left)], self._block[count:]
        is_too_much, self.left = count > self.left, self.left - len(part)
        if not self.left:
            follow(self._transport, self._connection)
        self._take(part, is_too_much)

    def connection_lost(self, error: Exception | None) -> None:
        """Let the connection know."""
        self._connection.connection_lost(error)
