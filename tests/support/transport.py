"""A connection's transport without a socket: it records its calls."""

import asyncio


class Transport(asyncio.Transport):
    """Keeps the written data; `unsent` is the number of bytes that the worker has not read."""

    def __init__(self) -> None:
        super().__init__()
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
