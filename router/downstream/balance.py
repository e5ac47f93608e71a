"""Balances accepted connections across gunicorn's processes: each writes its number of clients into shared memory.

They accept from one socket, and the process that is awake takes all that wait there. When many connections come at
once, one process would get several times its share (bench.connection_balance).
"""

import mmap
from collections.abc import Sequence

# Further processes are not balanced.
_PLACES = 256
_VACANT = -1
# A process is ahead when it has more clients than this above the mean of all.
_SLACK_FACTOR, _SLACK = 1.1, 1


class ConnectionBalance:
    """The table of clients by process. It is made before the first fork; `enter` is called before each."""

    def __init__(self) -> None:
        # The first number is how many places are in use.
        self._clients = memoryview(mmap.mmap(-1, 4 * (1 + _PLACES))).cast("i")
        self._place: int | None = None

    def enter(self) -> int | None:
        """Return the place of the process that is forked next; None if all are taken."""
        in_use = self._clients[0]
        vacant = (place for place in range(1, 1 + in_use) if self._clients[place] == _VACANT)
        self._place = next(vacant, in_use + 1 if in_use < _PLACES else None)
        if self._place is not None:
            self._clients[0] = max(in_use, self._place)
            self._clients[self._place] = 0
        return self._place

    def leave(self, place: int | None) -> None:
        """Free the place of a process that has ended."""
        if place is not None:
            self._clients[place] = _VACANT

    def has(self, clients: int) -> None:
        """Write how many clients this process has."""
        if self._place is not None:
            self._clients[self._place] = clients

    @property
    def is_ahead(self) -> bool:
        """Whether this process has more clients than its share."""
        clients = self._clients
        return self._place is not None and is_ahead(clients[self._place], clients[1 : 1 + clients[0]].tolist())


def is_ahead(own: int, of_all: Sequence[int]) -> bool:
    """Return whether a process with `own` clients leaves the next one to other processes.

    >>> is_ahead(5, [5, 4, -1, 4]), is_ahead(1, [1]), is_ahead(8, [8, 0, 0, 0])
    (False, False, True)
    """
    present = [clients for clients in of_all if clients != _VACANT]
    return own > _SLACK + _SLACK_FACTOR * sum(present) / len(present)


BALANCE = ConnectionBalance()
