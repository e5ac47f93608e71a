"""What a job's client gets: a worker's answer with `router_metadata`, or the router's own `{"detail": …}`."""

from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Self

import msgspec

from router.config.settings import Settings
from router.http.answer import Answer, problem
from router.http.headers import as_lines
from router.http.response import Parts, Response
from router.jobs import metadata
from router.jobs.job import FailedAttempt, JobRun
from router.jobs.tenants import Tenants
from router.policy.placement import MAX_POOLS
from router.policy.retry import RetryRules, is_jobs_own
from router.policy.tenants import DEFAULT
from router.policy.verdict import Outcome
from router.scheduling.pending import (
    NoRoom,
    NoSuchLabel,
    NoWorkers,
    Quarantined,
    QueueFull,
    TenantFull,
    TooLarge,
    TooManyPools,
    Unfunded,
)

_RESULT = Outcome.RESULT


def from_worker(response: Response, run: JobRun, worker_url: str, attempt: int, *, is_hedged: bool = False) -> Answer:
    """Return the worker's answer to a job's attempt; `router_metadata` is spliced into a JSON object."""
    head, body, rest = response.head, response.body, response.rest
    queue_ms, request_id = run.queue_ms, run.job.request_id
    own, added = _added(worker_url, attempt, run.job.tenant, run.is_adopted, run.is_reused, is_hedged)
    lines = b"%s%s%d\r\nx-request-id: %s\r\n" % (head.lines, own, queue_ms, request_id)
    added = b"%s%d}" % (added, queue_ms)
    if rest is None:
        if head.is_json:
            body = metadata.splice(body, added)
        lines = b"%scontent-length: %d\r\n" % (lines, len(body))
    elif head.is_json:
        splicer = metadata.Splicer(added)
        body, rest = bytes(splicer.feed(body)), _Spliced(rest, splicer)
    else:
        lines += as_lines([field for field in head.headers if field[0] == b"content-length"])
    return Answer(head.status, lines, body, _RESULT, rest)


@lru_cache(maxsize=10_000)
def _added(
    worker_url: str, attempt: int, tenant: str, is_adopted: bool, is_reused: bool, is_hedged: bool
) -> tuple[bytes, bytes]:
    """Return the router's header lines and its JSON member, each up to the number of ms that the job waited."""
    lines = b"x-router-worker: %s\r\nx-router-attempt: %d\r\nx-router-queue-ms: "
    how = {"is_adopted": is_adopted, "is_reused": is_reused, "is_hedged": is_hedged}
    added = metadata.member(worker_url, attempt, tenant, **how)
    return lines % (worker_url.encode("ascii"), attempt), added


class _Spliced:
    """The rest of a large JSON object, with the metadata at its end."""

    def __init__(self, rest: Parts, splicer: metadata.Splicer) -> None:
        self._rest = rest
        self._splicer = splicer
        self._has_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes | memoryview:
        if self._has_ended:
            raise StopAsyncIteration
        try:
            return self._splicer.feed(await anext(self._rest))
        except StopAsyncIteration:
            self._has_ended = True
            return self._splicer.end()

    def close(self) -> None:
        self._rest.close()


class ErrorAnswers:
    """The answers to jobs without a result, with the statuses of one configuration."""

    def __init__(self, settings: Settings, retry: RetryRules, tenants: Tenants) -> None:
        self._settings = settings
        self._retry = retry
        self._tenants = tenants

    def refused(self, run: JobRun, reason: NoRoom) -> Answer:
        """Return the answer to a job that gets no lease."""
        settings, statuses, request_id = self._settings, self._settings.error_status, run.job.request_id
        match reason:
            case Unfunded():
                answer = self.failed(run, is_unfunded=True)
            case NoWorkers() if run.failed:
                answer = self.failed(run)
            case NoWorkers():
                answer = no_healthy_workers(statuses.no_workers, request_id)
            case NoSuchLabel(label=label, language=language):
                answer = no_such_label(statuses.no_workers, label, language, request_id)
            case QueueFull():
                answer = queue_full(statuses.queue_full, settings.queue.max_waiting, request_id)
            case TenantFull():
                rule = self._tenants.rule_of(run.job.tenant)
                max_waiting = None if rule is None else rule.max_waiting
                answer = tenant_full(statuses.queue_full, run.job.tenant, max_waiting, request_id)
            case TooManyPools():
                answer = too_many_pools(statuses.queue_full, request_id)
            case TooLarge(memory_mb=memory_mb, largest_mb=largest_mb):
                answer = too_large(memory_mb, largest_mb, request_id)
            case Quarantined():
                answer = quarantined(settings.quarantine_seconds, request_id)
            case _:
                waited_s = min(settings.queue.timeout, run.limits.ceiling_s)
                answer = queue_timeout(statuses.queue_timeout, waited_s, request_id)
        return answer

    def failed(self, run: JobRun, *, is_unfunded: bool = False) -> Answer:
        """Return the answer to a job whose attempts all failed: the last worker's, if the error seems the job's own."""
        failed, request_id = run.failed, run.job.request_id
        last = failed[-1]
        if last.response is not None and is_jobs_own(run.kinds, self._retry):
            own = from_worker(last.response, run, last.worker_url, len(failed))
            return msgspec.structs.replace(own, outcome=Outcome(last.kind))
        return all_failed(self._settings.error_status.all_failed, failed, request_id, is_unfunded=is_unfunded)

    def deadline_passed(self, run: JobRun) -> Answer:
        """Return the answer to a job whose client waits no longer."""
        status = self._settings.error_status.queue_timeout
        return deadline_passed(status, run.limits.ceiling_s, run.job.request_id)


