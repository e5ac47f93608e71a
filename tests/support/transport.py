"""A connection's transport without a socket: it records its calls."""

import asyncio
from typing import Any, Protocol


class Wired(Protocol):
    """A transport, or what stands for one, with the protocol that is in force."""

    protocol: Any


def feed(wired: Wired, data: bytes) -> None:
    """Hand on what has come, as an event loop does: to a protocol that reads into memory of its own, by buffers."""
    rest = memoryview(data)
    while rest:
        if isinstance(wired.protocol, asyncio.BufferedProtocol):
            place = memoryview(wired.protocol.get_buffer(-1))
            count = min(len(place), len(rest))
            place[:count] = rest[:count]
            wired.protocol.buffer_updated(count)
        else:
            count = len(rest)
            wired.protocol.data_received(bytes(rest))
        rest = rest[count:]


class Transport(asyncio.Transport):
    """Keeps the written data; `unsent` is the number of bytes that the worker has not read."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.written: list[bytes] = []
        self.unsent = 0
        self.is_aborted = False
        self.is_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep the data."""
        self.written.append(bytes(data))

    def writelines(self, parts: object) -> None:
        """Keep the parts, each by itself."""
        assert isinstance(parts, tuple)
        self.written += parts

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let this protocol have what comes from now on."""
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        """Return the number of unsent bytes."""
        return self.unsent

    def abort(self) -> None:
        """Record the abort."""
        self.is_aborted = True

    def pause_reading(self) -> None:
        """Record that reading is paused."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Record that reading is resumed."""
        self.is_paused = False
