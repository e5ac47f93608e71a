"""A job's way, from start to end: its limits, a lease, a worker, its answer; or the next worker; or an error.

Read top to bottom: each step is called when the one before has brought what it needs, and nothing walks back but a
retry, to the lease. Steps are plain calls, not coroutines: a task and its nine frames cost a job 15 µs. It waits for
leases and workers, and decides nothing itself: who gets the job stands in the scheduler; how long it may take, what an
answer means and whether it is tried again, in policy.
"""

import asyncio
import logging
import time
from functools import lru_cache, partial

import msgspec

from router.aio import Turns, resolver, start
from router.config.settings import Settings
from router.fleet.snapshot import FleetView
from router.http import headers
from router.http.answer import Answer
from router.http.response import Response, UpstreamFailed
from router.jobs import answers, job_log
from router.jobs.job import MAY_BE_THE_JOBS, Course, Deliver, FailedAttempt, Job
from router.jobs.job_log import CLIENT_LEFT_STATUS
from router.jobs.last_answers import LastAnswers
from router.jobs.streaming import LeasedParts
from router.jobs.unanswered import Unanswered
from router.logs import Seldom
from router.policy.deadline import ClientBudget, limits_of
from router.policy.endpoints import endpoints_of
from router.policy.retry import RetryRules, is_worth_another
from router.policy.verdict import Blame, Kind, Outcome
from router.scheduling.leases import Leases
from router.scheduling.pending import ClientLeft, Exhausted, Lease, NoRoom, NoWorkers, Quarantined, Unfunded
from router.telemetry.recorder import Recorder
from router.upstream.pool import Request, WorkerPool

log = logging.getLogger(__name__)

_RESULT = Outcome.RESULT
# A lease is a little longer than the attempt that it is for, so that none passes while its attempt still runs.
LEASE_MARGIN_S = 1.0
_OWN_FAULT = "Job %s met with a fault of the router's own"
_TIMED = frozenset({Blame.AWAY, Blame.DIED})  # of these the scheduler wants to know how long the attempt took
# How often a process that is to end looks whether its last attempts are over.
_LOOK_EVERY_S = 0.05
# How long a job waits for this host to have file handles, ports or memory again before it looks.
_NO_MEANS_S = 0.1