def no_healthy_workers(status: int, request_id: bytes) -> Answer:
    """Return the answer if no worker may get jobs."""
    return problem(status, "No healthy workers available", request_id, Outcome.NO_WORKERS)


def queue_full(status: int, max_waiting: int, request_id: bytes) -> Answer:
    """Return the answer if no more jobs may wait."""
    return problem(status, f"{max_waiting} jobs wait already", request_id, Outcome.QUEUE_FULL)


def tenant_full(status: int, tenant: str, max_waiting: int | None, request_id: bytes) -> Answer:
    """Return the answer if no more jobs of this tenant may wait; `max_waiting` None: its limit has just been lifted."""
    many = "Too many" if max_waiting is None else max_waiting
    detail = f"{many} jobs of tenant {tenant or DEFAULT} wait already"
    return problem(status, detail, request_id, Outcome.QUEUE_FULL)


def too_many_pools(status: int, request_id: bytes) -> Answer:
    """Return the answer to a job that would need one more pool of workers than there may be."""
    detail = (
        f"Waiting jobs need {MAX_POOLS} different sets of labels and languages already, and there are at most that many"
    )
    return problem(status, detail, request_id, Outcome.QUEUE_FULL)


def no_such_label(status: int, label: str, language: str, request_id: bytes) -> Answer:
    """Return the answer to a job that needs a label or a language which no worker has, or a combination of them."""
    lacks = [f"has the label {label}"] if label else []
    lacks += [f"runs the language {language}"] if language else []
    return problem(status, f"No worker {' and '.join(lacks)}", request_id, Outcome.NO_WORKERS)


def too_large(memory_mb: int, largest_mb: int, request_id: bytes) -> Answer:
    """Return the answer to a job that takes more memory than any worker has."""
    detail = f"The job takes {memory_mb} MB of memory; the largest worker that could run it has {largest_mb} MB"
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, request_id)


def buffers_full(status: int, max_bytes: int, request_id: bytes) -> Answer:
    """Return the answer if this process has no room for the job's body."""
    detail = f"{max_bytes / 2**20:g} MB of request bodies are held already"
    return problem(status, detail, request_id, Outcome.BUFFERS_FULL)


def queue_timeout(status: int, waited_s: float, request_id: bytes) -> Answer:
    """Return the answer to a job that has waited for a lease for too long."""
    detail = f"No worker had room within {waited_s:g} s"
    return problem(status, detail, request_id, Outcome.QUEUE_TIMEOUT)


def deadline_passed(status: int, within_s: float, request_id: bytes) -> Answer:
    """Return the answer to a job whose client would soon give up."""
    return problem(status, f"No result within {within_s:g} s", request_id, Outcome.DEADLINE)


def quarantined(seconds: float, request_id: bytes) -> Answer:
    """Return the answer to a job that has broken workers."""
    detail = f"Workers broke down while they ran this job; it is refused for {seconds:g} s"
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, request_id, Outcome.QUARANTINED)


def skipped(run: JobRun) -> Answer:
    """Return the answer to a job that is not run because another one of its group has failed."""
    group = run.job.options.group
    detail = f"Skipped: a job of group {group} has failed" if group else "Skipped: another job of its group has failed"
    metadata = {"skipped": True, "group": group} if group else {"skipped": True}
    status, request_id = HTTPStatus.FAILED_DEPENDENCY, run.job.request_id
    return problem(status, detail, request_id, Outcome.SKIPPED, router_metadata=metadata)


def broken(request_id: bytes) -> Answer:
    """Return the answer to a job that met with a fault of this program."""
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error", request_id, Outcome.ERROR)


def all_failed(status: int, attempts: Sequence[FailedAttempt], request_id: bytes, *, is_unfunded: bool) -> Answer:
    """Return the answer to a job whose attempts all failed, with each attempt's worker and cause.

    `is_unfunded`: another retry was due, but the fleet's retry budget is spent.
    """
    made = f"{len(attempts)} attempt{'s' if len(attempts) > 1 else ''}"
    told = [
        {"attempt": number, "worker_url": attempt.worker_url, "cause": attempt.cause}
        for number, attempt in enumerate(attempts, start=1)
    ]
    more = "; the fleet's budget for retries is spent" if is_unfunded else ""
    detail = f"All workers failed after {made}{more}"
    answer = problem(status, detail, request_id, Outcome.ALL_FAILED, attempts=told)
    return answer.with_field(b"x-router-attempt", b"%d" % len(attempts))
