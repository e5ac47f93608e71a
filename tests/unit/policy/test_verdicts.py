"""What an answer means, how long a job may take, and whether it is tried again: the tables of policy."""

import re
from math import inf, nan

import pytest

from router.policy.deadline import ClientBudget, limits_of
from router.policy.retry import RetryRules, is_jobs_own, is_worth_another
from router.policy.retry_after import MAX_REST_MS
from router.policy.verdict import Blame, Kind, Outcome, of_answer
from router.scheduling.messages import Rules
from router.scheduling.quarantine import Quarantine
from router.scheduling.retry_budget import RetryBudget

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
        (RUN, 200, b'{"status": "SandboxError", no}', Kind.RESULT, Blame.OK),  # for its client to see
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
def test_answers(path: str, status: int, body: bytes, kind: Kind, blame: Blame) -> None:
    """Each answer is the job's result or somebody's failure, and says something of its worker, or nothing."""
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
def test_worker_without_room_rests_as_long_as_it_says(status: int, retry_after: bytes, rest: int) -> None:
    """In seconds or up to a date, within bounds; what makes no sense says only that there is no room."""
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
def test_rest_goes_over_the_end_of_a_month(date: bytes, until: bytes) -> None:
    """However long that month is."""
    assert of_answer(RUN, 503, b"", [(b"date", date), (b"retry-after", until)]).rest_ms == 4000


def test_date_without_another_to_measure_by_says_nothing() -> None:
    """The worker's clock is not compared with this host's."""
    headers = [(b"retry-after", b"Sat, 28 Nov 2026 10:00:04 GMT")]
    assert of_answer(RUN, 429, b"", headers).rest_ms == 0


@pytest.mark.parametrize(
    ("rules", "kind", "asks"),
    [
        (RetryRules(), Kind.ERROR, True),
        (RetryRules(), Kind.SANDBOX_ERROR, True),
        (RetryRules(sandbox_errors=0), Kind.SANDBOX_ERROR, False),
        (RetryRules(attempts=1), Kind.ERROR, False),
        (RetryRules(attempts=2), Kind.ERROR, True),
        (RetryRules(has_budget=False), Kind.ERROR, False),
        (RetryRules(), Kind.FAULT, False),
    ],
)
def test_blame_waits_only_where_another_worker_is_asked(rules: RetryRules, kind: Kind, asks: bool) -> None:
    """Else nothing would ever come of it, and a sick worker stay."""
    assert rules.asks_another(kind) is asks


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"status": "Success", "message": "cut he', Kind.RESULT),
        (b'{"status": "SandboxError", "message": "cut he', Kind.SANDBOX_ERROR),
        (b'{"status": "Success", "files": {"a": "SandboxError", "b": "', Kind.RESULT),
        (b"<html>", Kind.FAULT),
    ],
)
def test_beginning_of_a_large_answer(body: bytes, kind: Kind) -> None:
    """Of an answer that is not all there, its status and its first byte tell."""
    assert of_answer(RUN, 200, body, is_whole=False).kind is kind


@pytest.mark.parametrize(
    ("longest_s", "client_s", "budget", "bound_s", "ceiling_s"),
    [
        (20, None, "none", 30, 300),
        (20, None, "job", 30, 29.5),
        (20, None, "job+10", 30, 29.5),
        (20, None, "job+2", 30, 21.5),
        (20, None, "job+0", 30, 19.5),
        (20, None, "job+2.5", 30, 22),
        (20, None, 12, 30, 11.5),
        (20, None, 1, 30, 0.5),
        (20, None, 1000, 30, 300),
        (20, 5, "job", 30, 4.5),
        (20, 5, 12, 30, 4.5),
        (20, 40, 12, 30, 39.5),
        (20, 5, "none", 30, 4.5),
        (20, 0.1, "none", 30, 0),
        (600, None, "none", 610, 300),
        (600, None, "job+2", 610, 300),
        (600, 1000, "none", 610, 300),
        (None, None, "job", 300, 300),
        (None, None, "job+2", 300, 300),
        (None, None, 12, 300, 11.5),
        (None, 5, "none", 300, 4.5),
        (1e308, None, "none", 86_410, 300),
        (inf, None, "job", 86_410, 300),
    ],
)
def test_limits(
    longest_s: float | None, client_s: float | None, budget: str | float, bound_s: float, ceiling_s: float
) -> None:
    """The bound is the job's and a grace; the answer comes before its client gives up, by `timeout` at the latest."""
    found = limits_of(longest_s, client_s, grace_s=10, timeout_s=300, budget=ClientBudget.of(budget))
    assert (found.bound_s, found.ceiling_s) == (bound_s, ceiling_s)


@pytest.mark.parametrize("text", ["jobs", "job+", "job-1", "job+1e3", "", 0.999, 0, -1, inf, nan])
def test_budget_that_means_nothing_is_refused(text: str | float) -> None:
    """A client waits a second at least, and not for ever by a number."""
    with pytest.raises(ValueError, match=f"^{re.escape(str(text))}$"):
        ClientBudget.of(text)


