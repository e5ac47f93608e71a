"""How far one job has come on its way through the router."""

import asyncio
from collections.abc import Callable

from router.answers import Answer, FailedAttempt
from router.bodies import Share
from router.job import Job
from router.policy.deadline import Limits
from router.policy.verdict import NEVER_RAN, Kind
from router.upstream import Request
from router.waiter import Lease, Waiter

Deliver = Callable[[Answer | None], None]


class Course:
    """How far a job has come. At `ends_at` (time.monotonic) its client has its answer, whatever it is.

    `deliver` is None once that is done. `waits` is what it waits for a lease with, `lease` what its attempt runs under.
    `is_awaited`: an attempt is under way, and its client has not been told that it takes too long. At `room_by` it has
    waited for room long enough. `is_retry`: its next lease is for one. `never_ran` says how its last attempt ended
    where that was none. `unreached` are the workers that it did not get to after others had failed it. `doubts` are
    its attempts whose errors may be its own: their leases, and what the errors were.
    """

    __slots__ = (
        *(
            "deliver",
            "doubts",
            "ends_at",
            "failed",
            "is_awaited",
            "is_retry",
            "job",
            "late_share",
            "lease",
            "limits",
            "never_ran",
            "queue_ms",
            "request",
            "room_by",
            "unreached",
            "since",
            "ticket",
        ),
        *("timer", "waits"),
    )

    # Both are read from the job once its course has begun, for that may fail.
    request: Request
    limits: Limits

    def __init__(self, job: Job, since: float, room_by: float, deliver: Deliver) -> None:
        self.job = job
        self.since = self.ends_at = since
        self.deliver: Deliver | None = deliver
        self.ticket = 0
        self.queue_ms = 0
        self.is_awaited = False
        self.room_by = room_by
        self.is_retry = False
        self.never_ran: Kind | None = None
        self.unreached: tuple[FailedAttempt, ...] = ()
        self.doubts: tuple[tuple[Lease, str], ...] = ()
        self.failed: list[FailedAttempt] = []
        self.waits: Waiter | None = None
        self.lease: Lease | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.late_share: Share | None = None  # holds the body for an attempt that outlives its job

    @property
    def is_suspect(self) -> bool:
        """Whether a worker has broken down while it ran this job."""
        return any(attempt.kind is Kind.DIED for attempt in self.failed)

    @property
    def kinds(self) -> list[Kind]:
        """How its attempts have ended."""
        return [attempt.kind for attempt in self.failed]

    @property
    def tried(self) -> tuple[str, ...]:
        """The workers that have failed it, or that it did not get to then."""
        return tuple([attempt.worker_url for attempt in (*self.failed, *self.unreached)])

    def fail(self, attempt: FailedAttempt, took_s: float) -> None:
        """Keep in mind an attempt that brought no result, and whether it was one; `took_s` was no wait for room."""
        self.never_ran = attempt.kind if attempt.kind in NEVER_RAN else None
        if self.never_ran is None:
            self.failed.append(attempt)
            return
        self.room_by += took_s
        if self.never_ran is Kind.NOT_SENT and self.failed:
            self.unreached = (*self.unreached, attempt)

    def let_go(self) -> None:
        """Count the body no longer, where an attempt has outlived its job."""
        if self.late_share is not None:
            self.late_share.give_back()
