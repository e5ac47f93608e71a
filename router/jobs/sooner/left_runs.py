"""The runs of this process whose clients have gone: each goes on, and the next identical job gets its answer.

It decides how long a run is kept, and for whom; the scheduler decides who gets it. adoption.py is the other side.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from router.aio import start
from router.fleet.redis_client import RedisUnavailable
from router.http.response import Response
from router.jobs.job import JobRun
from router.jobs.sooner.left_run import LeftRun
from router.jobs.sooner.notes import Adopt, Brought, Returned
from router.jobs.sooner.transport import TTL_S, Transport, WorkersAnswer
from router.scheduling.left_behind import LeftBehind
from router.scheduling.messages import Orphan
from router.scheduling.pending import Lease


class LeftRuns:
    """Keeps each run that is left for `keep_s` seconds, and longer once a job has got it."""

    def __init__(self, transport: Transport, left_behind: LeftBehind, keep_s: float) -> None:
        self._transport = transport
        self._left_behind = left_behind
        self._keep_s = keep_s
        self._by_number: dict[int, LeftRun] = {}
        self._sending: set[asyncio.Task[None]] = set()
        left_behind.all_runs = self._all
        transport.hear(Adopt, self._adopted)
        transport.hear(Returned, self._returned)

    @property
    def are_awaited(self) -> bool:
        """Whether a job waits for one of these runs, or an answer is on its way."""
        return bool(self._sending) or any(left.adopter and not left.answer for left in self._by_number.values())

    def keep(self, run: JobRun, lease: Lease, then: Callable[[], None]) -> LeftRun:
        """Keep a run whose client has gone, and call `then` when the scheduler knows."""
        left = self._by_number[lease.number] = LeftRun(run.job.key, lease.number, run.ticket, run.job.share.sibling())
        self._keep_for_anyone(left)
        self._left_behind.tell(Orphan(left.key, int(self._keep_s * 1000), left.ticket, left.number), then)
        return left

    def end(self, left: LeftRun, response: Response | None, worker_url: str, attempt: int) -> None:
        """Take the answer of a run that is over; None if it has brought no result. Of two, the first answer counts."""
        if self._by_number.get(left.number) is not left or left.answer is not None:
            return  # nobody has come for it in time, or it is the second answer
        left.answer = None if response is None else WorkersAnswer.of(response, worker_url, attempt)
        if left.answer is not None and not left.share.grow_if_ample(len(left.answer.body)):
            left.answer = None
        if left.answer is None:
            self._drop(left)
            if left.adopter is not None:
                self._send(left.adopter)
            else:
                self._left_behind.tell(Orphan(left.key, 0, left.ticket, left.number))
        elif left.adopter is not None:
            self._bring(left, left.answer, left.adopter)

    def _keep_for_anyone(self, left: LeftRun) -> None:
        left.adopter, left.ends_at = None, time.monotonic() + self._keep_s
        if left.timer is not None:
            left.timer.cancel()
        left.timer = asyncio.get_running_loop().call_later(self._keep_s, self._drop, left)

    def _all(self) -> tuple[Orphan, ...]:
        now = time.monotonic()
        free = (left for left in self._by_number.values() if left.adopter is None)
        return tuple(Orphan(left.key, int((left.ends_at - now) * 1000), left.ticket, left.number) for left in free)

    def _drop(self, left: LeftRun) -> None:
        del self._by_number[left.number]
        left.share.give_back()
        if left.timer is not None:
            left.timer.cancel()

    def _adopted(self, note: Adopt) -> None:
        left, adopter = self._by_number.get(note.run), (note.process, note.number)
        if left is None or left.adopter not in (None, adopter):
            self._send(adopter)
            return
        if left.adopter is None and left.timer is not None:
            left.timer.cancel()
        left.adopter = adopter
        if left.answer is not None:
            self._bring(left, left.answer, adopter)

    def _returned(self, note: Returned) -> None:
        left = self._by_number.get(note.run)
        if left is not None and left.adopter == (note.process, note.number):
            self._keep_for_anyone(left)  # the adopter has told the scheduler

    def _bring(self, left: LeftRun, answer: WorkersAnswer, adopter: tuple[str, int]) -> None:
        """Send the answer. It is kept for a while, because its job may return it."""
        if left.timer is not None:
            left.timer.cancel()
        left.timer = asyncio.get_running_loop().call_later(TTL_S, self._drop, left)
        self._send(adopter, answer, f"{self._transport.process}:{left.number}")

    def _send(self, adopter: tuple[str, int], answer: WorkersAnswer | None = None, name: str = "") -> None:
        start(self._sending, self._sent(*adopter, answer, name))

    async def _sent(self, process: str, number: int, answer: WorkersAnswer | None, name: str) -> None:
        with suppress(RedisUnavailable):  # the job will run by itself
            if answer is not None:
                await self._transport.store(name, answer, process=process)
            await self._transport.send(process, Brought(number, name))
