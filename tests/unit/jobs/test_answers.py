"""Which of the router's own answers tell a client to try again."""

from http import HTTPStatus

import pytest

from router.http.answer import Answer, problem
from router.jobs import answers
from router.jobs.job import FailedAttempt
from router.policy.verdict import Kind, Outcome

ID = b"job-abc-42"
FAILED = (FailedAttempt("http://w", "returned 503: Service Unavailable", Kind.FAULT, None),)


@pytest.mark.parametrize(
    "answer",
    [
        answers.no_healthy_workers(503, ID),
        answers.no_healthy_workers(500, ID),  # error_status may set it
        answers.queue_full(503, 10, ID),
        answers.tenant_full(503, "run-7", 5000, ID),
        answers.tenant_full(500, "", None, ID),
        answers.too_many_pools(503, ID),
        answers.no_such_label(503, "gpu", "", ID),
        answers.buffers_full(503, 2**20, ID),
        answers.queue_timeout(504, 60, ID),
        answers.deadline_passed(504, 60, ID),
        answers.all_failed(503, FAILED, ID, is_unfunded=False),
        answers.all_failed(504, FAILED, ID, is_unfunded=True),
        problem(HTTPStatus.SERVICE_UNAVAILABLE, "Nothing has begun", ID),
        problem(HTTPStatus.GATEWAY_TIMEOUT, "too slow", ID),
    ],
)
def test_answer_to_a_temporary_failure_has_retry_after(answer: Answer) -> None:
    """Each 503 and 504 of the router itself has exactly one Retry-After."""
    assert [value for name, value in answer.headers if name == b"retry-after"] == [b"1"]


@pytest.mark.parametrize(
    "answer",
    [
        answers.quarantined(300, ID),
        answers.too_large(4096, 2048, ID),
        answers.broken(ID),
        problem(HTTPStatus.BAD_REQUEST, "malformed", ID),
        Answer(200, b"", b"{}", Outcome.RESULT),
    ],
)
def test_answer_to_a_permanent_failure_has_no_retry_after(answer: Answer) -> None:
    """A client that follows Retry-After does not send a job again that would fail again."""
    assert b"retry-after" not in dict(answer.headers)
