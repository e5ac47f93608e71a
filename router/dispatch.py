"""A job's way, from start to end: its limits, a lease, a worker, its answer; or the next worker; or an error.

Read top to bottom, nothing walks back. It waits for leases and workers, and decides nothing itself: who gets the job
stands in the exchange; how long it may take, what an answer means and whether it is tried again, in policy.
"""

import asyncio
import logging
import time

import msgspec

from router import answers, headers
from router.answers import Answer, FailedAttempt
from router.bodies import Share
from router.fleet.exchange import Blame
from router.job import MAY_BE_THE_JOBS, Job, LeasedParts
from router.leases import Leases
from router.policy.deadline import Limits, limits_of, longest_run_s
from router.policy.retry import RetryRules, is_jobs_own, is_worth_another
from router.policy.verdict import Kind, Outcome, Verdict, of_answer
from router.settings import Settings
from router.tally import Tally
from router.upstream import Request, Upstream, UpstreamFailed
from router.view import FleetView
from router.waiter import (
    ClientLeft,
    Exhausted,
    Lease,
    NoWorkers,
    Quarantined,
    QueueFull,
    QueueTimeout,
    Unfunded,
)
from router.wire import Phase, Response

log = logging.getLogger(__name__)

# As nginx counts a client that hung up before its answer: nobody gets it.
CLIENT_LEFT_STATUS = 499
# A lease is a little longer than the attempt that it is for, so that none passes while its attempt still runs.
LEASE_MARGIN_S = 1.0

_BROKEN = {
    Phase.CONNECT: (Kind.NOT_SENT, Blame.FAULT),
    Phase.DIED: (Kind.DIED, Blame.DIED),
    Phase.GARBLED: (Kind.FAULT, Blame.FAULT),
    Phase.TIMED_OUT: (Kind.TIMED_OUT, Blame.FAULT),
}


class DeadlinePassed(Exception):
    """The job's client waits no longer."""


class _Course(msgspec.Struct):
    """How far a job has come. `ends_at` (time.monotonic) its client has its answer, whatever it is."""

    job: Job
    request: Request
    limits: Limits
    ends_at: float
    ticket: int = 0
    queue_ms: int = 0
    failed: list[FailedAttempt] = []

    @property
    def left_s(self) -> float:
        """For how long its client waits yet."""
        return self.ends_at - time.monotonic()

    @property
    def is_suspect(self) -> bool:
        """Whether a worker has broken down while it ran this job."""
        return bool(self.failed) and any(attempt.kind is Kind.DIED for attempt in self.failed)


