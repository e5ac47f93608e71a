"""Limits how many bytes of request bodies this process holds: those that have arrived, and those with their memory.

A batch has its own limit within that of the process. Large answers in a batch are held whole, so they count, too.
"""

from types import TracebackType
from typing import Self


class BodyBudgetFull(Exception):
    """This process holds as many bytes of request bodies as it may."""


class BodyBudget:
    """Counts the bytes of bodies of jobs that are being read, wait or run; each byte counts in `within`, too."""

    def __init__(self, max_bytes: int, within: "BodyBudget | None" = None) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._within = within

    def share(self) -> "BodyShare":
        """Return an empty share for one body; at the end of a `with` block it gives all its bytes back."""
        return BodyShare(self)

    def take(self, count: int) -> None:
        """Count `count` bytes more. Raises BodyBudgetFull and counts none if there is no room for them."""
        if self.held_bytes + count > self.max_bytes:
            raise BodyBudgetFull
        if self._within is not None:
            self._within.take(count)
        self.held_bytes += count

    def let_go(self, count: int) -> None:
        """Count `count` bytes less."""
        self.held_bytes -= count
        if self._within is not None:
            self._within.let_go(count)


class BodyShare:
    """One body's part of a budget."""

    __slots__ = ("_budget", "held_bytes")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.held_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def grow(self, count: int) -> None:
        """Take `count` bytes more. Raises BodyBudgetFull and takes none if there is no room for them."""
        self._budget.take(count)
        self.held_bytes += count

    def grow_if_ample(self, count: int) -> bool:
        """Take `count` bytes more if then half of the budget is free; return whether it is."""
        if 2 * (self._budget.held_bytes + count) > self._budget.max_bytes:
            return False
        try:
            self.grow(count)
        except BodyBudgetFull:  # the budget is a part of another one
            return False
        return True

    def sibling(self) -> "BodyShare":
        """Return an empty share of the same budget."""
        return BodyShare(self._budget)

    def hand_over(self) -> "BodyShare":
        """Return a share with all bytes of this one, for an attempt that outlives its job."""
        heir = self.sibling()
        heir.held_bytes, self.held_bytes = self.held_bytes, 0
        return heir

    def give_back(self) -> None:
        """Give all bytes back; a second call gives back nothing."""
        self._budget.let_go(self.held_bytes)
        self.held_bytes = 0
