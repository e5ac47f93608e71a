"""What became of an attempt: the job's result, or a failure, and whose.

An attempt either brought an answer, which is read here, or broke, which upstream tells. This room knows no worker, no
clock and no retry; policy/retry.py decides what follows.
"""

import re
from enum import StrEnum
from http import HTTPStatus

import msgspec

from router.policy.retry_after import Headers, first, rest_ms


class Blame(StrEnum):
    """What an attempt says of its worker.

    It did well; it is at fault; its connection died while it ran the job, which may be the job's doing; it had an error
    that may be the job's own; it had one, and another worker is asked before anybody is blamed; it has no room; it
    cannot be reached; or nothing.
    """

    OK = "ok"
    FAULT = "fault"
    DIED = "died"
    ERROR = "error"
    DOUBT = "doubt"
    BUSY = "busy"
    AWAY = "away"
    NONE = "none"


class Kind(StrEnum):
    """What an attempt is to its job."""

    RESULT = "result"  # good or bad, it is the job's own
    NOT_SENT = "not_sent"  # the worker could not be reached
    NO_MEANS = "no_means"  # this host has no file handle, port or memory left for a connection
    DIED = "died"  # the connection closed while the job ran
    FAULT = "fault"  # the worker's, without a doubt
    TIMED_OUT = "timed_out"  # beyond all that the job may take; it may run on
    BUSY = "busy"  # the worker has no room
    ERROR = "error"  # an answer 500: the worker's fault or the job's
    SANDBOX_ERROR = "sandbox_error"  # a 200 that says the same


# The worker never ran the job: it waits again, at its place in the line, and that was no attempt.
NEVER_RAN = frozenset({Kind.NOT_SENT, Kind.NO_MEANS, Kind.BUSY})


class Outcome(StrEnum):
    """What a job's client gets: an answer of a worker's, by the Kind of its attempt, or one of the router's own."""

    RESULT = "result"
    ERROR = "error"
    SANDBOX_ERROR = "sandbox_error"
    ALL_FAILED = "all_failed"
    NO_WORKERS = "no_workers"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    DEADLINE = "deadline"  # no result while its client still waits
    QUARANTINED = "quarantined"
    BUFFERS_FULL = "buffers_full"
    BAD_REQUEST = "bad_request"
    CLIENT_LEFT = "client_left"

    @property
    def is_error(self) -> bool:
        """Whether the fleet, and not the client, is why there is no result."""
        return self not in (Outcome.RESULT, Outcome.BAD_REQUEST, Outcome.CLIENT_LEFT)


class Verdict(msgspec.Struct, frozen=True):
    """`cause` is prose without its subject, such as `returned 503: Service Unavailable`; None for a result.

    `rest_ms` is how long a worker without room wants to rest; 0: it does not say.
    """

    kind: Kind
    blame: Blame
    cause: str | None = None
    rest_ms: int = 0


_WELL = Verdict(Kind.RESULT, Blame.OK)
_CLIENTS_OWN = Verdict(Kind.RESULT, Blame.NONE)  # as 4xx is, which says nothing of the worker
_SANDBOX_ERROR = Verdict(Kind.SANDBOX_ERROR, Blame.ERROR, "returned SandboxError")
_NO_OBJECT = Verdict(Kind.FAULT, Blame.FAULT, "answered 200 with something that is no JSON object")
_NO_JSON = Verdict(Kind.FAULT, Blame.FAULT, "answered 200 with something that is no JSON")

# These answer with an object that begins with its status; the others with other JSON.
_RUNS = frozenset({"/run_code", "/run_jupyter"})
_SAYS_SANDBOX_ERROR = b'"SandboxError"'  # within a string of the job's own, its quotes are escaped
_STATUS_FIRST = re.compile(rb'\s*\{\s*"status"\s*:\s*"SandboxError"')
_BEGINS_AS_JSON = re.compile(rb'[ \t\r\n]*[\[{"\-0-9tfn]')
_SPACE = b" \t\r\n"
_OK = int(HTTPStatus.OK)  # as a plain number: an enum's member is looked up each time
_FULL = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})  # a 503 only with Retry-After
_BAD_GATEWAYS = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})


class _Status(msgspec.Struct):
    status: str = ""


_read_status = msgspec.json.Decoder(_Status).decode


def of_answer(
    path: str, status: int, body: bytes, headers: Headers = (), *, is_whole: bool = True, is_packed: bool = False
) -> Verdict:
    """Return what an answer means; of one that is not `is_whole`, `body` is the beginning.

    One that `is_packed` (by a content-encoding that nobody asked for) is not looked into.

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


def _of_body(path: str, body: bytes, *, is_whole: bool) -> Verdict:
    # Not parsed, for that is done a million times over: a cut or foreign body shows at its ends.
    if path not in _RUNS:
        return _WELL if _BEGINS_AS_JSON.match(body) else _NO_JSON
    text = body.strip(_SPACE)
    if not text.startswith(b"{") or (is_whole and not text.endswith(b"}")):
        return _NO_OBJECT
    return _SANDBOX_ERROR if _SAYS_SANDBOX_ERROR in body and _is_sandbox_error(body, is_whole=is_whole) else _WELL


def _is_sandbox_error(body: bytes, *, is_whole: bool) -> bool:
    if not is_whole:
        return _STATUS_FIRST.match(body) is not None
    try:
        return _read_status(body).status == "SandboxError"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _returned(status: int) -> str:
    try:
        return f"returned {status}: {HTTPStatus(status).phrase}"
    except ValueError:
        return f"returned {status}: no standard status"
