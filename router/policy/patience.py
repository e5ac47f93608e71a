"""How long a client may take: to send its request, and to read its answer.

Times are the caller's clock, in seconds.
"""

import math
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus

from router.policy.request_head import Refusal

# Who sends a large body over a slow link gets a second more for each 100 kB that has arrived; who drips does not.
# (Apache's mod_reqtimeout calls this MinRate. At least as fast as this, a body of 128 MB may take 23 minutes.)
MIN_BODY_BYTES_A_SECOND = 100_000
# A client that has its answer while it still sends is given this long to stop; closed at once, the connection would be
# reset by the bytes that come after, and a reset may take the answer along. (nginx: lingering_close.)
LINGER_S = 2.0
# While its process ends, a connection without a request is kept so long: its client may be about to send one.
LAST_REQUEST_S = 1.0


class Owed(Enum):
    """What the client has to send now."""

    REQUEST = auto()  # the next one, if it wants to send one
    HEAD = auto()
    BODY = auto()
    END = auto()  # of the connection: it was told that nothing more is read


@dataclass(frozen=True, slots=True)
class ClientTimeouts:
    """`body_s`: for a head, and again for a body. `read_s`: for an answer of which nothing is read."""

    body_s: float = 30.0
    read_s: float = 60.0

    @property
    def look_every_s(self) -> float:
        """How often to look. No `due` is missed, but a short keep-alive's: none comes to be less than body_s ahead."""
        return min(self.body_s, self.read_s / 4)


class Patience:
    """What one client owes, until when; and since when it has read nothing."""

    __slots__ = ("_unread_bytes", "_unread_since", "body_bytes", "keep_alive_s", "owed", "since", "timeouts")

    def __init__(self, timeouts: ClientTimeouts, keep_alive_s: float) -> None:
        self.timeouts = timeouts
        self.keep_alive_s = keep_alive_s
        self.owed: Owed | None = None
        self.since = 0.0
        self.body_bytes = 0
        self._unread_bytes = 0
        self._unread_since = 0.0

    def begin(self, owed: Owed, now: float) -> None:
        """Say what the client owes from `now` on."""
        self.owed = owed
        self.since = now
        if owed is Owed.HEAD:
            self.body_bytes = 0

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
                return self.since + self.timeouts.body_s + self.body_bytes / MIN_BODY_BYTES_A_SECOND

    def refusal(self, *, has_begun: bool) -> Refusal | None:
        """Return why a client that has let its time pass is refused; None where nothing of a request has come."""
        timeout_s = self.timeouts.body_s
        if self.owed is Owed.HEAD and has_begun:
            return Refusal(HTTPStatus.REQUEST_TIMEOUT, f"No whole request head within {timeout_s:g} s")
        if self.owed is Owed.BODY:
            detail = f"No whole request body within {timeout_s:g} s and 1 s for each 100 kB"
            return Refusal(HTTPStatus.REQUEST_TIMEOUT, detail)
        return None

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
