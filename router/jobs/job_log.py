"""Writes one log line for each failed attempt and one for each job that ends without a result.

A failed job is found by its x-request-id, with its attempts, their workers and why each failed: as text, or as fields
of a JSON line. A job's code is never logged.
"""

import json
import logging
from collections.abc import Sequence
from http import HTTPStatus

from router.http.answer import Answer
from router.http.headers import TENANT
from router.http.response import UpstreamFailed
from router.jobs.job import JobRun
from router.logs import Seldom
from router.policy.verdict import Kind, Outcome

log = logging.getLogger(__name__)

# The status under which a job is counted whose client hung up before its answer; as in nginx, nobody gets it.
CLIENT_LEFT_STATUS = 499
_LEVELS: dict[str, int] = {Outcome.CLIENT_LEFT: logging.INFO, Outcome.SKIPPED: logging.DEBUG}
_UNENDED = "has not answered yet"
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
    _tell(job.request_id, job.path, job.admission.key_name, job.tenant, status, "answer_cut", took_s, attempts)


def unheard(path: str, answer: Answer, when: str = "when its client had left") -> None:
    """Log that no client has received a job's whole result. A job that failed has its line already."""
    if answer.outcome is Outcome.RESULT:
        fields = dict(answer.headers)
        attempt = fields[b"x-router-worker"].decode("ascii"), f"answered {answer.status} {when}"
        tenant = fields.get(TENANT, b"").decode("ascii")
        _tell(fields[b"x-request-id"], path, "", tenant, CLIENT_LEFT_STATUS, Outcome.CLIENT_LEFT, None, [attempt])


def refused(request_id: bytes, path: str, key_name: str, answer: Answer, tenant: str = "") -> None:
    """Log an error answer to a request that never became a job; not one that is the client's own fault."""
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.is_passing:
        detail = json.loads(answer.body)["detail"]
        _tell(request_id, path, key_name, tenant, answer.status, answer.outcome, None, (), detail)


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
