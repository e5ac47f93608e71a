"""What lies under a client's connection: how it is closed, and what the kernel knows of it."""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable
from contextlib import suppress

# From linux/tcp_states.h: both sides are done, or the other one is.
_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8


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


def unread_bytes(transport: asyncio.Transport) -> int:
    """Return how much of what was written the other side has not got."""
    return transport.get_write_buffer_size() + bytes_in_kernel(transport.get_extra_info("socket"))


def has_ended(sock: socket.socket) -> bool:
    """Whether the other side has closed the connection; a transport finds out only where it reads or writes."""
    with suppress(OSError, AttributeError):  # no TCP, no Linux
        # tcp_info begins with tcpi_state.
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in (_TCP_CLOSE, _TCP_CLOSE_WAIT)
    return False


def reset_when_closed(sock: socket.socket) -> None:
    """Let closing drop what has not been sent, and tell the other side at once, even one that does not read."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset(transport: asyncio.Transport) -> None:
    """Close at once; what the kernel holds for this client would otherwise stay there for minutes."""
    reset_when_closed(transport.get_extra_info("socket"))
    transport.abort()


def name_of(client: tuple[str, int] | None) -> str:
    """Return what a log line calls a client."""
    return f"{client[0]}:{client[1]}" if client else "a client"
