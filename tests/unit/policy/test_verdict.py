"""What a worker's answer means, and how long a worker without room rests."""

import pytest

from router.policy.retry_after import MAX_REST_MS
from router.policy.verdict import Blame, Kind, Outcome, of_answer

RUN = "/run_code"


@pytest.mark.parametrize(
    ("path", "status", "body", "kind", "blame"),
    [
        (RUN, 200, b'{"status": "Success"}', Kind.RESULT, Blame.OK),
        (RUN, 200, b'{"status":"Failed","run_result":{"status":"TimeLimitExceeded"}}\n', Kind.RESULT, Blame.OK),
        (RUN, 200, b'{"status": "SandboxError", "message": "x"}', Kind.SANDBOX_ERROR, Blame.ERROR),
        (RUN, 200, b' {"message": "", "status" : "SandboxError"}', Kind.SANDBOX_ERROR, Blame.ERROR),
        ("/run_jupyter", 200, b'{"status": "SandboxError"}', Kind.SANDBOX_ERROR, Blame.ERROR),
        (RUN, 200, b'{"status": "Success", "message": "\\"SandboxError\\""}', Kind.RESULT, Blame.OK),
        (RUN, 200, b'{"status": "Success", "files": {"a": "SandboxError"}}', Kind.RESULT, Blame.OK),
        (RUN, 200, b'{"status": "SandboxError", no}', Kind.RESULT, Blame.OK),  # left to its client
        (RUN, 200, b'{"status": "\xff", "message": "SandboxError"}', Kind.RESULT, Blame.OK),
        (RUN, 200, b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b', "b": "SandboxError"}', Kind.RESULT, Blame.OK),
        (RUN, 200, b"", Kind.FAULT, Blame.FAULT),
        (RUN, 200, b"<html>ok</html>", Kind.FAULT, Blame.FAULT),
        (RUN, 200, b'["Success"]', Kind.FAULT, Blame.FAULT),
        (RUN, 200, b'{"status": "Success", "message": "cut he', Kind.FAULT, Blame.FAULT),
        ("/list_datasets", 200, b'["a", "b"]', Kind.RESULT, Blame.OK),
        ("/list_datasets", 200, b"<html>", Kind.FAULT, Blame.FAULT),
        ("/list_datasets", 200, b"", Kind.FAULT, Blame.FAULT),
        (RUN, 302, b"", Kind.RESULT, Blame.NONE),
        (RUN, 422, b'{"detail": []}', Kind.RESULT, Blame.NONE),
        (RUN, 404, b"", Kind.RESULT, Blame.NONE),
        (RUN, 429, b"", Kind.BUSY, Blame.BUSY),
        (RUN, 500, b'{"detail": "x", "traceback": []}', Kind.ERROR, Blame.ERROR),
        (RUN, 501, b"", Kind.ERROR, Blame.ERROR),
        (RUN, 502, b"", Kind.FAULT, Blame.FAULT),
        (RUN, 503, b"", Kind.FAULT, Blame.FAULT),
        (RUN, 504, b"", Kind.FAULT, Blame.FAULT),
        (RUN, 599, b"", Kind.ERROR, Blame.ERROR),
    ],
)
def test_each_answer_has_its_verdict(path: str, status: int, body: bytes, kind: Kind, blame: Blame) -> None:
    """An answer is a result or a failure, and may count for or against its worker."""
    verdict = of_answer(path, status, body)
    assert (verdict.kind, verdict.blame) == (kind, blame)
    assert (verdict.cause is None) == (kind is Kind.RESULT)


@pytest.mark.parametrize(
    ("retry_after", "rest"),
    [
        (b"2", 2000),
        (b" 2 ", 2000),
        (b"0", 0),
        (b"0.5", 0),
        (b"007", 7000),
        (b"3600", MAX_REST_MS),
        (b"9" * 5000, MAX_REST_MS),
        (b"0" * 5000 + b"1", 1000),
        (b"-1", 0),
        (b"1e308", 0),
        (b"nan", 0),
        (b"inf", 0),
        (b"", 0),
        (b"soon", 0),
        ("\u0663".encode(), 0),
        (b"\xff\x00", 0),
        (b"Sat, 28 Nov 2026 10:00:04 GMT", 4000),
        (b"Sat, 28 Nov 2026 09:59:59 GMT", 0),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", MAX_REST_MS),
        (b"Sat, 31 Jan 2026 10:00:04 GMT", 0),
        (b"Tue, 01 Dec 2026 10:00:04 GMT", MAX_REST_MS),
        (b"Sat, 31 Feb 2026 10:00:04 GMT", 0),
        (b"Sat, 28 Nov 0000 10:00:04 GMT", 0),
        (b"Sat, 28 Nov 2026 25:00:04 GMT", 0),
        (b"Sat, 28 Xyz 2026 10:00:04 GMT", 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_worker_without_room_rests_for_its_retry_after(status: int, retry_after: bytes, rest: int) -> None:
    """Retry-After has seconds or a date, and an invalid one says only that there is no room."""
    headers = [(b"date", b"Sat, 28 Nov 2026 10:00:00 GMT"), (b"retry-after", retry_after)]
    verdict = of_answer(RUN, status, b"", headers)
    assert (verdict.kind, verdict.blame, verdict.rest_ms) == (Kind.BUSY, Blame.BUSY, rest)


@pytest.mark.parametrize(
    ("date", "until"),
    [
        (b"Thu, 30 Apr 2026 23:59:58 GMT", b"Fri, 01 May 2026 00:00:02 GMT"),
        (b"Sat, 28 Feb 2026 23:59:58 GMT", b"Sun, 01 Mar 2026 00:00:02 GMT"),
        (b"Thu, 31 Dec 2026 23:59:58 GMT", b"Fri, 01 Jan 2027 00:00:02 GMT"),
    ],
)
def test_rest_may_cross_the_end_of_a_month(date: bytes, until: bytes) -> None:
    """The length of the month is taken into account."""
    assert of_answer(RUN, 503, b"", [(b"date", date), (b"retry-after", until)]).rest_ms == 4000


def test_date_without_the_answer_s_own_date_is_ignored() -> None:
    """The worker's clock is not compared with this host's."""
    headers = [(b"retry-after", b"Sat, 28 Nov 2026 10:00:04 GMT")]
    assert of_answer(RUN, 429, b"", headers).rest_ms == 0


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"status": "Success", "message": "cut he', Kind.RESULT),
        (b'{"status": "SandboxError", "message": "cut he', Kind.SANDBOX_ERROR),
        (b'{"status": "Success", "files": {"a": "SandboxError", "b": "', Kind.RESULT),
        (b"<html>", Kind.FAULT),
    ],
)
def test_beginning_of_a_large_answer_has_a_verdict(body: bytes, kind: Kind) -> None:
    """Its status and its first byte decide."""
    assert of_answer(RUN, 200, body, is_whole=False).kind is kind


def test_only_the_fleet_s_failures_are_errors() -> None:
    """Neither a result nor a bad request, nor a client that left or wished its job to be skipped, is an error."""
    fine = {outcome for outcome in Outcome if not outcome.is_error}
    assert fine == {Outcome.RESULT, Outcome.BAD_REQUEST, Outcome.CLIENT_LEFT, Outcome.SKIPPED}
