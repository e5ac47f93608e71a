"""How many clients each of gunicorn's processes has, in memory that they share: none is to get many more than others.

They accept from one socket, and whoever is awake takes what is there: of 64 connections that come at once, one of four
processes took twice its share, at worst nearly all; giving the CPU away after each changed little
(bench.connection_balance).
"""

import mmap
import time
from collections.abc import Sequence

# Processes beyond so many do not take part.
_PLACES = 256
_NOBODY = -1
# So much more than the mean is no crowd.
_SLACK_FACTOR, _SLACK = 1.1, 1
# Others are given so long to accept the next one, for each that this process is ahead.
_WAIT_S, _WAIT_AT_MOST_S = 0.000_05, 0.001


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

    def take_in(self) -> None:
        """Count a client; after a moment, if this process has more than its share: the next one is for others."""
        if self._place is None:
            return
        clients = self._clients
        own = clients[self._place] = clients[self._place] + 1
        if wait_s := give_way_s(own, clients[1 : 1 + clients[0]].tolist()):
            time.sleep(wait_s)

    def has(self, clients: int) -> None:
        """Say how many clients this process has."""
        if self._place is not None:
            self._clients[self._place] = clients


def give_way_s(own: int, of_all: Sequence[int]) -> float:
    """Return how long a process with `own` clients leaves the next one to others.

    >>> give_way_s(5, [5, 4, -1, 4]), give_way_s(1, [1])
    (0.0, 0.0)
    >>> give_way_s(16, [16, 0, 0, 0]) > give_way_s(8, [8, 0, 0, 0]) > 0
    True
    """
    present = [clients for clients in of_all if clients != _NOBODY]
    ahead = own - _SLACK - _SLACK_FACTOR * sum(present) / len(present)
    return min(_WAIT_AT_MOST_S, max(0.0, ahead) * _WAIT_S)


BALANCE = ConnectionBalance()
