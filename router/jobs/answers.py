"""What a client gets: a worker's answer with its metadata, or the router's own `{"detail": …}`."""

from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Self

from router.http.answer import Answer, problem
from router.http.headers import as_lines
from router.http.response import Parts, Response
from router.jobs import metadata
from router.jobs.job import FailedAttempt
from router.policy.verdict import Outcome

_RESULT = Outcome.RESULT


def from_worker(response: Response, worker_url: str, attempt: int, queue_ms: int, request_id: bytes) -> Answer:
    """Return the worker's own answer; into a JSON object, `router_metadata` is spliced."""
    head, body, rest = response.head, response.body, response.rest
    own, added = _added(worker_url, attempt)
    lines = b"%s%s%d\r\nx-request-id: %s\r\n" % (head.lines, own, queue_ms, request_id)
    added = b"%s%d}" % (added, queue_ms)
    if rest is None:
        if head.is_json:
            body = metadata.splice(body, added)
        lines = b"%scontent-length: %d\r\n" % (lines, len(body))
    elif head.is_json:
        splicer = metadata.Splicer(added)
        body, rest = splicer.feed(body), _Spliced(rest, splicer)
    else:
        lines += as_lines([field for field in head.headers if field[0] == b"content-length"])
    return Answer(head.status, lines, body, _RESULT, rest)


@lru_cache(maxsize=10_000)
def _added(worker_url: str, attempt: int) -> tuple[bytes, bytes]:
    """Return the header lines and the JSON member that tell who did a job, up to how many ms it waited."""
    lines = b"x-router-worker: %s\r\nx-router-attempt: %d\r\nx-router-queue-ms: "
    return lines % (worker_url.encode("ascii"), attempt), metadata.member(worker_url, attempt)


def no_healthy_workers(status: int, request_id: bytes) -> Answer:
    """Return the answer where there is nobody to send a job to."""
    return problem(status, "No healthy workers available", request_id, Outcome.NO_WORKERS)


def queue_full(status: int, max_waiting: int, request_id: bytes) -> Answer:
    """Return the answer where no more jobs may wait."""
    return problem(status, f"{max_waiting} jobs wait already", request_id, Outcome.QUEUE_FULL)


def buffers_full(status: int, max_bytes: int, request_id: bytes) -> Answer:
    """Return the answer to a job whose body this process has no room for."""
    detail = f"{max_bytes / 2**20:g} MB of request bodies are held already"
    return problem(status, detail, request_id, Outcome.BUFFERS_FULL)


def queue_timeout(status: int, waited_s: float, request_id: bytes) -> Answer:
    """Return the answer to a job that has waited long enough."""
    detail = f"No worker had room within {waited_s:g} s"
    return problem(status, detail, request_id, Outcome.QUEUE_TIMEOUT)


def deadline_passed(status: int, within_s: float, request_id: bytes) -> Answer:
    """Return the answer to a job whose client would soon give up."""
    return problem(status, f"No result within {within_s:g} s", request_id, Outcome.DEADLINE)


def quarantined(seconds: float, request_id: bytes) -> Answer:
    """Return the answer to a job that has broken workers."""
    detail = f"Workers broke down while they ran this job; it is refused for {seconds:g} s"
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, request_id, Outcome.QUARANTINED)


def broken(request_id: bytes) -> Answer:
    """Return the answer to a job that met with a fault of this program."""
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error", request_id, Outcome.ERROR)


def all_failed(status: int, attempts: Sequence[FailedAttempt], request_id: bytes, *, is_unfunded: bool) -> Answer:
    """Return the answer to a job that no worker could do, with each attempt's worker and cause.

    `is_unfunded`: it might have been tried once more.
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


class _Spliced:
    """The rest of a large JSON object, with its metadata at the end."""

    def __init__(self, rest: Parts, splicer: metadata.Splicer) -> None:
        self._rest = rest
        self._splicer = splicer
        self._has_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._has_ended:
            raise StopAsyncIteration
        try:
            return self._splicer.feed(await anext(self._rest))
        except StopAsyncIteration:
            self._has_ended = True
            return self._splicer.end()

    def close(self) -> None:
        self._rest.close()
