"""A connection's transport without a socket: it keeps what it is told."""

import asyncio


class Transport(asyncio.Transport):
    """Keeps what is written; `unsent` is what the worker has not read of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.unsent = 0
        self.is_aborted = False
        self.is_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.written.append(bytes(data))

    def writelines(self, parts: object) -> None:
        """Keep them apart."""
        assert isinstance(parts, tuple)
        self.written += parts

    def get_write_buffer_size(self) -> int:
        """Tell what is unsent."""
        return self.unsent

    def abort(self) -> None:
        """Take note."""
        self.is_aborted = True

    def pause_reading(self) -> None:
        """Read no more."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Read on."""
        self.is_paused = False
