"""A job's way, from start to end: its limits, a lease, a worker, its answer; or the next worker; or an error.

Read top to bottom: each step is called when the one before has brought what it needs, and nothing walks back but a
retry, to the lease. Steps are plain calls, not coroutines: a task and its nine frames cost a job 15 µs. It waits for
leases and workers, and decides nothing itself: who gets the job stands in the exchange; how long it may take, what an
answer means and whether it is tried again, in policy.
"""

import asyncio
import logging
import time
from functools import lru_cache, partial

import msgspec

from router import answers, headers
from router.answers import Answer, FailedAttempt
from router.course import Course, Deliver
from router.fleet.exchange import Blame
from router.job import MAY_BE_THE_JOBS, Job, LeasedParts
from router.leases import Leases
from router.policy.deadline import limits_of
from router.policy.endpoints import endpoints_of
from router.policy.retry import RetryRules, is_jobs_own, is_worth_another
from router.policy.verdict import Kind, Outcome, Verdict, of_answer
from router.response import Phase, Response
from router.settings import Settings
from router.tally import Tally
from router.tasks import start
from router.turns import Turns
from router.upstream import Request, Upstream, UpstreamFailed
from router.view import FleetView
from router.waiter import (
    ClientLeft,
    Exhausted,
    Lease,
    NoRoom,
    NoWorkers,
    Quarantined,
    QueueFull,
    Unfunded,
)

log = logging.getLogger(__name__)

# As nginx counts a client that hung up before its answer: nobody gets it.
CLIENT_LEFT_STATUS = 499
# A lease is a little longer than the attempt that it is for, so that none passes while its attempt still runs.
LEASE_MARGIN_S = 1.0
# How often it is looked whether jobs are overdue, and when they are: timers and turns of the loop may be late.
_WATCH_EVERY_S, _OVERDUE_S = 1.0, 5.0
_OWN_FAULT = "A job met with a fault of the router's own"
# How often a process that is to end looks whether its last attempts are over.
_LOOK_EVERY_S = 0.05

_BROKEN = {
    Phase.CONNECT: (Kind.NOT_SENT, Blame.FAULT),
    Phase.DIED: (Kind.DIED, Blame.DIED),
    Phase.GARBLED: (Kind.FAULT, Blame.FAULT),
    Phase.TIMED_OUT: (Kind.TIMED_OUT, Blame.FAULT),
}


