"""How far one job has come on its way through the router."""

import asyncio
from collections.abc import Callable

from router.answers import Answer, FailedAttempt
from router.bodies import Share
from router.job import Job
from router.policy.deadline import Limits
from router.policy.verdict import Kind
from router.upstream import Request
from router.waiter import Waiter

Deliver = Callable[[Answer | None], None]


class Course:
    """How far a job has come. At `ends_at` (time.monotonic) its client has its answer, whatever it is.

    `deliver` is None once that is done. `waits` is what it waits for a lease with. `runs_on` is the URL of the worker
    that an attempt is under way on, empty where none is. `is_late`: its client has been told that it takes too long.
    """

    __slots__ = (
        *(
            "deliver",
            "ends_at",
            "failed",
            "is_late",
            "job",
            "late_share",
            "limits",
            "queue_ms",
            "request",
            "runs_on",
            "since",
            "ticket",
        ),
        *("timer", "waits"),
    )

    def __init__(self, job: Job, request: Request, limits: Limits, since: float, deliver: Deliver) -> None:
        self.job = job
        self.request = request
        self.limits = limits
        self.since = since
        self.ends_at = since + limits.ceiling_s
        self.deliver: Deliver | None = deliver
        self.ticket = 0
        self.queue_ms = 0
        self.runs_on = ""
        self.is_late = False
        self.failed: list[FailedAttempt] = []
        self.waits: Waiter | None = None
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

    def let_go(self) -> None:
        """Count the body no longer, where an attempt has outlived its job."""
        if self.late_share is not None:
            self.late_share.give_back()
