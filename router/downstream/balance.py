"""How many clients each of gunicorn's processes has, in memory that they share: none is to get many more than others.

They accept from one socket, and whoever is awake takes what is there: of 64 connections that come at once, one of four
processes took twice its share, at worst nearly all; giving the CPU away after each changed little
(bench.connection_balance).
"""

import mmap
from collections.abc import Sequence

# Processes beyond so many do not take part.
_PLACES = 256
_NOBODY = -1
# So much more than the mean is no crowd.
_SLACK_FACTOR, _SLACK = 1.1, 1


class ConnectionBalance:
    """Made before the processes are forked; `enter` before each."""

    def __init__(self) -> None:
        self._clients = memoryview(mmap.mmap(-1, 4 * (1 + _PLACES))).cast("i")  # after the number of places in use
        self._place: int | None = None

    def enter(self) -> int | None:
        """Give the process that is forked next a place, and return it; None where there is none."""
        in_use = self._clients[0]
        vacant = (place for place in range(1, 1 + in_use) if self._clients[place] == _NOBODY)
        self._place = next(vacant, in_use + 1 if in_use < _PLACES else None)
        if self._place is not None:
            self._clients[0] = max(in_use, self._place)
            self._clients[self._place] = 0
        return self._place

    def leave(self, place: int | None) -> None:
        """Let a process go that has ended."""
        if place is not None:
            self._clients[place] = _NOBODY

    def has(self, clients: int) -> None:
        """Say how many clients this process has."""
        if self._place is not None:
            self._clients[self._place] = clients

    @property
    def is_ahead(self) -> bool:
        """Whether this process has more than its share."""
        clients = self._clients
        return self._place is not None and is_ahead(clients[self._place], clients[1 : 1 + clients[0]].tolist())


def is_ahead(own: int, of_all: Sequence[int]) -> bool:
    """Return whether a process with `own` clients leaves the next one to others.

    >>> is_ahead(5, [5, 4, -1, 4]), is_ahead(1, [1]), is_ahead(8, [8, 0, 0, 0])
    (False, False, True)
    """
    present = [clients for clients in of_all if clients != _NOBODY]
    return own > _SLACK + _SLACK_FACTOR * sum(present) / len(present)


BALANCE = ConnectionBalance()
