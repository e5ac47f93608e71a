"""What lies under a client's connection: how it is closed, and what the kernel still has for it."""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable
from contextlib import suppress


class LingeringTransport(asyncio.Transport):
    """What an answer is written to while its request is still being sent."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        super().__init__()
        self._transport = transport
        self._close = close

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write it."""
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether it is on its way."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close as it was told to."""
        self._close()


def bytes_in_kernel(sock: socket.socket) -> int:
    """Return how much of what was written the kernel still has, for the other side has not acknowledged it.

    Megabytes go there, and the transport hears of them a third at a time: a slow reader would seem to read nothing.
    """
    count = bytearray(4)
    with suppress(OSError):  # not every system knows it of sockets
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
    return int.from_bytes(count, sys.byteorder)


def reset(transport: asyncio.Transport) -> None:
    """Close with a reset: what the kernel holds for this client would otherwise stay there for minutes."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
