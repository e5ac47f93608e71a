"""An answer as a value: a worker's, or an error of the router's own."""

import json
from http import HTTPStatus

import msgspec

from router.http.headers import Headers, as_fields
from router.http.response import Parts
from router.policy.verdict import Outcome

# What is full now may have room in a moment; who comes back at once only makes the line longer.
RETRY_AFTER_S = 1
_PASSING = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
# The same, where `error_status` gives these another status.
_PASSING_OUTCOMES = frozenset(
    {
        *(Outcome.NO_WORKERS, Outcome.ALL_FAILED, Outcome.QUEUE_FULL),
        *(Outcome.QUEUE_TIMEOUT, Outcome.DEADLINE, Outcome.BUFFERS_FULL),
    }
)


class Answer(msgspec.Struct, frozen=True):
    """A status, header fields as HTTP/1.1 has them, and a body; a large one goes on in `rest`."""

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
        """Whether the same job may go well in a moment."""
        return self.status in _PASSING or self.outcome in _PASSING_OUTCOMES

    def with_field(self, name: bytes, value: bytes) -> "Answer":
        """Return the same with one field more."""
        return msgspec.structs.replace(self, lines=b"%s%s: %s\r\n" % (self.lines, name, value))


def problem(
    status: int, detail: str, request_id: bytes, outcome: Outcome = Outcome.BAD_REQUEST, **more: object
) -> Answer:
    """Return an error of the router's own: `{"detail": …}` with whatever else helps.

    What may go well in a moment carries Retry-After: every 503 and 504.
    """
    body = json.dumps({"detail": detail, **more}).encode()
    fields = b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %s\r\n"
    answer = Answer(status, fields % (len(body), request_id), body, outcome)
    return answer.with_field(b"retry-after", b"%d" % RETRY_AFTER_S) if answer.is_passing else answer