class Dispatcher:
    """Brings jobs to workers."""

    def __init__(self, leases: Leases, upstream: Upstream, view: FleetView, settings: Settings, tally: Tally) -> None:
        self._leases = leases
        self._upstream = upstream
        self._view = view
        self._settings = settings
        self._tally = tally
        self._retry = RetryRules(settings.retry.attempts, settings.retry.sandbox_error)
        # Attempts whose clients have been told that it takes too long.
        self._late: set[asyncio.Task[None]] = set()

    async def run(self, job: Job) -> Answer:
        """Return the answer to `job`, and count it. A failed attempt goes on to a worker not tried yet.

        Raises ClientLeft.
        """
        settings, statuses = self._settings, self._settings.error_status
        since = time.monotonic()
        limits = self._limits(job)
        try:
            if (known := self._view.snapshot.state.quarantined) and job.name in known:
                raise Quarantined
            block = headers.for_worker(job.lines, job.body, job.request_id)
            ends_at = since + limits.ceiling_s
            answer = await self._run(_Course(job, Request(job.method, job.target, block, job.body), limits, ends_at))
        except NoWorkers:
            answer = answers.no_healthy_workers(statuses.no_workers, job.request_id)
        except QueueFull:
            answer = answers.queue_full(statuses.queue_full, settings.queue.max_waiting, job.request_id)
        except QueueTimeout:
            waited_s = min(settings.queue.timeout, limits.ceiling_s)
            answer = answers.queue_timeout(statuses.queue_timeout, waited_s, job.request_id)
        except DeadlinePassed:
            answer = answers.deadline_passed(statuses.queue_timeout, limits.ceiling_s, job.request_id)
        except Quarantined:
            answer = answers.quarantined(settings.quarantine_seconds, job.request_id)
        except ClientLeft:
            self._tally.job_ended(job.path, CLIENT_LEFT_STATUS, Outcome.CLIENT_LEFT, time.monotonic() - since)
            raise
        self._tally.job_ended(job.path, answer.status, answer.outcome, time.monotonic() - since)
        return answer

    def _limits(self, job: Job) -> Limits:
        settings = self._settings
        return limits_of(
            longest_run_s(job.path, job.body),
            job.client_s,
            grace_s=settings.job_grace,
            timeout_s=settings.timeout,
            is_budget_by_job=settings.client_budget == "job",
        )

    async def _run(self, course: _Course) -> Answer:
        failed, request_id = course.failed, course.job.request_id
        is_unfunded = False
        while True:
            try:
                lease = await self._lease(course)
            except Unfunded:
                self._tally.retry_unfunded()
                is_unfunded = True
                break
            if failed:
                self._tally.retried(failed[-1].kind)
            outcome = await self._attempt_in_time(course, lease)
            if isinstance(outcome, Response):
                return answers.from_worker(outcome, lease.url, len(failed) + 1, course.queue_ms, request_id)
            failed.append(outcome)
            if not is_worth_another([attempt.kind for attempt in failed], self._retry):
                break
            if await course.job.is_abandoned():
                raise ClientLeft
        last = failed[-1]
        if last.response is not None and is_jobs_own([attempt.kind for attempt in failed], self._retry):
            own = answers.from_worker(last.response, last.worker_url, len(failed), course.queue_ms, request_id)
            return msgspec.structs.replace(own, outcome=Outcome(last.kind))
        status = self._settings.error_status.all_failed
        return answers.all_failed(status, failed, request_id, is_unfunded=is_unfunded)

    async def _lease(self, course: _Course) -> Lease:
        """Return a lease on a worker not tried yet; where none is left, on any."""
        left_s = course.left_s
        if left_s <= 0:
            raise DeadlinePassed
        job, wait_s = course.job, min(self._settings.queue.timeout, left_s)
        bound_s = course.limits.bound_s + LEASE_MARGIN_S
        tried = tuple([attempt.worker_url for attempt in course.failed])
        retry_of = job.name if tried else ""
        try:
            lease = await self._leases.lease(bound_s, wait_s, job.has_left, course.ticket, tried, retry_of)
        except Exhausted:  # by then the retry has been counted
            lease = await self._leases.lease(bound_s, wait_s, job.has_left, course.ticket)
        course.ticket = lease.ticket
        course.queue_ms += lease.waited_ms
        return lease

    async def _attempt_in_time(self, course: _Course, lease: Lease) -> Response | FailedAttempt:
        """Make one attempt. Where its client stops waiting first, it goes on by itself, and its lease with it.

        Raises DeadlinePassed.
        """
        if course.left_s >= course.limits.bound_s:
            return await self._attempt(course, lease)
        attempt = asyncio.create_task(self._attempt(course, lease))
        await asyncio.wait((attempt,), timeout=max(0.0, course.left_s))
        if attempt.done():
            return attempt.result()
        late = asyncio.create_task(_let_end(attempt, course.job.share.hand_over()))
        self._late.add(late)
        late.add_done_callback(self._late.discard)
        raise DeadlinePassed

    async def _attempt(self, course: _Course, lease: Lease) -> Response | FailedAttempt:
        """Make one attempt, and say in the exchange how it went."""
        job, response, since = course.job, None, time.monotonic()
        try:
            response = await self._upstream.send(lease.url, course.request, course.limits.bound_s)
        except UpstreamFailed as failure:
            kind, blame = _BROKEN[failure.phase]
            verdict = Verdict(kind, blame, failure.cause)
        else:
            verdict = _verdict(job, response)
        self._tally.attempt_ended(lease.url, verdict.kind, time.monotonic() - since)
        if response is not None and response.rest is not None:
            if verdict.cause is None:
                rest = LeasedParts(response.rest, self._leases, lease, verdict.blame, job, self._tally)
                return msgspec.structs.replace(response, rest=rest)
            await response.rest.aclose()
        is_named = verdict.blame in MAY_BE_THE_JOBS or course.is_suspect
        # A worker that timed out still runs the job: its lease stays to the end of its moment.
        is_over = verdict.kind is not Kind.TIMED_OUT
        self._leases.end(lease, verdict.blame, is_over=is_over, job=job.name if is_named else "")
        if response is not None and verdict.cause is None:
            return response
        log.warning("Worker %s %s", lease.url, verdict.cause)
        own = response if response is not None and response.rest is None else None
        return FailedAttempt(lease.url, verdict.cause or "", verdict.kind, own)


def _verdict(job: Job, response: Response) -> Verdict:
    is_packed, is_whole = headers.is_packed(response.headers), response.rest is None
    return of_answer(job.path, response.status, response.body, is_whole=is_whole, is_packed=is_packed)


async def _let_end(attempt: asyncio.Task[Response | FailedAttempt], share: Share) -> None:
    with share:  # it holds the body to its end
        outcome = await attempt
        if isinstance(outcome, Response) and outcome.rest is not None:
            await outcome.rest.aclose()
