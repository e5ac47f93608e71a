"""Decides how long a client may take to send its request and to read its answer.

Times are seconds of the caller's clock.
"""

import math
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus

from router.policy.request_head import Refusal

# A body may come at this rate at the slowest; 128 MB then take 22 minutes. (Apache's mod_reqtimeout: MinRate.)
MIN_BODY_BYTES_A_SECOND = 100_000
# A client that gets its answer while it still sends has this long to stop. Closing at once would reset the connection
# when its next bytes come, and a reset can destroy the answer on its way. (nginx: lingering_close.)
LINGER_S = 2.0
# While its process ends, a connection without a request stays open this long: its client may be about to send one.
LAST_REQUEST_S = 1.0
# And so long while others wait for its place; most clients count on 5 s, which is what uvicorn and Node.js give.
MAKE_ROOM_S = 5.0


class Owed(Enum):
    """What the client must send now."""

    REQUEST = auto()  # the next one, if it wants to send one
    HEAD = auto()
    BODY = auto()
    END = auto()  # the connection's end, because its answer said that nothing more is read


@dataclass(frozen=True, slots=True)
class ClientTimeouts:
    """`body_s`: for a whole head, and how far a body may fall behind. `read_s`: for reading nothing of an answer."""

    body_s: float = 30.0
    read_s: float = 60.0

    @property
    def look_every_s(self) -> float:
        """How often to check. This catches every `due` in time, except for a keep-alive shorter than `body_s`."""
        return min(self.body_s, self.read_s / 4)


class ClientClock:
    """What one client owes, when that is due, and since when it has read nothing.

    `since` is the moment from which its time counts. `body_bytes` are the bytes of its body that have come.
    """

    __slots__ = (
        *("_began", "_credited_bytes", "_unread_bytes", "_unread_since"),
        *("body_bytes", "keep_alive_s", "owed", "since", "timeouts"),
    )

    def __init__(self, timeouts: ClientTimeouts, keep_alive_s: float) -> None:
        self.timeouts = timeouts
        self.keep_alive_s = keep_alive_s
        self.owed: Owed | None = None
        self.since = 0.0
        self.body_bytes = 0
        self._began = 0.0
        self._credited_bytes = 0
        self._unread_bytes = 0
        self._unread_since = 0.0

    def begin(self, owed: Owed, now: float) -> None:
        """Set what the client owes from `now` on."""
        self.owed = owed
        self.since = self._began = now
        if owed is Owed.HEAD:
            self.body_bytes = 0
        self._credited_bytes = self.body_bytes

    def has_come_on(self, now: float) -> None:
        """Give the client a second for each MIN_BODY_BYTES_A_SECOND of its body since the last call.

        It gets no more seconds than have passed: a fast beginning earns no silence longer than `body_s`.
        """
        new_bytes, self._credited_bytes = self.body_bytes - self._credited_bytes, self.body_bytes
        self.since = min(now, self.since + new_bytes / MIN_BODY_BYTES_A_SECOND)

    @property
    def due(self) -> float:
        """The moment by which the client must have sent what it owes."""
        match self.owed:
            case None:
                return math.inf
            case Owed.REQUEST:
                return self.since + self.keep_alive_s
            case Owed.END:
                return self.since + LINGER_S
            case _:
                return self.since + self.timeouts.body_s

    def refusal(self, *, has_begun: bool) -> Refusal | None:
        """Return the refusal of a client whose time is over; None if nothing of a request has come."""
        timeout_s = self.timeouts.body_s
        if self.owed is Owed.HEAD and has_begun:
            return Refusal(HTTPStatus.REQUEST_TIMEOUT, f"No whole request head within {timeout_s:g} s")
        if self.owed is Owed.BODY and self._has_stopped:
            detail = f"The request body has come to less than 100 kB a second, and fell {timeout_s:g} s behind"
            return Refusal(HTTPStatus.REQUEST_TIMEOUT, detail)
        if self.owed is Owed.BODY:
            detail = f"No whole request body within {timeout_s:g} s and 1 s for each 100 kB"
            return Refusal(HTTPStatus.REQUEST_TIMEOUT, detail)
        return None

    @property
    def _has_stopped(self) -> bool:
        """Whether the body was faster than MIN_BODY_BYTES_A_SECOND at the beginning."""
        return self.since < self._began + self.body_bytes // MIN_BODY_BYTES_A_SECOND

    def has_stalled(self, unread_bytes: int, now: float) -> bool:
        """Whether the client's unread bytes have not decreased for `read_s` seconds.

        Call it periodically: it compares `unread_bytes` with the last call's.
        """
        if not 0 < self._unread_bytes <= unread_bytes:
            self._unread_since = now
        self._unread_bytes = unread_bytes
        return unread_bytes > 0 and now - self._unread_since >= self.timeouts.read_s

    def has_read(self) -> None:
        """Note that the client has read something since the last `has_stalled`."""
        self._unread_bytes = 0
