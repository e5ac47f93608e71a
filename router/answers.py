"""What a client gets: a worker's answer with its metadata, or the router's own `{"detail": …}`."""

import json
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Self

import msgspec

from router import headers, metadata
from router.policy.verdict import Kind, Outcome
from router.wire import Parts, Response

# What is full now may have room in a moment; who comes back at once only makes the line longer.
RETRY_AFTER_S = 1
_JSON = (b"content-type", b"application/json")
# As they mostly are; made once.
_RESULT = Outcome.RESULT
_FIRST_ATTEMPT, _NO_WAIT = (b"x-router-attempt", b"1"), (b"x-router-queue-ms", b"0")


class Answer(msgspec.Struct, frozen=True):
    """A status, header fields with lower-case names, and a body; a large one goes on in `rest`."""

    status: int
    headers: headers.Headers
    body: bytes
    outcome: Outcome
    rest: Parts | None = None


class FailedAttempt(msgspec.Struct, frozen=True):
    """One attempt that brought no result; `cause` is prose such as `timed out`. `response` is what the worker said."""

    worker_url: str
    cause: str
    kind: Kind
    response: Response | None = None


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

    async def aclose(self) -> None:
        await self._rest.aclose()


def from_worker(response: Response, worker_url: str, attempt: int, queue_ms: int, request_id: bytes) -> Answer:
    """Return the worker's own answer; into a JSON object, `router_metadata` is spliced."""
    fields = headers.for_client(response.headers)
    body, rest = response.body, response.rest
    if _is_plain_json(fields):
        added = metadata.member(worker_url, attempt, queue_ms)
        if rest is None:
            body = metadata.splice(body, added)
        else:
            splicer = metadata.Splicer(added)
            body, rest = splicer.feed(body), _Spliced(rest, splicer)
    elif rest is not None:
        fields += [field for field in response.headers if field[0] == b"content-length"]
    if rest is None:
        fields.append((b"content-length", b"%d" % len(body)))
    fields.append(_worker_field(worker_url))
    fields.append(_FIRST_ATTEMPT if attempt == 1 else (b"x-router-attempt", b"%d" % attempt))
    fields.append(_NO_WAIT if queue_ms == 0 else (b"x-router-queue-ms", b"%d" % queue_ms))
    fields.append((b"x-request-id", request_id))
    return Answer(response.status, fields, body, _RESULT, rest)


@lru_cache(maxsize=10_000)
def _worker_field(worker_url: str) -> tuple[bytes, bytes]:
    return b"x-router-worker", worker_url.encode("ascii")


def problem(
    status: int, detail: str, request_id: bytes, outcome: Outcome = Outcome.BAD_REQUEST, **more: object
) -> Answer:
    """Return an error of the router's own: `{"detail": …}` with whatever else helps."""
    body = json.dumps({"detail": detail, **more}).encode()
    fields = [_JSON, (b"content-length", b"%d" % len(body)), (b"x-request-id", request_id)]
    return Answer(status, fields, body, outcome)


def no_healthy_workers(status: int, request_id: bytes) -> Answer:
    """Return the answer where there is nobody to send a job to."""
    return problem(status, "No healthy workers available", request_id, Outcome.NO_WORKERS)


def queue_full(status: int, max_waiting: int, request_id: bytes) -> Answer:
    """Return the answer where no more jobs may wait."""
    return _with_retry_after(problem(status, f"{max_waiting} jobs wait already", request_id, Outcome.QUEUE_FULL))


def buffers_full(status: int, max_bytes: int, request_id: bytes) -> Answer:
    """Return the answer to a job whose body this process has no room for."""
    detail = f"{max_bytes / 2**20:g} MB of request bodies are held already"
    return _with_retry_after(problem(status, detail, request_id, Outcome.BUFFERS_FULL))


def queue_timeout(status: int, waited_s: float, request_id: bytes) -> Answer:
    """Return the answer to a job that has waited long enough."""
    detail = f"No worker had room within {waited_s:g} s"
    return _with_retry_after(problem(status, detail, request_id, Outcome.QUEUE_TIMEOUT))


def deadline_passed(status: int, within_s: float, request_id: bytes) -> Answer:
    """Return the answer to a job whose client would soon give up."""
    return _with_retry_after(problem(status, f"No result within {within_s:g} s", request_id, Outcome.DEADLINE))


def quarantined(seconds: float, request_id: bytes) -> Answer:
    """Return the answer to a job that has broken workers."""
    detail = f"Workers broke down while they ran this job; it is refused for {seconds:g} s"
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, request_id, Outcome.QUARANTINED)


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
    answer.headers.append((b"x-router-attempt", b"%d" % len(attempts)))
    return answer


def _with_retry_after(answer: Answer) -> Answer:
    answer.headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    return answer


def _is_plain_json(fields: headers.Headers) -> bool:
    is_json = False
    for name, value in fields:
        if name == b"content-type":
            is_json = value.partition(b";")[0].strip().lower() == b"application/json"
        elif name == b"content-encoding" and value != b"identity":
            return False  # what a worker compressed unasked cannot be added to
    return is_json
