"""A job that has got a run of its own key, which another client has left: it waits for that run's answer.

It decides when the job runs by itself instead: if that run brings no result, or its process or Redis is gone. Nobody
waits for ever, because the job asks again and again. left_runs.py is the other side.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from router.aio import start
from router.fleet.redis_client import RedisUnavailable
from router.http.response import Response
from router.jobs.answers import ErrorAnswers
from router.jobs.ending import Endings
from router.jobs.job import JobRun
from router.jobs.preparing import Hashing
from router.jobs.sooner.held_answer import HeldAnswer
from router.jobs.sooner.left_runs import LeftRuns
from router.jobs.sooner.notes import Adopt, Brought, Returned
from router.jobs.sooner.transport import Transport, WorkersAnswer
from router.jobs.sooner.wait import Wait
from router.scheduling.left_behind import NOTICE_S, LeftBehind
from router.scheduling.messages import Adopted, Orphan
from router.scheduling.pending import ClientLeft, NoRoom, PendingJob, QueueTimeout, RunsAlready
from router.telemetry.recorder import Recorder

# A process that ends its heartbeats counts as alive for two seconds.
ASK_EVERY_S = 1.0
# After so many asks in a row that Redis did not take, the job runs by itself.
_FAILURES = 2


class Adoption:
    """What this process' jobs leave behind, for `keep_s` seconds, and which of them wait for what others have left.

    `run_itself` has a job ask for a lease of its own.
    """

    def __init__(
        self,
        transport: Transport,
        left_behind: LeftBehind,
        keep_s: float,
        endings: Endings,
        errors: ErrorAnswers,
        recorder: Recorder,
        run_itself: Callable[[JobRun], None],
        hashing: Hashing,
    ) -> None:
        self._left_behind = left_behind
        left_behind.is_on = True
        self._left_runs = LeftRuns(transport, left_behind, keep_s)
        self._keep_ms = int(keep_s * 1000)
        self._transport = transport
        self._endings = endings
        self._errors = errors
        self._recorder = recorder
        self._run_itself = run_itself
        self._hashing = hashing
        self._waiting: dict[JobRun, tuple[Adopted, Wait]] = {}  # for what they have got, and what would end the wait
        self._by_number: dict[int, JobRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        transport.hear(Brought, self._heard)

    @property
    def is_busy(self) -> bool:
        """Whether a job of another process may wait for a run of this one."""
        return self._left_runs.are_awaited

    def leave_run(self, run: JobRun) -> None:
        """Keep the run of a job whose client has gone, if an attempt is running."""
        self._hashing.then(run.job, partial(HeldAnswer(run).until, partial(self._keep, run)))

    def _keep(self, run: JobRun, told: Callable[[], None]) -> None:
        if run.lease is not None and run.left is None:
            run.left = self._left_runs.keep(run, run.lease, told)
        else:
            told()

    def end_run(self, run: JobRun, response: Response | None, worker_url: str) -> None:
        """Take the answer of a run that has been left; None if it has brought no result."""
        if run.left is not None:
            self._left_runs.end(run.left, response, worker_url, len(run.failed) + 1)

    def refuse(self, run: JobRun, reason: NoRoom, pending: PendingJob | None) -> None:
        """End a job that gets no lease: it waits for a run that it has got, or it leaves its place behind."""
        if isinstance(reason, RunsAlready):
            self.wait(run, reason.adopted)
            return
        if isinstance(reason, QueueTimeout) and pending is not None and pending.arrival.ticket:
            leave = partial(self._leave_place, run, pending.arrival.ticket)
            self._hashing.then(run.job, partial(HeldAnswer(run).until, leave))
        self._endings.refuse(run, reason, pending)

    def _leave_place(self, run: JobRun, ticket: int, told: Callable[[], None]) -> None:
        self._left_behind.tell(Orphan(run.job.key, self._keep_ms, ticket), told)

    def wait(self, run: JobRun, adopted: Adopted) -> None:
        """Let the job wait for the run that it has got."""
        if run.deliver is None:  # the job has been broken off
            start(self._tasks, self._return(run.job.key, adopted, HeldAnswer(run)))
            return
        be_late, leave = partial(self._be_late, run), partial(self._client_left, run)
        self._waiting[run] = adopted, Wait(run.ends_at, be_late, run.job.has_left, leave)
        self._by_number[adopted.number] = run
        start(self._tasks, self._ask(run, adopted))

    def stop(self, run: JobRun) -> Adopted | None:
        """Let the job wait no longer, and return what it has got; None if it does not wait."""
        if run not in self._waiting:
            return None
        adopted, wait = self._waiting.pop(run)
        del self._by_number[adopted.number]
        wait.stop()
        return adopted

    def give_back(self, run: JobRun) -> bool:
        """Let the run, if the job waits for one, be free for the next job; return whether it does."""
        if (adopted := self.stop(run)) is None:
            return False
        start(self._tasks, self._return(run.job.key, adopted, HeldAnswer(run)))
        return True

    async def _ask(self, run: JobRun, adopted: Adopted) -> None:
        """Ask for the answer until it comes, so that no note that is lost is missed for long."""
        note = Adopt(adopted.run, self._transport.process, adopted.number)
        failures = 0
        while self._by_number.get(adopted.number) is run:
            if run.ends_at - asyncio.get_running_loop().time() < NOTICE_S + ASK_EVERY_S:
                self._left_behind.expect()  # the run may have been left behind long ago, and soon is so again
            try:
                is_alive = await self._transport.send(adopted.process, note)
            except RedisUnavailable:
                failures += 1
            else:
                failures = 0 if is_alive else _FAILURES
            if failures >= _FAILURES:
                self._go_on(run)
            else:
                await asyncio.sleep(ASK_EVERY_S)

    async def _return(self, key: str, adopted: Adopted, held: HeldAnswer) -> None:
        left = Orphan(key, self._keep_ms, adopted.ticket, adopted.run, adopted.process)
        with suppress(RedisUnavailable), held:  # without Redis nobody gets it
            # First the note, so that it comes before the one of the next adopter.
            note = Returned(adopted.run, self._transport.process, adopted.number)
            await self._transport.send(adopted.process, note)
            held.until(partial(self._left_behind.tell, left))

    def _heard(self, note: Brought) -> None:
        run = self._by_number.get(note.number)
        if run is None:  # its client has gone
            return
        if note.name:
            start(self._tasks, self._fetch(run, note.name))
        else:
            self._go_on(run)

    async def _fetch(self, run: JobRun, name: str) -> None:
        answer = None
        with suppress(RedisUnavailable):
            answer = await self._transport.take(name)
        if answer is None:
            self._go_on(run)
        elif self.stop(run) is not None:
            self._end(run, answer)

    def _end(self, run: JobRun, answer: WorkersAnswer) -> None:
        run.is_adopted = True
        self._recorder.adopted(run.placement.tenant)
        self._endings.end_with_anothers(run, answer.response, answer.worker_url, answer.attempt)

    def _go_on(self, run: JobRun) -> None:
        """Let the job run by itself, in the place of the one whose run it had got."""
        if (adopted := self.stop(run)) is not None:
            run.ticket = adopted.ticket
            self._run_itself(run)

    def _be_late(self, run: JobRun) -> None:
        if self.give_back(run):
            self._endings.end(run, self._errors.deadline_passed(run))

    def _client_left(self, run: JobRun) -> None:
        if self.give_back(run):
            self._endings.refuse(run, ClientLeft())