class Dispatcher:
    """Brings jobs to workers."""

    def __init__(self, leases: Leases, upstream: Upstream, view: FleetView, settings: Settings, tally: Tally) -> None:
        self.turns = Turns()  # in which large bodies, and batches, are read
        self._leases = leases
        self._upstream = upstream
        self._view = view
        self._settings = settings
        self._tally = tally
        self._retry = RetryRules(settings.retry.attempts, settings.retry.sandbox_error)
        self._queue_timeout_s = settings.queue.timeout
        # Most jobs have the same limits.
        self._limits = lru_cache(maxsize=256)(
            partial(
                limits_of,
                grace_s=settings.job_grace,
                timeout_s=settings.timeout,
                is_budget_by_job=settings.client_budget == "job",
            )
        )
        self._endpoints = endpoints_of(settings.endpoints)
        self._unanswered: dict[Course, None] = {}
        self._watch: asyncio.TimerHandle | None = None
        self._attempts = 0  # under way, but for those whose clients have been told that it takes too long
        self._thinking: set[asyncio.Task[None]] = set()  # jobs about to be tried again

    async def run(self, job: Job) -> Answer:
        """Return the answer to `job`, for those who wait in a coroutine. Raises ClientLeft."""
        if job.is_large:
            job = await self.looked_into(job)
        answered: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        course = self.begin(job, lambda answer: None if answered.done() else answered.set_result(answer))
        try:
            answer = await answered
        except asyncio.CancelledError:
            if answered.cancelled():
                self._forsake(course)
            elif (given := answered.result()) is not None and given.rest is not None:  # answered in the same moment
                given.rest.close()
            raise
        if answer is None:
            raise ClientLeft
        return answer

    async def looked_into(self, job: Job) -> Job:
        """Return a large job with what `begin` needs of its body, which is read while others have their turns."""
        seen = await self.turns.run(job.look(self._endpoints[job.path].reader))
        return msgspec.structs.replace(job, seen=seen)

    def begin(self, job: Job, deliver: Deliver) -> Course:
        """Bring `job` to its answer, and count it. A failed attempt goes on to a worker not tried yet.

        `deliver` is called once, whatever happens, and never before this has returned: with the answer, or with None
        where the client has left while the job waited. A large job has to be `looked_into` before.
        """
        course = Course(job, time.monotonic(), deliver)
        self._unanswered[course] = None
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(_WATCH_EVERY_S, self._end_the_overdue)
        try:
            endpoint = self._endpoints[job.path]
            text: bytes = job.body if job.seen is None else job.seen.excerpt  # type: ignore[assignment]  # no view is small
            course.limits = limits = self._limits(endpoint.reader.longest_s(text), job.client_s, endpoint.timeout_s)
            course.ends_at += limits.ceiling_s
            block = headers.for_worker(job.lines, job.body, job.request_id)
            course.request = Request(job.method, job.target, block, job.body)
            if (known := self._view.snapshot.state.quarantined) and job.name in known:
                asyncio.get_running_loop().call_soon(self._leased, course, Quarantined())
            else:
                self._ask(course, limits.ceiling_s)
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            asyncio.get_running_loop().call_soon(self._break_off, course, fault)
        return course

    async def finish(self) -> None:
        """Return when no attempt is under way, those included whose clients have left: they end leases, too.

        But for those that take too long: their leases pass by themselves.
        """
        while self._attempts or self._thinking:  # noqa: ASYNC110  (an event set for each job costs more)
            await asyncio.sleep(_LOOK_EVERY_S)

    # Its lease

    def _ask(self, course: Course, left_s: float, tried: tuple[str, ...] = (), retry_of: str = "") -> None:
        """Ask for a lease on a worker not in `tried`; `left_s` is for how long the client waits."""
        if left_s <= 0:
            asyncio.get_running_loop().call_soon(self._end, course, self._deadline_passed(course))
            return
        bound_s, wait_s = course.limits.bound_s + LEASE_MARGIN_S, min(self._queue_timeout_s, left_s)
        then, has_left = partial(self._leased, course), course.job.has_left
        course.waits = self._leases.ask(bound_s, wait_s, has_left, then, course.ticket, tried, retry_of)

    def _leased(self, course: Course, lease: Lease | NoRoom) -> None:
        """Go on with a lease, or with the reason why there is none."""
        course.waits = None
        try:
            if isinstance(lease, Lease):
                course.lease = lease
                if course.deliver is None:  # it has been broken off
                    self._end_lease(course, Blame.NONE)
                else:
                    self._attempt(course, lease)
            elif isinstance(lease, Exhausted):  # by then the retry has been counted; any worker is better than none
                self._ask(course, course.ends_at - time.monotonic())
            else:
                self._refuse(course, lease)
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            self._break_off(course, fault)

    # Its attempt

    def _attempt(self, course: Course, lease: Lease) -> None:
        course.ticket = lease.ticket
        course.queue_ms += lease.waited_ms
        if course.failed:
            self._tally.retried(course.failed[-1].kind)
        now, bound_s = time.monotonic(), course.limits.bound_s
        if course.ends_at - now < bound_s:
            wait_s = max(0.0, course.ends_at - now)
            course.timer = asyncio.get_running_loop().call_later(wait_s, self._be_late, course)
        self._attempts += 1
        course.is_awaited = True
        self._upstream.send(lease.url, course.request, bound_s, partial(self._attempted, course, lease, now))

    def _be_late(self, course: Course) -> None:
        """Tell the client that it takes too long. The attempt goes on by itself, and its lease with it."""
        try:
            self._attempts -= 1
            course.is_awaited = False
            course.late_share = course.job.share.hand_over()
            self._end(course, self._deadline_passed(course))
        except Exception as fault:
            log.exception(_OWN_FAULT, exc_info=fault)
            self._end(course, answers.broken(course.job.request_id))

    def _attempted(self, course: Course, lease: Lease, since: float, outcome: Response | UpstreamFailed) -> None:
        """Go on with what an attempt has brought: the answer, or nothing."""
        answer = None
        try:
            if course.is_awaited:
                self._attempts -= 1
                course.is_awaited = False
            if course.timer is not None:
                course.timer.cancel()
            if course.lease is not lease:  # it has been broken off
                _close_rest(outcome)
                return
            answer = self._judged(course, lease, since, outcome)
            if answer is not None:
                self._end(course, answer)
            elif course.deliver is None:
                course.let_go()
            elif is_worth_another(course.kinds, self._retry):
                start(self._thinking, self._try_again(course))
            else:
                self._end(course, self._failed(course, is_unfunded=False))
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            _close_rest(outcome if answer is None else answer)
            self._break_off(course, fault)

    def _judged(self, course: Course, lease: Lease, since: float, outcome: Response | UpstreamFailed) -> Answer | None:
        """Say in the exchange how an attempt went. Return its answer; None where it failed, which is kept in mind."""
        job, url = course.job, lease.url
        response = None if isinstance(outcome, UpstreamFailed) else outcome
        verdict = _verdict(job, outcome)
        self._tally.attempt_ended(url, verdict.kind, time.monotonic() - since)
        if response is not None and response.rest is not None and verdict.cause is None:
            rest = LeasedParts(response.rest, self._leases, lease, verdict.blame, job, self._tally)
            response = msgspec.structs.replace(response, rest=rest)
        else:
            is_named = verdict.blame in MAY_BE_THE_JOBS or (course.failed and course.is_suspect)
            # A worker that timed out still runs the job: its lease stays to the end of its moment.
            is_over = verdict.kind is not Kind.TIMED_OUT
            self._leases.end(lease, verdict.blame, is_over=is_over, job=job.name if is_named else "")
            course.lease = None
        if response is not None and verdict.cause is None:
            answer = answers.from_worker(response, url, len(course.failed) + 1, course.queue_ms, job.request_id)
            course.lease = None  # a large answer's ends with it
            return answer
        if response is not None and response.rest is not None:
            response.rest.close()
            response = None
        log.warning("Worker %s %s", url, verdict.cause)
        course.failed.append(FailedAttempt(url, verdict.cause or "", verdict.kind, response))
        return None

    # The next one

    async def _try_again(self, course: Course) -> None:
        try:
            if course.deliver is None or await course.job.is_abandoned():
                self._refuse(course, ClientLeft())
            else:
                tried = tuple([attempt.worker_url for attempt in course.failed])
                self._ask(course, course.ends_at - time.monotonic(), tried, course.job.name)
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            self._break_off(course, fault)

    # Its end

    def _end(self, course: Course, answer: Answer) -> None:
        """Give the answer to who waits for it."""
        deliver, course.deliver = course.deliver, None
        if deliver is None:
            if answer.rest is not None:
                answer.rest.close()
            course.let_go()
            return
        del self._unanswered[course]
        try:
            self._tally.job_ended(course.job.path, answer.status, answer.outcome, time.monotonic() - course.since)
        finally:
            deliver(answer)

    def _leave(self, course: Course) -> None:
        deliver, course.deliver = course.deliver, None
        course.let_go()
        if deliver is not None:
            del self._unanswered[course]
            took_s = time.monotonic() - course.since
            try:
                self._tally.job_ended(course.job.path, CLIENT_LEFT_STATUS, Outcome.CLIENT_LEFT, took_s)
            finally:
                deliver(None)

    def _refuse(self, course: Course, reason: NoRoom) -> None:
        """End a job that gets no lease."""
        settings, statuses, request_id = self._settings, self._settings.error_status, course.job.request_id
        match reason:
            case ClientLeft():
                self._leave(course)
                return
            case Unfunded():
                self._tally.retry_unfunded()
                answer = self._failed(course, is_unfunded=True)
            case NoWorkers():
                answer = answers.no_healthy_workers(statuses.no_workers, request_id)
            case QueueFull():
                answer = answers.queue_full(statuses.queue_full, settings.queue.max_waiting, request_id)
            case Quarantined():
                answer = answers.quarantined(settings.quarantine_seconds, request_id)
            case _:
                waited_s = min(settings.queue.timeout, course.limits.ceiling_s)
                answer = answers.queue_timeout(statuses.queue_timeout, waited_s, request_id)
        self._end(course, answer)

    def _end_lease(self, course: Course, blame: Blame, *, is_over: bool = True, job: str = "") -> None:
        lease, course.lease = course.lease, None
        if lease is not None:
            self._leases.end(lease, blame, is_over=is_over, job=job)

    def _failed(self, course: Course, *, is_unfunded: bool) -> Answer:
        """Return what a job gets that nobody could do: the last worker's own words where they seem to be the job's."""
        failed, request_id = course.failed, course.job.request_id
        last = failed[-1]
        if last.response is not None and is_jobs_own(course.kinds, self._retry):
            own = answers.from_worker(last.response, last.worker_url, len(failed), course.queue_ms, request_id)
            return msgspec.structs.replace(own, outcome=Outcome(last.kind))
        return answers.all_failed(self._settings.error_status.all_failed, failed, request_id, is_unfunded=is_unfunded)

    def _deadline_passed(self, course: Course) -> Answer:
        status = self._settings.error_status.queue_timeout
        return answers.deadline_passed(status, course.limits.ceiling_s, course.job.request_id)

    def _forsake(self, course: Course) -> None:
        """Nobody waits for the answer any more; an attempt that has begun goes on, and ends its lease."""
        self._leave(course)
        if course.waits is not None:
            self._leases.give_up(course.waits)
        else:
            course.late_share = course.job.share.hand_over()

    def _break_off(self, course: Course, fault: Exception) -> None:
        """Answer a job that met with a fault of this program, and give back what it holds."""
        log.error(_OWN_FAULT, exc_info=fault)
        try:
            if course.timer is not None:
                course.timer.cancel()
            if course.is_awaited:
                self._attempts -= 1
                course.is_awaited = False
            if course.waits is not None:
                self._leases.give_up(course.waits)
            if course.lease is not None:
                self._end_lease(course, Blame.NONE)
        finally:
            self._end(course, answers.broken(course.job.request_id))

    def _end_the_overdue(self) -> None:
        """Break off the jobs that should have had an answer: a step that was never taken is a fault, too."""
        now = time.monotonic()
        for course in [course for course in self._unanswered if now > course.ends_at + _OVERDUE_S]:
            self._break_off(course, TimeoutError(f"no answer for {now - course.since:.0f} s"))
        self._watch = None
        if self._unanswered:
            self._watch = asyncio.get_running_loop().call_later(_WATCH_EVERY_S, self._end_the_overdue)


def _close_rest(outcome: Response | UpstreamFailed | Answer) -> None:
    if not isinstance(outcome, UpstreamFailed) and outcome.rest is not None:
        outcome.rest.close()


def _verdict(job: Job, outcome: Response | UpstreamFailed) -> Verdict:
    if isinstance(outcome, UpstreamFailed):
        kind, blame = _BROKEN[outcome.phase]
        return Verdict(kind, blame, outcome.cause)
    head = outcome.head
    return of_answer(job.path, head.status, outcome.body, is_whole=outcome.rest is None, is_packed=head.is_packed)
