"""What the end of an attempt means: what it tells of its worker and of its job, and the job's answer."""

import time
from functools import partial

import msgspec

from router.http.answer import Answer
from router.http.response import Response, UpstreamFailed
from router.jobs import answers, job_log
from router.jobs.ending import Endings
from router.jobs.job import MAY_BE_THE_JOBS, FailedAttempt, JobRun, SecondRun
from router.jobs.sooner.adoption import Adoption
from router.jobs.sooner.groups import Groups
from router.jobs.sooner.reuse import Reuse
from router.jobs.sooner.sizing import Sizing
from router.jobs.streaming import LeasedParts
from router.logs import Seldom
from router.policy.retry import RetryRules
from router.policy.verdict import Blame, Kind, Verdict
from router.scheduling.leases import Leases
from router.scheduling.pending import Lease
from router.telemetry.recorder import Recorder

_TIMED = frozenset({Blame.AWAY, Blame.DIED})  # for these the scheduler wants to know how long the attempt took


class Judge:
    """Judges attempts. `adoption` takes the answers of runs whose clients have gone; None if nobody may have them."""

    def __init__(
        self,
        leases: Leases,
        recorder: Recorder,
        retry: RetryRules,
        sizing: Sizing,
        groups: Groups,
        endings: Endings,
        adoption: Adoption | None,
        reuse: Reuse,
    ) -> None:
        self._leases = leases
        self._recorder = recorder
        self._retry = retry
        self._sizing = sizing
        self._groups = groups
        self._endings = endings
        self._adoption = adoption
        self._reuse = reuse
        self._seldom = Seldom()

    def judged(self, run: JobRun, lease: Lease, since: float, outcome: Response | UpstreamFailed) -> Answer | None:
        """Tell the scheduler how an attempt went. Return its answer; None if it failed, which `run` then knows."""
        job, url = run.job, lease.url
        response = None if isinstance(outcome, UpstreamFailed) else outcome
        verdict = job.verdict_on(outcome)
        kind, blame, took_s = verdict.kind, verdict.blame, time.monotonic() - since
        self._recorder.attempt_ended(url, kind, took_s, run.placement.tenant)
        if run.hooks is not None:
            run.hooks.attempt_ends(url, outcome, kind)
        if run.doubts and blame is Blame.OK:  # so the errors before were the workers' own
            self._leases.resolve(run.doubts, Blame.ERROR, job.name)
            run.doubts = ()
        if response is not None and response.rest is not None and verdict.cause is None:
            told = partial(self._endings.cut, run, response.head.status)
            is_suspect = bool(run.failed) and run.is_suspect
            rest = LeasedParts(response.rest, self._leases, lease, blame, job, told, since, is_suspect)
            response = msgspec.structs.replace(response, rest=rest)
        else:
            if blame is Blame.ERROR and self._retry.asks_another(kind):
                blame = Blame.DOUBT
                run.doubts = (*run.doubts, (lease, verdict.cause or ""))
            is_named = blame in MAY_BE_THE_JOBS or (run.failed and run.is_suspect)
            # A worker that timed out still runs the job, so its lease stays until its moment has passed.
            is_over = kind is not Kind.TIMED_OUT
            ms = int(took_s * 1000) if blame in _TIMED else verdict.rest_ms
            named, cause = job.name if is_named else "", verdict.cause or ""
            self._leases.end(lease, blame, is_over=is_over, job=named, cause=cause, ms=ms)
            run.lease = None
        if response is None or verdict.cause is not None:
            self._fail(run, url, verdict, response, took_s)
            return None
        if run.is_sized and blame is Blame.OK:
            self._sizing.learn(run, url, response, took_s)
        if run.second is not None and run.second.lease is lease:
            answer = self._answer_of_second(run, run.second, response, url)
        else:
            answer = answers.from_worker(response, run, url, len(run.failed) + 1)
        run.lease = None  # LeasedParts ends the lease of a large answer
        is_doubtful = run.second is not None and run.second.is_doubtful
        if not is_doubtful and (run.group is not None or run.sharing is not None or run.left is not None):
            self._tell_others(run, response, url, took_s)
        return answer

    def _tell_others(self, run: JobRun, response: Response, url: str, took_s: float) -> None:
        """Let other jobs know of the answer: those of its group, those that share its run, the one that has got it."""
        if run.group is not None:
            self._groups.take(run.group, run.job.path, response)
        if run.sharing is not None:
            self._reuse.bring(run, response, url, took_s)
        if run.left is not None:
            self._end_left(run, response, url)

    def _fail(self, run: JobRun, url: str, verdict: Verdict, response: Response | None, took_s: float) -> None:
        """Keep an attempt without a result."""
        if response is not None and response.rest is not None:
            response.rest.close()
            response = None
        cause = verdict.cause or ""
        job_log.attempt_failed(run, url, verdict.kind, cause, self._seldom)
        run.fail(FailedAttempt(url, cause, verdict.kind, response, int(took_s * 1000)), took_s)
        if run.left is not None and not run.has_two_runs:
            self._end_left(run)

    def _end_left(self, run: JobRun, response: Response | None = None, worker_url: str = "") -> None:
        if self._adoption is not None:
            self._adoption.end_run(run, response, worker_url)

    def _answer_of_second(self, run: JobRun, second: SecondRun, response: Response, url: str) -> Answer:
        if run.deliver is not None:
            self._recorder.hedge_counted()
        return answers.from_worker(response, run, url, second.attempt, is_hedged=True)
