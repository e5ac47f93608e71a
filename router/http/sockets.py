"""A client's connection below HTTP: how it is closed, and what the kernel knows about it."""

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
    """Takes the answer to a request that is still being sent; closing it calls `close` instead of the transport's."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        super().__init__()
        self._transport = transport
        self._close = close

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write to the transport."""
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether the transport is closing."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Call what was given."""
        self._close()


def follow(transport: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
    """Let a protocol follow one that reads in another way: uvloop looks at the way only when reading begins."""
    transport.pause_reading()
    transport.set_protocol(protocol)
    transport.resume_reading()


def bytes_in_kernel(sock: socket.socket) -> int:
    """Return how many written bytes the kernel still holds because the other side has not acknowledged them.

    The kernel takes megabytes, and lets the transport write again only when a third of them is free. Without this count
    a slow reader would seem to read nothing.
    """
    count = bytearray(4)
    with suppress(OSError):  # not every system counts this for sockets
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
    return int.from_bytes(count, sys.byteorder)


def unread_bytes(transport: asyncio.Transport) -> int:
    """Return how many written bytes the other side has not acknowledged."""
    return transport.get_write_buffer_size() + bytes_in_kernel(transport.get_extra_info("socket"))


def has_ended(sock: socket.socket) -> bool:
    """Whether the other side has closed the connection; a transport notices only while it reads or writes."""
    with suppress(OSError, AttributeError):  # the socket is not TCP, or the system is not Linux
        # tcp_info begins with tcpi_state.
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in (_TCP_CLOSE, _TCP_CLOSE_WAIT)
    return False


def reset_when_closed(sock: socket.socket) -> None:
    """Make closing discard unsent bytes and reset the connection, so that the kernel keeps nothing of it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset(transport: asyncio.Transport) -> None:
    """Reset a connection at once; the kernel would otherwise hold its unsent bytes for minutes."""
    reset_when_closed(transport.get_extra_info("socket"))
    transport.abort()


def name_of(client: tuple[str, int] | None) -> str:
    """Return a client's name for log lines."""
    return f"{client[0]}:{client[1]}" if client else "a client"
