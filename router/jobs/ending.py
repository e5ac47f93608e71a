"""How a job ends: its answer is delivered once, counted and logged; or its client has left, or it gets no lease."""

import time
from collections.abc import Mapping

from router.http import headers
from router.http.answer import Answer, close_rest
from router.http.response import Response, UpstreamFailed
from router.jobs import answers, job_log
from router.jobs.answers import ErrorAnswers
from router.jobs.job import JobRun, Unanswered
from router.jobs.job_log import CLIENT_LEFT_STATUS
from router.jobs.sooner.groups import Groups
from router.policy.endpoints import Endpoint
from router.policy.verdict import Outcome
from router.scheduling.leases import Leases
from router.scheduling.pending import ClientLeft, NoRoom, PendingJob, QueueFull, TenantFull, Unfunded
from router.telemetry.recorder import Recorder

_RESULT = Outcome.RESULT


class Endings:
    """Ends jobs. `unanswered` are those of this process without an answer; `groups` those of its jobs."""

    def __init__(
        self,
        unanswered: Unanswered,
        leases: Leases,
        recorder: Recorder,
        errors: ErrorAnswers,
        groups: Groups,
        endpoints: Mapping[str, Endpoint],
    ) -> None:
        self._unanswered = unanswered
        self._leases = leases
        self._recorder = recorder
        self._errors = errors
        self._groups = groups
        self._endpoints = endpoints

    def end(self, run: JobRun, answer: Answer) -> None:
        """Deliver the answer, if the job has had none."""
        deliver, run.deliver = run.deliver, None
        if deliver is None:
            close_rest(answer)
            self.end_unheard(run)
            return
        del self._unanswered[run]
        try:
            if run.group is not None:
                self._groups.leave(run.group, run)
            if run.sharing is not None:
                run.sharing.leave(run)
            if run.job.tenant:
                answer = answer.with_field(headers.TENANT, run.job.tenant.encode("ascii"))
            if run.doubts:
                run.drop_doubts(self._leases)
            took_s = time.monotonic() - run.since
            self._recorder.job_ended(run.job.path, answer.status, answer.outcome, took_s, run.placement.tenant)
            if run.hooks is not None:
                run.hooks.job_ends(answer.status, answer.outcome, run.placement.pool)
            if answer.outcome is not _RESULT:
                job_log.failed(run, answer.status, answer.outcome, took_s)
                self._keep(run, answer, took_s)
        finally:
            deliver(answer)

    def end_with_anothers(self, run: JobRun, response: Response, worker_url: str, attempt: int) -> None:
        """End a job with the answer of another run: of another job's, or of its own first one."""
        if run.group is not None:
            self._groups.take(run.group, run.job.path, response)
        self.end(run, answers.from_worker(response, run, worker_url, attempt))

    def end_with_spare(self, run: JobRun) -> bool:
        """End a job with the doubtful answer of its first run, if it has one; return whether it has."""
        spare = None if run.second is None else run.second.spare
        if spare is None:
            return False
        self.end_with_anothers(run, *spare)
        return True

    def end_unheard(self, run: JobRun) -> None:
        """End the run of a job whose client has had another answer, or has left."""
        if run.sharing is not None:
            run.sharing.leave(run)
        run.release_late_share()
        run.drop_doubts(self._leases)

    def leave(self, run: JobRun) -> None:
        """End a job whose client has left."""
        deliver, run.deliver = run.deliver, None
        self._unanswered.pop(run, None)
        try:
            if run.group is not None:
                self._groups.leave(run.group, run)
            self.end_unheard(run)
            if deliver is not None:
                ending = CLIENT_LEFT_STATUS, Outcome.CLIENT_LEFT, time.monotonic() - run.since
                self._recorder.job_ended(run.job.path, *ending, run.placement.tenant)
                if run.hooks is not None:
                    run.hooks.job_ends(CLIENT_LEFT_STATUS, Outcome.CLIENT_LEFT, run.placement.pool)
                job_log.failed(run, *ending)
        finally:
            if deliver is not None:
                deliver(None)

    def cut(self, run: JobRun, status: int, failure: UpstreamFailed) -> None:
        """Count and log a large answer that its worker has broken off."""
        took_s = time.monotonic() - run.since
        self._recorder.answer_cut(failure.worker_url, run.placement.tenant)
        job_log.answer_cut(run, status, took_s, failure)
        if self._recorder.keeps_failures:
            kept = job_log.cut_job(run, status, took_s, self._language(run), failure)
            self._recorder.job_failed(time.monotonic(), kept)

    def refuse(self, run: JobRun, reason: NoRoom, pending: PendingJob | None = None) -> None:
        """End a job that gets no lease; `pending` has waited for one."""
        if pending is not None:
            run.queue_ms += int((time.monotonic() - pending.since) * 1000)
        if isinstance(reason, ClientLeft):
            self.leave(run)
            return
        if isinstance(reason, Unfunded):
            self._recorder.retry_unfunded()
        elif isinstance(reason, TenantFull):
            self._recorder.crowded(run.placement.tenant)
        elif isinstance(reason, QueueFull):
            self._recorder.queue_was_full()
        self.end(run, self._errors.refused(run, reason))

    def _keep(self, run: JobRun, answer: Answer, took_s: float) -> None:
        """Keep for the journal a job that has failed by no fault of its client."""
        if answer.outcome.is_error and self._recorder.keeps_failures:
            self._recorder.job_failed(time.monotonic(), job_log.failed_job(run, answer, took_s, self._language(run)))

    def _language(self, run: JobRun) -> str:
        return self._endpoints[run.job.path].needs.needs(run.text).language
