"""How long a client may take: to send its request, and to read its answer.

Times are the caller's clock, in seconds.
"""

import math
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus

from router.policy.request_head import Refusal

# The slowest link that a body may come over, at which 128 MB take 22 minutes. (Apache's mod_reqtimeout: MinRate.)
MIN_BODY_BYTES_A_SECOND = 100_000
# A client that has its answer while it still sends is given this long to stop; closed at once, the connection would be
# reset by the bytes that come after, and a reset may take the answer along. (nginx: lingering_close.)
LINGER_S = 2.0
# While its process ends, a connection without a request is kept so long: its client may be about to send one.
LAST_REQUEST_S = 1.0
# And so long while others wait for its place; most clients count on 5 s, which is what uvicorn and Node.js give.
MAKE_ROOM_S = 5.0


class Owed(Enum):
    """What the client has to send now."""

    REQUEST = auto()  # the next one, if it wants to send one
    HEAD = auto()
    BODY = auto()
    END = auto()  # of the connection: it was told that nothing more is read


@dataclass(frozen=True, slots=True)
class ClientTimeouts:
    """`body_s`: for a head, and for a body to fall behind. `read_s`: for an answer of which nothing is read."""

    body_s: float = 30.0
    read_s: float = 60.0

    @property
    def look_every_s(self) -> float:
        """How often to look. No `due` is missed, but a short keep-alive's: none comes to be less than body_s ahead."""
        return min(self.body_s, self.read_s / 4)


class ClientClock:
    """What one client owes, until when; and since when it has read nothing.

    `since` is the moment from which its time counts. `body_bytes` is how much has come of its body.
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
        """Say what the client owes from `now` on."""
        self.owed = owed
        self.since = self._began = now
        if owed is Owed.HEAD:
            self.body_bytes = 0
        self._credited_bytes = self.body_bytes

    def has_come_on(self, now: float) -> None:
        """Give a second back for each MIN_BODY_BYTES_A_SECOND that have come of the body since the last time.

        No more than have passed: what came fast earns no silence that is longer than body_s.
        """
        new_bytes, self._credited_bytes = self.body_bytes - self._credited_bytes, self.body_bytes
        self.since = min(now, self.since + new_bytes / MIN_BODY_BYTES_A_SECOND)

    @property
    def due(self) -> float:
        """When the client must have sent what it owes."""
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
        """Return why a client that has let its time pass is refused; None where nothing of a request has come."""
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
        """Whether the body was faster than MIN_BODY_BYTES_A_SECOND at first."""
        return self.since < self._began + self.body_bytes // MIN_BODY_BYTES_A_SECOND

    def has_stalled(self, unread_bytes: int, now: float) -> bool:
        """Whether a client that is `unread_bytes` behind has caught up by none of them for long.

        To be asked again and again: it knows progress by there being fewer than the last time.
        """
        if not 0 < self._unread_bytes <= unread_bytes:
            self._unread_since = now
        self._unread_bytes = unread_bytes
        return unread_bytes > 0 and now - self._unread_since >= self.timeouts.read_s

    def has_read(self) -> None:
        """Say that the client has read something since it was looked at."""
        self._unread_bytes = 0
