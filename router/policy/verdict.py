"""Decides what an attempt's answer means: the job's result, or a failure, and who is to blame.

An attempt without an answer is judged in jobs/job.py, by how it broke. policy/retry.py decides what follows.
"""

import re
from enum import StrEnum
from http import HTTPStatus

import msgspec

from router.policy.retry_after import Headers, first, rest_ms


class Blame(StrEnum):
    """What an attempt tells about its worker."""

    OK = "ok"  # it did well
    FAULT = "fault"  # it is at fault
    DIED = "died"  # its connection closed while it ran the job; the job may have caused that
    ERROR = "error"  # it had an error that may be the job's own
    DOUBT = "doubt"  # the same, and another worker is asked before one is blamed
    BUSY = "busy"  # it has no room
    AWAY = "away"  # it cannot be reached
    NONE = "none"  # nothing


class Kind(StrEnum):
    """What an attempt brought its job."""

    RESULT = "result"  # the job's own, be it success or failure
    NOT_SENT = "not_sent"  # the worker could not be reached
    NO_MEANS = "no_means"  # this host has no file handle, port or memory left for a connection
    DIED = "died"  # the connection closed while the job ran
    FAULT = "fault"  # certainly the worker's
    TIMED_OUT = "timed_out"  # it took longer than the job may take, and may still run
    BUSY = "busy"  # the worker has no room
    ERROR = "error"  # an answer 500: the worker's fault or the job's
    SANDBOX_ERROR = "sandbox_error"  # an answer 200 with SandboxError: the worker's fault or the job's


# The worker never ran the job, so this does not count as an attempt; the job keeps its place in the queue.
NEVER_RAN = frozenset({Kind.NOT_SENT, Kind.NO_MEANS, Kind.BUSY})


class Outcome(StrEnum):
    """What a job's client gets: a worker's answer, by the Kind of its attempt, or an answer of the router's own."""

    RESULT = "result"
    ERROR = "error"
    SANDBOX_ERROR = "sandbox_error"
    ALL_FAILED = "all_failed"
    NO_WORKERS = "no_workers"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    DEADLINE = "deadline"  # no result in the time that its client waits
    QUARANTINED = "quarantined"
    BUFFERS_FULL = "buffers_full"
    BAD_REQUEST = "bad_request"
    CLIENT_LEFT = "client_left"
    SKIPPED = "skipped"  # another job of its group has failed

    @property
    def is_error(self) -> bool:
        """Whether there is no result, and the client is not the reason."""
        return self not in (Outcome.RESULT, Outcome.BAD_REQUEST, Outcome.CLIENT_LEFT, Outcome.SKIPPED)


class Verdict(msgspec.Struct, frozen=True):
    """`cause` is prose without its subject, like `returned 503: Service Unavailable`; None for a result.

    `rest_ms` is for how long a worker without room wants no jobs; 0 if it does not say.
    """

    kind: Kind
    blame: Blame
    cause: str | None = None
    rest_ms: int = 0


_WELL = Verdict(Kind.RESULT, Blame.OK)
_CLIENTS_OWN = Verdict(Kind.RESULT, Blame.NONE)  # a 4xx tells nothing about the worker
_SANDBOX_ERROR = Verdict(Kind.SANDBOX_ERROR, Blame.ERROR, "returned SandboxError")
_NO_OBJECT = Verdict(Kind.FAULT, Blame.FAULT, "answered 200 with something that is no JSON object")
_NO_JSON = Verdict(Kind.FAULT, Blame.FAULT, "answered 200 with something that is no JSON")

# Their answers are objects that begin with a status; the other endpoints' answers are other JSON.
_RUN_CODE = "/run_code"
_RUNS = frozenset({_RUN_CODE, "/run_jupyter"})
_SAYS_SANDBOX_ERROR = b'"SandboxError"'  # in the job's output, the quotes would be escaped
_SAYS_TIME_LIMIT = b'"TimeLimitExceeded"'
_STATUS_FIRST = re.compile(rb'\s*\{\s*"status"\s*:\s*"SandboxError"')
_WELL_FIRST = re.compile(rb'\{\s*"status"\s*:\s*"(?:Success|Failed)"')
_SAYS_FAILED = b'"Failed"'
_FAILED_FIRST = re.compile(rb'\s*\{\s*"status"\s*:\s*"Failed"')
_BEGINS_AS_JSON = re.compile(rb'[ \t\r\n]*[\[{"\-0-9tfn]')
_SPACE = b" \t\r\n"
_OK = int(HTTPStatus.OK)  # a plain number, because looking up an enum's member costs a call
_FULL = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})  # a 503 only with Retry-After
_BAD_GATEWAYS = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})


