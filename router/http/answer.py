"""The answer to a client as a value: a worker's answer, or an error of the router's own."""

import json
from http import HTTPStatus

import msgspec

from router.http.headers import Headers, as_fields
from router.http.response import Parts, Response, UpstreamFailed
from router.policy.verdict import Outcome

# A full queue may have room in a moment, but clients that retry at once would only make it longer.
RETRY_AFTER_S = 1
_PASSING = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
# These are temporary whatever status `error_status` gives them.
_PASSING_OUTCOMES = frozenset(
    {
        *(Outcome.NO_WORKERS, Outcome.ALL_FAILED, Outcome.QUEUE_FULL),
        *(Outcome.QUEUE_TIMEOUT, Outcome.DEADLINE, Outcome.BUFFERS_FULL),
    }
)


class Answer(msgspec.Struct, frozen=True):
    """A status, header fields as HTTP/1.1 lines, and a body; the rest of a large body is read from `rest`."""

    status: int
    lines: bytes
    body: bytes
    outcome: Outcome
    rest: Parts | None = None

    @property
    def headers(self) -> Headers:
        """The header fields, with lower-case names."""
        return as_fields(self.lines)

    @property
    def is_passing(self) -> bool:
        """Whether the failure is temporary: the same job may succeed in a moment."""
        return self.status in _PASSING or self.outcome in _PASSING_OUTCOMES

    def with_field(self, name: bytes, value: bytes) -> "Answer":
        """Return a copy with one more header field."""
        return msgspec.structs.replace(self, lines=b"%s%s: %s\r\n" % (self.lines, name, value))


def problem(
    status: int, detail: str, request_id: bytes, outcome: Outcome = Outcome.BAD_REQUEST, **more: object
) -> Answer:
    """Return an error of the router's own, with the JSON body `{"detail": …}` and the members `more`.

    A temporary failure, which every 503 and 504 is, carries Retry-After.
    """
    body = json.dumps({"detail": detail, **more}).encode()
    fields = b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %s\r\n"
    answer = Answer(status, fields % (len(body), request_id), body, outcome)
    return answer.with_field(b"retry-after", b"%d" % RETRY_AFTER_S) if answer.is_passing else answer


def close_rest(outcome: Response | UpstreamFailed | Answer | None) -> None:
    """Read no further what a large answer has left."""
    if isinstance(outcome, Response | Answer) and outcome.rest is not None:
        outcome.rest.close()
