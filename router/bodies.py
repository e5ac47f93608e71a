"""How many bytes of request bodies this process holds: counted as they arrive, and never more than a limit."""

from types import TracebackType
from typing import Self


class BuffersFull(Exception):
    """This process holds as many bytes of request bodies as it may."""


class Buffers:
    """The bodies that this process holds: being read, waiting, running."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def share(self) -> "Share":
        """Return one body's share, empty; `with` gives back what it has grown to."""
        return Share(self)


class Share:
    """What one body takes of the buffers."""

    __slots__ = ("_buffers", "_bytes")

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def grow(self, count: int) -> None:
        """Take `count` bytes more. Raises BuffersFull, and has taken none then."""
        if self._buffers.held_bytes + count > self._buffers.max_bytes:
            raise BuffersFull
        self._buffers.held_bytes += count
        self._bytes += count

    def hand_over(self) -> "Share":
        """Return a share that has all that this one had: for what outlives its request."""
        heir = Share(self._buffers)
        heir._bytes, self._bytes = self._bytes, 0
        return heir

    def give_back(self) -> None:
        """Give back all; what has been given back is not given back again."""
        self._buffers.held_bytes -= self._bytes
        self._bytes = 0
