"""Writes one log line for each failed attempt and one for each job that ends without a result, and keeps the latter.

A failed job is found by its x-request-id, with its attempts, their workers and why each failed: as text, as fields of a
JSON line, or in the fleet's journal. A job's code is never logged, and what it printed never kept.
"""

import json
import logging
import time
from collections.abc import Sequence
from http import HTTPStatus

from router.fleet.journal.failed_job import FailedJob, FailedTry
from router.http.answer import Answer
from router.http.headers import TENANT
from router.http.response import UpstreamFailed
from router.jobs.job import JobRun
from router.logs import Seldom
from router.policy.tenants import DEFAULT
from router.policy.verdict import Kind, Outcome
from router.telemetry.recorder import Recorder

log = logging.getLogger(__name__)

# The status under which a job is counted whose client hung up before its answer; as in nginx, nobody gets it.
CLIENT_LEFT_STATUS = 499
_LEVELS: dict[str, int] = {Outcome.CLIENT_LEFT: logging.INFO, Outcome.SKIPPED: logging.DEBUG}
_UNENDED = "has not answered yet"
# In place of an Outcome, for a job that had counted as one with a result.
ANSWER_CUT = "answer_cut"
# With these outcomes the answer is a worker's, and the journal keeps nothing of it.
_WORKERS = frozenset({Outcome.ERROR, Outcome.SANDBOX_ERROR})
_CUT = "when a part of its answer had gone to the client"


def attempt_failed(run: JobRun, worker_url: str, kind: Kind, cause: str, seldom: Seldom) -> None:
    """Log that an attempt has brought no result; `cause` is prose without its subject.

    A lack of file handles on this host, or a worker without room, concerns many jobs: it is logged once a minute.
    """
    if kind is Kind.NO_MEANS:
        if seldom.is_due(kind):
            log.warning("Jobs wait, for this host cannot connect to workers: %s", cause)
        return
    if kind is Kind.BUSY:
        if seldom.is_due(worker_url):
            log.warning("Worker %s %s: it has no room, and gets as many jobs as it takes", worker_url, cause)
        return
    job, attempt = run.job, len(run.failed) + 1
    request_id = job.request_id.decode("ascii")
    log.warning(
        "Worker %s %s (job %s, %s, attempt %d)",
        *(worker_url, cause, request_id, job.path, attempt),
        extra={
            "worker_url": worker_url,
            "cause": cause,
            "request_id": request_id,
            "path": job.path,
            "tenant": job.tenant or None,
            "attempt": attempt,
        },
    )


def failed(run: JobRun, status: int, outcome: Outcome, took_s: float) -> None:
    """Log that a job has ended without a result."""
    attempts = _ended(run)
    # An attempt may still run: its client has been told, or has left.
    attempts += [(lease.url, _UNENDED) for lease in run.under_way]
    job = run.job
    _tell(job.request_id, job.path, job.admission.key_name, job.tenant, status, outcome, took_s, attempts)


def answer_cut(run: JobRun, status: int, took_s: float, failure: UpstreamFailed) -> None:
    """Log that a worker has broken off a large answer; the client has a part of it, so no retry can follow."""
    job = run.job
    attempts = [*_ended(run), (failure.worker_url, f"{failure.cause}, {_CUT}")]
    _tell(job.request_id, job.path, job.admission.key_name, job.tenant, status, ANSWER_CUT, took_s, attempts)


def failed_job(run: JobRun, answer: Answer, took_s: float, language: str) -> FailedJob:
    """Return what the journal keeps of a job that ended without a result."""
    ran_ms = int((run.since + took_s - run.began) * 1000)
    under_way = [FailedTry(lease.url, _UNENDED, ran_ms) for lease in run.under_way]
    detail = "" if answer.outcome in _WORKERS else _detail(answer)
    return _kept(run, answer.status, answer.outcome, took_s, language, under_way, detail)


def cut_job(run: JobRun, status: int, took_s: float, language: str, failure: UpstreamFailed) -> FailedJob:
    """Return what the journal keeps of a job whose answer its worker has broken off."""
    cut = FailedTry(failure.worker_url, f"{failure.cause}, {_CUT}")
    return _kept(run, status, ANSWER_CUT, took_s, language, [cut])


def unheard(path: str, answer: Answer, when: str = "when its client had left") -> None:
    """Log that no client has received a job's whole result. A job that failed has its line already."""
    if answer.outcome is Outcome.RESULT:
        fields = dict(answer.headers)
        attempt = fields[b"x-router-worker"].decode("ascii"), f"answered {answer.status} {when}"
        tenant = fields.get(TENANT, b"").decode("ascii")
        _tell(fields[b"x-request-id"], path, "", tenant, CLIENT_LEFT_STATUS, Outcome.CLIENT_LEFT, None, [attempt])


def refused(recorder: Recorder, request_id: bytes, path: str, key_name: str, answer: Answer, tenant: str = "") -> None:
    """Log and keep an error answer to a request that never became a job; not one that is the client's own fault."""
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.is_passing:
        detail = _detail(answer)
        _tell(request_id, path, key_name, tenant, answer.status, answer.outcome, None, (), detail)
        if answer.outcome.is_error and recorder.keeps_failures:
            said = request_id.decode("ascii"), tenant or DEFAULT, path, "", answer.status, str(answer.outcome)
            recorder.job_failed(time.monotonic(), FailedJob(*said, detail=detail))


def _detail(answer: Answer) -> str:
    """Return what the router's own answer says."""
    return str(json.loads(answer.body)["detail"])


def _kept(
    run: JobRun,
    status: int,
    outcome: str,
    took_s: float,
    language: str,
    more: Sequence[FailedTry],
    detail: str = "",
) -> FailedJob:
    """Return a failed job whose last attempts are `more`."""
    job = run.job
    attempts = [FailedTry(each.worker_url, each.cause, each.took_ms) for each in (*run.failed, *run.unreached)]
    return FailedJob(
        job.request_id.decode("ascii"),
        job.tenant or DEFAULT,
        job.path,
        language,
        status,
        str(outcome),
        int(took_s * 1000),
        run.queue_ms,
        detail,
        (*attempts, *more),
    )


def _ended(run: JobRun) -> list[tuple[str, str]]:
    return [(attempt.worker_url, attempt.cause) for attempt in run.failed]


# `attempts`: each worker's URL, and why it brought no result, as prose without its subject.
def _tell(
    request_id: bytes,
    path: str,
    key_name: str,
    tenant: str,
    status: int,
    verdict: str,
    took_s: float | None,
    attempts: Sequence[tuple[str, str]],
    detail: str = "",
) -> None:
    name = request_id.decode("ascii")
    log.log(
        _LEVELS.get(verdict, logging.WARNING),
        "Job %s failed: %d %s%s, %s%s%s%s%s",
        name,
        status,
        verdict,
        "" if took_s is None else f" after {took_s:.3f} s",
        path,
        f", key {key_name}" if key_name else "",
        f", tenant {tenant}" if tenant != key_name else "",
        f"; {detail}" if detail else "",
        "".join([f"; {worker_url} {cause}" for worker_url, cause in attempts]),
        extra={
            "request_id": name,
            "key_name": key_name or None,
            "tenant": tenant or None,
            "path": path,
            "status": status,
            "verdict": str(verdict),
            "seconds": None if took_s is None else round(took_s, 3),
            "attempts": [{"worker_url": worker_url, "cause": cause} for worker_url, cause in attempts],
        },
    )
