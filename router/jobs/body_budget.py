"""How many bytes of request bodies this process holds: counted as they arrive, and never more than a limit.

A batch has a limit of its own within that, and its large answers, which are held whole, count, too.
"""

from types import TracebackType
from typing import Self


class BodyBudgetFull(Exception):
    """This process holds as many bytes of request bodies as it may."""


class BodyBudget:
    """The bodies that are held: being read, waiting, running. What is held `within` others counts there, too."""

    def __init__(self, max_bytes: int, within: "BodyBudget | None" = None) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._within = within

    def share(self) -> "BodyShare":
        """Return one body's share, empty; `with` gives back what it has grown to."""
        return BodyShare(self)

    def take(self, count: int) -> None:
        """Hold `count` bytes more. Raises BodyBudgetFull, and holds none of them then."""
        if self.held_bytes + count > self.max_bytes:
            raise BodyBudgetFull
        if self._within is not None:
            self._within.take(count)
        self.held_bytes += count

    def let_go(self, count: int) -> None:
        """Hold `count` bytes less."""
        self.held_bytes -= count
        if self._within is not None:
            self._within.let_go(count)


class BodyShare:
    """What one body takes of the buffers."""

    __slots__ = ("_buffers", "held_bytes")

    def __init__(self, buffers: BodyBudget) -> None:
        self._buffers = buffers
        self.held_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def grow(self, count: int) -> None:
        """Take `count` bytes more. Raises BodyBudgetFull, and has taken none then."""
        self._buffers.take(count)
        self.held_bytes += count

    def hand_over(self) -> "BodyShare":
        """Return a share that has all that this one had: for what outlives its request."""
        heir = BodyShare(self._buffers)
        heir.held_bytes, self.held_bytes = self.held_bytes, 0
        return heir

    def give_back(self) -> None:
        """Give back all; what has been given back is not given back again."""
        self._buffers.let_go(self.held_bytes)
        self.held_bytes = 0
