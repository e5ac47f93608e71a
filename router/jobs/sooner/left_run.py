"""A run whose client has gone, as its process keeps it for the next identical job."""

import asyncio

from router.jobs.body_budget import BodyShare
from router.jobs.sooner.transport import WorkersAnswer


class LeftRun:
    """A run that its client has left, or its answer, which counts in `share`.

    `adopter` is the process and the number of the job that has got it. Until `ends_at` (time.monotonic) it is kept for
    one; `timer` then drops it.
    """

    __slots__ = ("adopter", "answer", "ends_at", "key", "number", "share", "ticket", "timer")

    def __init__(self, key: str, number: int, ticket: int, share: BodyShare) -> None:
        self.key = key
        self.number = number
        self.ticket = ticket
        self.share = share
        self.ends_at = 0.0
        self.adopter: tuple[str, int] | None = None
        self.answer: WorkersAnswer | None = None
        self.timer: asyncio.TimerHandle | None = None