class Dispatcher:
    """Brings jobs to workers."""

    def __init__(
        self, leases: Leases, upstream: WorkerPool, view: FleetView, settings: Settings, recorder: Recorder
    ) -> None:
        self.turns = Turns()  # in which large bodies, and batches, are read
        self._leases = leases
        self._upstream = upstream
        self._view = view
        self._recorder = recorder
        retry = settings.retry
        has_budget = retry.budget_percent > 0 or retry.budget_per_second > 0
        self._retry = RetryRules(retry.attempts, retry.sandbox_error, has_budget)
        self._last_answers = LastAnswers(settings, self._retry)
        self._seldom = Seldom()
        self._queue_timeout_s = settings.queue.timeout
        # Most jobs have the same limits.
        self._limits = lru_cache(maxsize=256)(
            partial(
                limits_of,
                grace_s=settings.job_grace,
                timeout_s=settings.timeout,
                budget=ClientBudget.of(settings.client_budget),
            )
        )
        self._endpoints = endpoints_of(settings.endpoints)
        self._unanswered = Unanswered(self._break_off)
        self._attempts = 0  # under way, but for those whose clients have been told that it takes too long
        self._thinking: set[asyncio.Task[None]] = set()  # jobs about to be tried again

    async def run(self, job: Job) -> Answer:
        """Return the answer to `job`, for those who wait in a coroutine. Raises ClientLeft."""
        if job.is_large:
            job = await self.looked_into(job)
        answered: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        course = self.begin(job, resolver(answered))
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
        since = time.monotonic()
        course = Course(job, since, since + self._queue_timeout_s, deliver)
        self._unanswered[course] = None
        try:
            if not self._unanswered.is_watched:
                self._unanswered.watch()
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
            asyncio.get_running_loop().call_soon(self._end, course, self._last_answers.deadline_passed(course))
            return
        bound_s, wait_s = course.limits.bound_s + LEASE_MARGIN_S, min(course.room_by - course.ends_at + left_s, left_s)
        then, has_left = partial(self._leased, course), course.job.has_left
        course.waits = self._leases.ask(bound_s, wait_s, has_left, then, course.ticket, tried, retry_of, course.since)

    def _leased(self, course: Course, lease: Lease | NoRoom) -> None:
        """Go on with a lease, or with the reason why there is none."""
        course.waits = None
        try:
            if isinstance(lease, Lease):
                course.lease = lease
                if course.deliver is None:  # it has been broken off
                    self._give_lease_back(course)
                else:
                    self._attempt(course, lease)
            elif isinstance(lease, Exhausted):
                self._ask_any(course)
            else:
                self._refuse(course, lease)
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            self._break_off(course, fault)

    # Its attempt

    def _attempt(self, course: Course, lease: Lease) -> None:
        course.ticket = lease.ticket
        course.queue_ms += lease.waited_ms
        if course.is_retry:
            course.is_retry = False
            self._recorder.retried(course.failed[-1].kind)
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
            self._end(course, self._last_answers.deadline_passed(course))
        except Exception as fault:
            log.exception(_OWN_FAULT, course.job.request_id.decode("ascii"), exc_info=fault)
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
                self._drop_doubts(course)
            elif course.never_ran is Kind.NO_MEANS:
                start(self._thinking, self._wait_for_means(course, lease))
            elif course.never_ran is not None:  # so it has not left the line: its ticket is its place there
                self._wait_again(course, course.never_ran)
            elif is_worth_another(course.kinds, self._retry):
                start(self._thinking, self._try_again(course))
            else:
                self._end(course, self._last_answers.failed(course))
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            _close_rest(outcome if answer is None else answer)
            self._break_off(course, fault)

    def _judged(self, course: Course, lease: Lease, since: float, outcome: Response | UpstreamFailed) -> Answer | None:
        """Say in the scheduler how an attempt went. Return its answer; None where it failed, which is kept in mind."""
        job, url = course.job, lease.url
        response = None if isinstance(outcome, UpstreamFailed) else outcome
        verdict = job.verdict_on(outcome)
        kind, blame, took_s = verdict.kind, verdict.blame, time.monotonic() - since
        self._recorder.attempt_ended(url, kind, took_s)
        if course.doubts and blame is Blame.OK:  # so the others' errors were their own
            self._leases.resolve(course.doubts, Blame.ERROR, job.name)
            course.doubts = ()
        if response is not None and response.rest is not None and verdict.cause is None:
            told = partial(self._answer_cut, course, response.head.status)
            is_suspect = bool(course.failed) and course.is_suspect
            rest = LeasedParts(response.rest, self._leases, lease, blame, job, told, since, is_suspect)
            response = msgspec.structs.replace(response, rest=rest)
        else:
            if blame is Blame.ERROR and self._retry.asks_another(kind):
                blame = Blame.DOUBT
                course.doubts = (*course.doubts, (lease, verdict.cause or ""))
            is_named = blame in MAY_BE_THE_JOBS or (course.failed and course.is_suspect)
            # A worker that timed out still runs the job: its lease stays to the end of its moment.
            is_over = kind is not Kind.TIMED_OUT
            ms = int(took_s * 1000) if blame in _TIMED else verdict.rest_ms
            named, cause = job.name if is_named else "", verdict.cause or ""
            self._leases.end(lease, blame, is_over=is_over, job=named, cause=cause, ms=ms)
            course.lease = None
        if response is not None and verdict.cause is None:
            answer = answers.from_worker(response, url, len(course.failed) + 1, course.queue_ms, job.request_id)
            course.lease = None  # a large answer's ends with it
            return answer
        if response is not None and response.rest is not None:
            response.rest.close()
            response = None
        job_log.attempt_failed(course, url, kind, verdict.cause or "", self._seldom)
        course.fail(FailedAttempt(url, verdict.cause or "", kind, response), took_s)
        return None

    # The next one

    async def _try_again(self, course: Course) -> None:
        try:
            if await course.job.is_abandoned() or course.deliver is None:  # it may have been cancelled meanwhile
                self._refuse(course, ClientLeft())
            else:
                now = time.monotonic()
                course.room_by, course.is_retry = now + self._queue_timeout_s, True
                self._ask(course, course.ends_at - now, course.tried, course.job.name)
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            self._break_off(course, fault)

    def _wait_again(self, course: Course, cause: Kind) -> None:
        """Let a job that was turned away wait again, unless it has tried for long enough to get to any worker."""
        if cause is Kind.NOT_SENT and self._leases.is_enough_for(course.since):
            self._refuse(course, NoWorkers())
            return
        self._recorder.retried(cause)
        self._ask(course, course.ends_at - time.monotonic(), course.tried)

    def _ask_any(self, course: Course) -> None:
        """Let a job that has tried all workers try any of them: the retry has been counted.

        Those that it did not get to count as tried by then, unless nobody can be reached and all wait.
        """
        unreached, course.unreached = course.unreached, ()
        if unreached and self._leases.has_workers:
            course.failed += unreached
            if not is_worth_another(course.kinds, self._retry):
                self._end(course, self._last_answers.failed(course))
                return
        self._ask(course, course.ends_at - time.monotonic())

    async def _wait_for_means(self, course: Course, lease: Lease) -> None:
        """Let a job wait a moment for file handles, ports or memory of this host; then another worker is asked first.

        For an address that this host has no way to, such as an IPv6 one, looks the same.
        """
        try:
            await asyncio.sleep(min(_NO_MEANS_S, max(0.0, course.ends_at - time.monotonic())))
            if course.deliver is None or await course.job.is_abandoned():
                self._refuse(course, ClientLeft())
            else:
                now = time.monotonic()
                course.room_by = now + self._queue_timeout_s
                self._ask(course, course.ends_at - now, (*course.tried, lease.url))
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
            self._drop_doubts(course)
            return
        del self._unanswered[course]
        try:
            if course.doubts:
                self._drop_doubts(course)
            took_s = time.monotonic() - course.since
            self._recorder.job_ended(course.job.path, answer.status, answer.outcome, took_s)
            if answer.outcome is not _RESULT:
                job_log.failed(course, answer.status, answer.outcome, took_s)
        finally:
            deliver(answer)

    def _leave(self, course: Course) -> None:
        deliver, course.deliver = course.deliver, None
        self._unanswered.pop(course, None)
        try:
            course.let_go()
            self._drop_doubts(course)
            if deliver is not None:
                took_s = time.monotonic() - course.since
                self._recorder.job_ended(course.job.path, CLIENT_LEFT_STATUS, Outcome.CLIENT_LEFT, took_s)
                job_log.failed(course, CLIENT_LEFT_STATUS, Outcome.CLIENT_LEFT, took_s)
        finally:
            if deliver is not None:
                deliver(None)

    def _answer_cut(self, course: Course, status: int, failure: UpstreamFailed) -> None:
        """Count, and tell of, a large answer that its worker has broken off."""
        self._recorder.answer_cut(failure.worker_url)
        job_log.answer_cut(course, status, time.monotonic() - course.since, failure)

    def _drop_doubts(self, course: Course) -> None:
        """Blame nobody for errors that may be the job's own: no other worker has done it."""
        doubts, course.doubts = course.doubts, ()
        if doubts:
            self._leases.resolve(doubts, Blame.NONE)

    def _refuse(self, course: Course, reason: NoRoom) -> None:
        """End a job that gets no lease."""
        if isinstance(reason, ClientLeft):
            self._leave(course)
            return
        if isinstance(reason, Unfunded):
            self._recorder.retry_unfunded()
        self._end(course, self._last_answers.refused(course, reason))

    def _give_lease_back(self, course: Course) -> None:
        lease, course.lease = course.lease, None
        if lease is not None:
            self._leases.end(lease, Blame.NONE)

    def _forsake(self, course: Course) -> None:
        """Nobody waits for the answer any more; an attempt that has begun goes on, and ends its lease."""
        self._leave(course)
        if course.waits is not None:
            self._leases.give_up(course.waits)
        else:
            course.late_share = course.job.share.hand_over()

    def _break_off(self, course: Course, fault: Exception) -> None:
        """Answer a job that met with a fault of this program, and give back what it holds."""
        request_id = course.job.request_id
        log.error(_OWN_FAULT, request_id.decode("ascii"), exc_info=fault)
        try:
            if course.timer is not None:
                course.timer.cancel()
            if course.is_awaited:
                self._attempts -= 1
                course.is_awaited = False
            if course.waits is not None:
                self._leases.give_up(course.waits)
            self._give_lease_back(course)
        except Exception:
            log.exception("And what it held could not be given back")
        self._end(course, answers.broken(request_id))


def _close_rest(outcome: Response | UpstreamFailed | Answer) -> None:
    if not isinstance(outcome, UpstreamFailed) and outcome.rest is not None:
        outcome.rest.close()
