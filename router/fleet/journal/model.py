"""Events as values: their kinds, which page explains each, and from which moment on they are asked for.

Nothing here acts, and nothing heavy is imported: commands use it.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from router.config.bounds import MAX_COUNT, whole_number
from router.fleet.model import moment

# What is answered at most at once, and unless another number is asked for.
MAX_EVENTS, DEFAULT_EVENTS = 1000, 100

_PAGE = "docs/failures.md"
# An id of a Redis stream: milliseconds, and a number within these. `0-0` stands before all.
_ID = re.compile(r"(?:0|\d{13,19})-\d{1,19}")
_AGO = re.compile(r"(\d+)([smhd])")
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

# An event that is written later than this says so.
_LATE_S = 3.0
_EXPECTED = "expected a length of time such as 10m or 2h, a moment such as 2026-11-29T06:00Z, or an event's id"


class Kind(StrEnum):
    """What may happen. docs/failures.md has a section on each, under its name."""

    WORKER_JOINED = "worker_joined"
    WORKER_LEFT = "worker_left"
    WORKER_HEALTHY = "worker_healthy"
    WORKER_UNHEALTHY = "worker_unhealthy"
    WORKER_EJECTED = "worker_ejected"
    WORKER_RETURNED = "worker_returned"
    WORKER_DRAINED = "worker_drained"
    WORKER_RESUMED = "worker_resumed"
    TENANT_LIMITED = "tenant_limited"
    TENANT_REFUSED = "tenant_refused"
    QUEUE_FULL = "queue_full"
    JOB_QUARANTINED = "job_quarantined"
    REDIS_BACK = "redis_back"
    REDIS_EMPTIED = "redis_emptied"
    SIDECAR_CHANGED = "sidecar_changed"
    SIDECAR_LOST = "sidecar_lost"
    ROUTER_STARTED = "router_started"
    ROUTER_ENDED = "router_ended"
    ROUTER_SILENT = "router_silent"
    CONFIG_RELOADED = "config_reloaded"
    CONFIG_REFUSED = "config_refused"


KINDS = frozenset(Kind)


def help_on(kind: str) -> str:
    """Return where the documentation explains a kind; programs of later releases may write others.

    >>> help_on("worker_left"), help_on("moon_full")
    ('docs/failures.md#worker_left', 'docs/failures.md#what-events-say')
    """
    return f"{_PAGE}#{kind if kind in KINDS else 'what-events-say'}"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that has happened.

    `subject` is a worker's URL, a tenant, a process or a host, or "". `text` is one plain sentence. `by` says whose
    doing it is, or which program has seen it. `more` is what programs may want to read of it; JSON can hold it.
    """

    kind: str
    subject: str
    text: str
    by: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    def words(self) -> tuple[str, str, str, str, str]:
        """Return it as the scripts take it. They can read no lone surrogate, as a file's name may have."""
        kind, subject, text, by = (
            each.encode(errors="replace").decode() for each in (self.kind, self.subject, self.text, self.by)
        )
        return kind, subject, text, by, json.dumps(self.more)

    def after(self, waited_s: float) -> "Event":
        """Return it as it is written so many seconds after it happened.

        >>> Event("worker_left", "", "It has left").after(30.2).text
        'It has left (30 s before this was written: Redis was away)'
        """
        if waited_s < _LATE_S:
            return self
        text = f"{self.text} ({waited_s:.0f} s before this was written: Redis was away)"
        return replace(self, text=text, more={**self.more, "late_s": round(waited_s)})

    def is_about(self, worker_url: str) -> bool:
        """Whether it is about this worker: as its subject, or as one of the workers that `more` names.

        >>> Event("job_quarantined", "run-7", "", more={"workers": ["http://a", "http://b"]}).is_about("http://b")
        True
        """
        named = self.more.get("workers")
        return worker_url == self.subject or (isinstance(named, list) and worker_url in named)


@dataclass(frozen=True, slots=True)
class Asked:
    """What `GET /admin/events` is asked for. Without `since` the last events are wanted, else the first ones."""

    since: str | None = None
    limit: int = DEFAULT_EVENTS
    kinds: tuple[str, ...] = ()
    worker: str | None = None

    def since_id(self, event_id: str) -> "Asked":
        """Return the same for what comes after an event."""
        return replace(self, since=event_id)

    @property
    def is_picky(self) -> bool:
        """Whether events may be there that are not asked for."""
        return bool(self.since or self.kinds or self.worker)

    @property
    def query(self) -> list[tuple[str, str]]:
        """The names and values of the request's query."""
        given = [("since", self.since), ("worker", self.worker), ("limit", str(self.limit))]
        return [(name, value) for name, value in given if value is not None] + [("kind", kind) for kind in self.kinds]


def is_wanted(kinds: Collection[str], worker_url: str | None) -> Callable[[Event], bool]:
    """Return what says whether an event is of one of these kinds, if there are any, and about this worker, if any."""
    return lambda event: (not kinds or event.kind in kinds) and (worker_url is None or event.is_about(worker_url))


@dataclass(frozen=True, slots=True)
class Told:
    """An event as it stands in Redis, under its id."""

    id: str
    event: Event

    @property
    def at(self) -> datetime:
        """When Redis has taken it in."""
        return datetime.fromtimestamp(int(self.id.partition("-")[0]) / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, the oldest first. Those that come later are the ones since `next`."""

    events: Sequence[Told]
    next: str


@dataclass(frozen=True, slots=True)
class Since:
    """From where on events are wanted: after the event `after` (an id), or from a moment on.

    The moment is `at_ms` (Unix), or `ago_ms` before now by Redis' clock.
    """

    after: str = ""
    at_ms: int | None = None
    ago_ms: int | None = None

    @classmethod
    def read(cls, text: str) -> "Since":
        """Read an event's id, a length of time or a moment in ISO 8601, which is in UTC without a zone.

        Raises ValueError.

        >>> Since.read("10m"), Since.read("2026-11-29T06:00Z")
        (Since(after='', at_ms=None, ago_ms=600000), Since(after='', at_ms=1795932000000, ago_ms=None))
        """
        if _ID.fullmatch(text):
            return cls(after=text)
        if (ago := _AGO.fullmatch(text)) and (number := whole_number(ago[1], 1, MAX_COUNT)):
            return cls(ago_ms=number * _UNITS_MS[ago[2]])
        try:
            at = moment(text)
        except ValueError:
            at = None
        if at is None:
            raise ValueError(_EXPECTED)
        return cls(at_ms=max(0, int(at.timestamp() * 1000)))