@pytest.mark.parametrize(
    ("kinds", "again"),
    [
        ([Kind.NOT_SENT], True),
        ([Kind.DIED, Kind.TIMED_OUT], True),
        ([Kind.FAULT, Kind.FAULT, Kind.FAULT], False),
        ([Kind.BUSY], True),
        ([Kind.SANDBOX_ERROR], True),
        ([Kind.SANDBOX_ERROR, Kind.SANDBOX_ERROR], False),
        ([Kind.FAULT, Kind.SANDBOX_ERROR], True),
        ([Kind.ERROR], True),
        ([Kind.ERROR, Kind.ERROR], False),
        ([Kind.SANDBOX_ERROR, Kind.ERROR], True),
    ],
)
def test_retries_of_one_job(kinds: list[Kind], again: bool) -> None:
    """Up to its attempts; what may be the job's own doing once."""
    assert is_worth_another(kinds, RetryRules(attempts=3, sandbox_errors=1)) is again


@pytest.mark.parametrize(
    ("kinds", "sandbox_errors", "own"),
    [
        ([Kind.FAULT], 1, False),
        ([Kind.FAULT, Kind.FAULT], 1, False),
        ([Kind.SANDBOX_ERROR], 1, True),
        ([Kind.SANDBOX_ERROR, Kind.SANDBOX_ERROR], 1, True),
        ([Kind.FAULT, Kind.SANDBOX_ERROR], 1, False),
        ([Kind.FAULT, Kind.SANDBOX_ERROR, Kind.SANDBOX_ERROR], 1, True),
        ([Kind.FAULT, Kind.SANDBOX_ERROR, Kind.SANDBOX_ERROR], 2, False),
        ([Kind.ERROR, Kind.SANDBOX_ERROR], 0, True),
        ([Kind.ERROR, Kind.SANDBOX_ERROR], 1, False),
        ([Kind.SANDBOX_ERROR, Kind.ERROR], 0, False),
        ([Kind.SANDBOX_ERROR, Kind.ERROR, Kind.ERROR], 1, True),
    ],
)
def test_failure_is_the_job_s_own_where_enough_workers_say_so(
    kinds: list[Kind], sandbox_errors: int, own: bool
) -> None:
    """More than are asked again, or all that there were; by the last one's kind alone."""
    assert is_jobs_own(kinds, RetryRules(sandbox_errors=sandbox_errors)) is own


def test_no_sandbox_error_is_retried_where_none_may_be() -> None:
    """`retry.sandbox_error: 0` hands the worker's own answer back at once."""
    assert not is_worth_another([Kind.SANDBOX_ERROR], RetryRules(sandbox_errors=0))


def test_budget_is_a_share_of_jobs_and_some_a_second() -> None:
    """Under a load that always wants to retry, 20 % of the jobs and 10 a second are retried, over any time."""
    budget = RetryBudget(Rules())
    taken = 0
    for tick in range(600):  # 50 jobs a tick of 100 ms
        taken += sum(budget.take(tick * 100, tick * 50) for _ in range(50))
    assert 0.95 <= taken / (0.2 * 600 * 50 + 10 * 60) <= 1.01


def test_saved_retries_run_off() -> None:
    """An hour of good jobs pays for no more than its last seconds."""
    budget = RetryBudget(Rules())
    for second in range(3600):
        budget.fill(second * 1000, second * 100)
    taken = sum(budget.take(3600 * 1000, 3600 * 100) for _ in range(10_000))
    assert 0.9 <= taken / (0.2 * 100 * 10 + 10 * 10) <= 1.1


def test_job_that_breaks_two_workers_alone_is_refused_for_a_while() -> None:
    """The first may be chance; after the second it is in quarantine, which ends."""
    quarantine = Quarantine(Rules(quarantine_ms=1000))
    quarantine.hear_of_death("bad", "http://a", "p:1", 0, now=0)
    assert not quarantine.holds("bad", 1)
    quarantine.hear_of_death("bad", "http://b", "p:2", 0, now=10)
    assert quarantine.holds("bad", 11)
    assert not quarantine.holds("bad", 1010)
    assert (quarantine.held(1009), quarantine.held(1010)) == ({"bad"}, set())


def test_innocent_neighbours_are_not_convicted() -> None:
    """One job breaks worker after worker, each with three neighbours of it that change: it alone is convicted."""
    quarantine = Quarantine(Rules())
    neighbours = iter(range(1000))
    now = 0
    while not quarantine.holds("bad", now):
        now += 5000
        for others, job in enumerate(["bad", *(f"good-{next(neighbours)}" for _ in range(3))]):
            quarantine.hear_of_death(job, f"http://{now}", f"p:{now}-{others}", 3 - others, now)
    assert now == 8 * 5000
    assert quarantine.held(now) == {"bad"}


def test_error_is_what_the_fleet_and_not_the_client_is_to_blame_for() -> None:
    """A result is none, nor what a client did wrong or did not wait for."""
    fine = {outcome for outcome in Outcome if not outcome.is_error}
    assert fine == {Outcome.RESULT, Outcome.BAD_REQUEST, Outcome.CLIENT_LEFT}