class _Status(msgspec.Struct):
    status: str = ""


_read_status = msgspec.json.Decoder(_Status).decode


def of_answer(
    path: str, status: int, body: bytes, headers: Headers = (), *, is_whole: bool = True, is_packed: bool = False
) -> Verdict:
    """Return what an answer means. If it is not whole, `body` is its beginning.

    An answer that `is_packed` (by a content-encoding that the router did not ask for) counts as the job's result.

    >>> of_answer("/run_code", 200, b'{"status": "Success"}').kind
    <Kind.RESULT: 'result'>
    >>> of_answer("/run_code", 200, b"<html>").cause
    'answered 200 with something that is no JSON object'
    """
    if status == _OK:
        return _WELL if is_packed else _of_body(path, body, is_whole=is_whole)
    if status in _FULL:
        retry_after = first(headers, b"retry-after")
        if status == HTTPStatus.TOO_MANY_REQUESTS or retry_after is not None:
            return Verdict(Kind.BUSY, Blame.BUSY, _returned(status), rest_ms(retry_after, first(headers, b"date")))
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _CLIENTS_OWN
    if status in _BAD_GATEWAYS:
        return Verdict(Kind.FAULT, Blame.FAULT, _returned(status))
    return Verdict(Kind.ERROR, Blame.ERROR, _returned(status))


def hit_time_limit(body: bytes) -> bool:
    """Whether a result says that the worker ended the job at its time limit."""
    return _SAYS_TIME_LIMIT in body


def says_failed(path: str, status: int, body: bytes, *, is_whole: bool = True) -> bool:
    """Whether an answer, or its beginning, says that the job's code failed.

    That is an error of the compiler, an exit status other than 0, or a time limit that was passed.

    >>> says_failed("/run_code", 200, b'{"status": "Failed"}'), says_failed("/run_code", 200, b'{"status": "Success"}')
    (True, False)
    """
    if status != _OK or path not in _RUNS or _SAYS_FAILED not in body:
        return False
    if _FAILED_FIRST.match(body):
        return True
    return is_whole and _status_of(body) == "Failed"


def _of_body(path: str, body: bytes, *, is_whole: bool) -> Verdict:
    # The body is not parsed, because that would be done for every job: one that is cut or foreign shows at its ends.
    if path not in _RUNS:
        return _WELL if _BEGINS_AS_JSON.match(body) else _NO_JSON
    text = body.strip(_SPACE)
    if is_whole and not text.endswith(b"}"):
        return _NO_OBJECT
    if _WELL_FIRST.match(text):  # as nearly all answers begin; to search a large one takes as long as to pass it on
        return _WELL
    if not text.startswith(b"{"):
        return _NO_OBJECT
    if is_whole:
        is_error = _SAYS_SANDBOX_ERROR in body and _status_of(body) == "SandboxError"
    else:
        is_error = _STATUS_FIRST.match(text) is not None
    return _SANDBOX_ERROR if is_error else _WELL


def _status_of(body: bytes) -> str:
    try:
        return _read_status(body).status
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


class _Part(msgspec.Struct):
    status: str = ""


class _Result(msgspec.Struct):
    status: str = ""
    compile_result: _Part | None = None
    run_result: _Part | None = None


_read_result = msgspec.json.Decoder(_Result).decode


def may_be_final(path: str) -> bool:
    """Whether this endpoint's answers can be final."""
    return path == _RUN_CODE


def is_final(path: str, status: int, body: bytes) -> bool:
    """Whether an answer to `/run_code` is one that the same job would get again, if its code depends on nothing else.

    A time limit may be due to a worker with too much to do, and an error to a worker in trouble.

    >>> is_final("/run_code", 200, b'{"status": "Failed", "run_result": {"status": "Finished", "return_code": 1}}')
    True
    >>> is_final("/run_code", 200, b'{"status": "Failed", "run_result": {"status": "TimeLimitExceeded"}}')
    False
    """
    if path != _RUN_CODE or status != _OK:
        return False
    try:
        result = _read_result(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    parts = result.compile_result, result.run_result
    return result.status in ("Success", "Failed") and all(part is None or part.status == "Finished" for part in parts)


def _returned(status: int) -> str:
    try:
        return f"returned {status}: {HTTPStatus(status).phrase}"
    except ValueError:
        return f"returned {status}: no standard status"
