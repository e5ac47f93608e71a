"""A job's way from start to end: its limits, a lease, an attempt on a worker; then an answer, a retry or an error.

Read it from top to bottom: each step is called when the step before it has brought what it needs. Only a retry goes
back, to the lease. Steps are plain calls and not coroutines, because a task and its frames would cost each job more
than all its steps. The scheduler decides which job gets a lease. Rooms of policy decide how long a job may take, what
an answer means and whether to retry.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

from router.aio import Turns, resolver, start
from router.config.settings import Settings
from router.fleet.snapshot import FleetView
from router.http.answer import Answer, close_rest
from router.http.response import Response, UpstreamFailed
from router.jobs import answers
from router.jobs.answers import ErrorAnswers
from router.jobs.ending import Endings
from router.jobs.job import AnswerCallback, Job, JobHooks, JobRun, Unanswered
from router.jobs.judging import Judge
from router.jobs.options import NO_OPTIONS
from router.jobs.preparing import Hashing, Preparer
from router.jobs.sooner.adoption import Adoption
from router.jobs.sooner.groups import Groups
from router.jobs.sooner.hedging import AttemptSteps, Hedging
from router.jobs.sooner.reuse import Reuse
from router.jobs.sooner.sizes import Sizes
from router.jobs.sooner.sizing import Sizing
from router.jobs.sooner.transport import Transport
from router.jobs.tenants import Tenants
from router.policy.endpoints import endpoints_of
from router.policy.retry import RetryRules, is_worth_another
from router.policy.verdict import Kind
from router.scheduling.leases import Leases
from router.scheduling.left_behind import NOTICE_S
from router.scheduling.pending import ClientLeft, Exhausted, Lease, NoRoom, NoWorkers
from router.telemetry.recorder import Recorder
from router.upstream.pool import WorkerPool

log = logging.getLogger(__name__)

# A lease is a little longer than its attempt, so that it does not pass while the attempt still runs.
LEASE_MARGIN_S = 1.0
_OWN_FAULT = "Job %s met with a fault of the router's own"
# A process that ends checks this often whether its last attempts are over.
_LOOK_EVERY_S = 0.05
# A job waits this long for file handles, ports or memory of this host before it tries again.
_NO_MEANS_S = 0.1


class Dispatcher:
    """Brings jobs to workers. `hooks_of`, if given, makes the hooks of each job; without hooks a job makes no calls.

    `groups` are those of this process' jobs.
    """

    def __init__(
        self,
        leases: Leases,
        upstream: WorkerPool,
        view: FleetView,
        settings: Settings,
        recorder: Recorder,
        sizes: Sizes,
        hooks_of: Callable[[Job], JobHooks] | None = None,
        groups: Groups | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.turns = Turns()  # for reading large bodies, and batches
        self.groups = Groups() if groups is None else groups
        self._leases = leases
        self._upstream = upstream
        self._view = view
        self._recorder = recorder
        retry = settings.retry
        has_budget = retry.budget_percent > 0 or retry.budget_per_second > 0
        self._retry = RetryRules(retry.attempts, retry.sandbox_error, has_budget)
        self._tenants = Tenants(view, settings.client_budget)
        self._errors = ErrorAnswers(settings, self._retry, self._tenants)
        self._sizing = Sizing(sizes, self._tenants, learns_all=settings.hedge.enabled)
        self._queue_timeout_s = settings.queue.timeout
        self._endpoints = endpoints_of(settings.endpoints)
        self._unanswered = Unanswered(self._break_off)
        self._endings = Endings(self._unanswered, leases, recorder, self._errors, self.groups, self._endpoints)
        self.reuse = Reuse(leases.left_behind, self._tenants, self._endings, self._errors, recorder, self._run_itself)
        self._left_behind = leases.left_behind
        readies = self._endpoints, view, self._tenants, self.groups, self._left_behind, self._sizing, self.turns
        self._preparer = Preparer(settings, *readies, hooks_of)
        view.on_placing = partial(self._preparer.place_anew, self._unanswered, leases)
        self.order_of = self._tenants.order_of
        self.scanned = self._preparer.scanned  # returns a large job as `begin` needs it
        self._between: set[asyncio.Task[None]] = set()  # what jobs do between two attempts
        self._hashing = Hashing(self.turns, self._between)
        self._adoption: Adoption | None = None
        if transport is not None and (keep_s := settings.adopt_seconds):
            its = self._endings, self._errors, recorder, self._run_itself, self._hashing
            self._adoption = Adoption(transport, leases.left_behind, keep_s, *its)
        judges = leases, recorder, self._retry, self._sizing, self.groups, self._endings, self._adoption, self.reuse
        self._judge = Judge(*judges)
        self._hedging: Hedging | None = None
        if settings.hedge.enabled:
            parts = self._unanswered, self._endings, leases, upstream, view, sizes, recorder
            steps = AttemptSteps(self._heard, self._judge.judged, self._await_no_more, self._be_late)
            self._hedging = Hedging(*parts, steps, LEASE_MARGIN_S)
        self._attempts = 0  # running, except those whose clients have been told that they take too long

    async def run(self, job: Job, begun: Callable[[JobRun], None] | None = None) -> Answer:
        """Return the answer to `job`, for callers that are coroutines; `begun` hears of its run. Raises ClientLeft."""
        if job.is_large and job.scan is None:
            job = await self.scanned(job)
        answered: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        run = self.begin(job, resolver(answered, close_rest))
        if begun is not None:
            begun(run)
        try:
            answer = await answered
        except asyncio.CancelledError:
            if run.deliver is not None:
                self._abandon(run)
            elif not answered.cancelled():  # answered in the same moment
                close_rest(answered.result())
            raise
        if answer is None:
            raise ClientLeft
        return answer

    def begin(self, job: Job, deliver: AnswerCallback) -> JobRun:
        """Bring `job` to its answer, and count it; a large job must be `scanned` before.

        `deliver` is called once, in any case, and never before this returns.
        """
        since = time.monotonic()
        run = JobRun(job, since, since + self._queue_timeout_s, deliver)
        self._unanswered[run] = None
        try:
            if not self._unanswered.is_watched:
                self._unanswered.watch()
            if self._hedging is not None:
                self._hedging.watch()
            self._preparer.prepare(run, self._skip)
            snapshot = self._view.snapshot
            if (snapshot.reuses_answers or job.options is not NO_OPTIONS) and self.reuse.joins(run):
                return run
            is_by_size = snapshot.is_default_by_size or run.job.tenant in snapshot.by_size
            is_sized = is_by_size or job.options is not NO_OPTIONS or self._hedging is not None
            if is_sized and not self._sizing.settle(run):
                start(self._between, self._ask_by_size(run))
            else:
                self._ask(run, run.limits.ceiling_s)
        except NoRoom as reason:
            asyncio.get_running_loop().call_soon(self._leased, run, reason)
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            asyncio.get_running_loop().call_soon(self._break_off, run, fault)
        return run

    def client_left(self, run: JobRun) -> None:
        """Take note that the job's client has hung up: if an attempt is running, the next identical job gets it."""
        try:
            if self._adoption is not None and run.is_awaited and run.sharing is None:
                self._adoption.leave_run(run)
        except Exception:
            log.exception(_OWN_FAULT, run.job.request_id.decode("ascii"))

    async def finish(self) -> None:
        """Return when no attempt is running, not even for a client that has left: each still ends a lease.

        Attempts that take too long are not waited for; their leases pass by themselves.
        """
        others = self._adoption
        while self._attempts or self._between or (others is not None and others.is_busy):  # noqa: ASYNC110  (an event set for each job costs more)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _ask_by_size(self, run: JobRun) -> None:
        """Ask for the first lease of a job whose size must be looked up before."""
        try:
            await self._sizing.look_up(run)
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            self._break_off(run, fault)
        else:
            await self._ask_again(run, ())

    # Its lease

    def _ask(self, run: JobRun, left_s: float, tried: tuple[str, ...] = (), retry_of: str = "") -> None:
        """Ask for a lease on a worker not in `tried`; the client waits for another `left_s` seconds."""
        is_skipped = run.group is not None and self.groups.has_failed(run.group)
        if is_skipped or left_s <= 0:
            answer = answers.skipped(run) if is_skipped else self._errors.deadline_passed(run)
            asyncio.get_running_loop().call_soon(self._endings.end, run, answer)
            return
        bound_s, wait_s = run.limits.bound_s + LEASE_MARGIN_S, min(run.room_by - run.ends_at + left_s, left_s)
        asked = bound_s, wait_s, run.job.has_left, partial(self._leased, run)
        run.pending = self._leases.ask(*asked, run.ticket, tried, retry_of, run.since, run.placement, run.wish)

    def _leased(self, run: JobRun, lease: Lease | NoRoom) -> None:
        """Go on with a lease, or with the reason why there is none."""
        pending, run.pending = run.pending, None
        try:
            if isinstance(lease, Lease):
                run.lease = lease
                if run.deliver is None:  # the job has been broken off
                    run.give_lease_back(self._leases)
                else:
                    self._attempt(run, lease)
            elif isinstance(lease, Exhausted):
                self._ask_any(run)
            elif run.sharing is not None:
                self.reuse.refuse(run, lease, pending)
            elif self._adoption is not None:
                self._adoption.refuse(run, lease, pending)
            else:
                self._endings.refuse(run, lease, pending)
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            self._break_off(run, fault)

    def _skip(self, run: JobRun) -> None:
        """Answer a job whose group has failed, if it is pending or waits for an identical one's run."""
        if run.pending is not None:
            self._leases.give_up(run.pending)
        if run.pending is not None or (run.sharing is not None and run in run.sharing.waits):
            self._endings.end(run, answers.skipped(run))  # an identical job gets its place
            run.pending = None

    # Its attempt

    def _attempt(self, run: JobRun, lease: Lease) -> None:
        run.ticket = lease.ticket
        if lease.is_adopted:
            run.is_adopted = True
            self._recorder.adopted(run.placement.tenant)
        run.queue_ms += lease.waited_ms
        if run.is_retry:
            run.is_retry = False
            self._recorder.retried(run.failed[-1].kind)
        run.began = now = time.monotonic()
        bound_s = run.limits.bound_s
        if run.ends_at - now < bound_s:
            loop, left_s = asyncio.get_running_loop(), max(0.0, run.ends_at - now)
            late = (left_s - NOTICE_S, self._be_nearly_late) if self._left_behind.is_on else (left_s, self._be_late)
            run.timer = loop.call_later(*late, run)
        self._attempts += 1
        run.is_awaited = True
        request = run.request if run.hooks is None else run.hooks.attempt_begins(lease.url, run.request)
        then = self._attempted if run.job.scan is None else self._heard
        self._upstream.send(lease.url, request, bound_s, partial(then, run, lease, now))

    def _be_nearly_late(self, run: JobRun) -> None:
        self._left_behind.expect()
        run.timer = asyncio.get_running_loop().call_later(max(0.0, run.ends_at - time.monotonic()), self._be_late, run)

    def _be_late(self, run: JobRun) -> None:
        """Tell the client that its job takes too long. The attempt and its lease go on."""
        try:
            self._await_no_more(run)
            if run.deliver is None:  # it has been abandoned
                return
            run.late_share = run.job.share.hand_over()
            if self._adoption is not None and run.sharing is None:
                self._adoption.leave_run(run)
            if not self._endings.end_with_spare(run):
                self._endings.end(run, self._errors.deadline_passed(run))
        except Exception as fault:
            log.exception(_OWN_FAULT, run.job.request_id.decode("ascii"), exc_info=fault)
            self._endings.end(run, answers.broken(run.job.request_id))

    def _await_no_more(self, run: JobRun) -> None:
        if run.timer is not None:
            run.timer.cancel()
        if run.is_awaited:
            self._attempts -= 1
            run.is_awaited = False

    def _heard(self, run: JobRun, lease: Lease, since: float, outcome: Response | UpstreamFailed) -> None:
        """Hear how a large job's attempt went. Where its name may be told, it is hashed before."""
        then = partial(self._attempted, run, lease, since, outcome)
        if run.failed or isinstance(outcome, UpstreamFailed) or outcome.head.status != HTTPStatus.OK:
            self._hashing.then(run.job, then)
        else:
            then()

    def _attempted(self, run: JobRun, lease: Lease, since: float, outcome: Response | UpstreamFailed) -> None:
        """Go on after an attempt: with its answer, with a retry or with an error."""
        answer = None
        try:
            if run.second is not None and run.second.is_beside and self._hedging is not None:
                self._hedging.end_one_of_two(run, run.second, lease, since, outcome)
                return
            if run.is_awaited:
                self._attempts -= 1
                run.is_awaited = False
            if run.timer is not None:
                run.timer.cancel()
            if run.lease is not lease:  # the job has been broken off
                close_rest(outcome)
                return
            answer = self._judge.judged(run, lease, since, outcome)
            if answer is not None:
                self._endings.end(run, answer)
            elif run.deliver is None:
                self._endings.end_unheard(run)
            else:
                self._failed(run, lease)
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            close_rest(outcome if answer is None else answer)
            self._break_off(run, fault)

    # The next one

    def _failed(self, run: JobRun, lease: Lease) -> None:
        """Go on after an attempt without a result."""
        if self._endings.end_with_spare(run):
            return
        if run.never_ran is Kind.NO_MEANS:
            # Another worker is preferred: a worker's address that this host has no route to looks the same.
            start(self._between, self._ask_again(run, (*run.tried, lease.url), pause_s=_NO_MEANS_S))
        elif run.never_ran is not None:  # it keeps its place in the queue, by its ticket
            self._wait_again(run, run.never_ran)
        elif is_worth_another(run.kinds, self._retry):
            start(self._between, self._ask_again(run, run.tried, is_retry=True))
        else:
            self._endings.end(run, self._errors.failed(run))

    async def _ask_again(
        self, run: JobRun, tried: tuple[str, ...], *, is_retry: bool = False, pause_s: float = 0.0
    ) -> None:
        """Ask for the next lease of a job, after a pause, unless its client has left."""
        try:
            if is_retry:
                await self.turns.run(run.job.hash_body())
            if pause_s:
                await asyncio.sleep(min(pause_s, max(0.0, run.ends_at - time.monotonic())))
            if await run.job.is_abandoned() or run.deliver is None:  # cancelled meanwhile
                self._endings.refuse(run, ClientLeft())
            else:
                now = time.monotonic()
                run.room_by, run.is_retry = now + self._queue_timeout_s, is_retry
                self._ask(run, run.ends_at - now, tried, run.job.name if is_retry else "")
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            self._break_off(run, fault)

    def _wait_again(self, run: JobRun, cause: Kind) -> None:
        """Let a job that its worker did not run wait again; but not if it could reach no worker for long enough."""
        if cause is Kind.NOT_SENT and self._leases.is_enough_for(run.since, run.placement.pool):
            self._endings.refuse(run, NoWorkers())
            return
        self._recorder.retried(cause)
        self._ask(run, run.ends_at - time.monotonic(), run.tried)

    def _ask_any(self, run: JobRun) -> None:
        """Let a job that has tried all workers try any of them; its retry is counted already.

        From then on its unreached workers count as failed attempts, unless no worker of its pool can be reached.
        """
        unreached, run.unreached = run.unreached, ()
        if unreached and self._leases.has_workers(run.placement.pool):
            run.failed += unreached
            if not is_worth_another(run.kinds, self._retry):
                self._endings.end(run, self._errors.failed(run))
                return
        self._ask(run, run.ends_at - time.monotonic())

    def _run_itself(self, run: JobRun) -> None:
        """Let a job ask for a lease that has got another one's run, but no answer."""
        try:
            run.room_by = (now := time.monotonic()) + self._queue_timeout_s
            self._ask(run, run.ends_at - now, run.tried)
        except Exception as fault:  # noqa: BLE001  (else the client would wait for ever)
            self._break_off(run, fault)

    def _abandon(self, run: JobRun) -> None:
        """End a job whose caller was cancelled; a running attempt goes on and ends its lease."""
        self._endings.leave(run)
        if run.pending is not None:
            self._leases.give_up(run.pending)
        elif run.lease is not None:
            run.late_share = run.job.share.hand_over()
            self.client_left(run)
        elif self._adoption is not None:
            self._adoption.give_back(run)

    def _break_off(self, run: JobRun, fault: Exception) -> None:
        """Answer a job that met with a fault of this program, and give back what the job holds."""
        request_id = run.job.request_id
        log.error(_OWN_FAULT, request_id.decode("ascii"), exc_info=fault)
        try:
            self._await_no_more(run)
            if run.pending is not None:
                self._leases.give_up(run.pending)
            if self._adoption is not None:
                self._adoption.end_run(run, None, "")
                self._adoption.give_back(run)
            run.give_lease_back(self._leases)
        except Exception:
            log.exception("And what it held could not be given back")
        self._endings.end(run, answers.broken(request_id))
