"""What the dispatcher reports to the scheduler and the log about a job's attempts and its end."""

import asyncio

import pytest

from router.http.headers import read_worker_head
from router.http.response import Phase, Response, UpstreamFailed
from router.policy.verdict import Blame
from tests.support.timeless import timeless
from tests.unit.jobs.test_dispatcher import Bench, Parts, Workers, fails, says

SICK = "returned 503: Service Unavailable"


pytestmark = pytest.mark.usefixtures("loop_time")


@pytest.mark.parametrize(
    ("outcome", "cause", "ms"),
    [
        (says(), "", 0),
        (says(503), SICK, 0),
        (fails(Phase.CONNECT), fails(Phase.CONNECT).cause, 1500),
        (fails(Phase.DIED), fails(Phase.DIED).cause, 1500),
        (fails(Phase.TIMED_OUT), fails(Phase.TIMED_OUT).cause, 0),
        (Response(read_worker_head(429, [(b"retry-after", b"7")]), b""), "returned 429: Too Many Requests", 7000),
    ],
)
def test_report_of_an_attempt_has_its_cause_and_duration(
    outcome: Response | UpstreamFailed, cause: str, ms: int
) -> None:
    """If the worker is away or died, it is the attempt's duration; if it has no room, the rest that it asks for."""

    async def law() -> None:
        bench = Bench()
        bench.began()
        await asyncio.sleep(1.5)
        bench.workers.held[0](outcome)
        assert bench.leases.causes == [(cause, ms)]

    timeless(law(), 1000.0)


def test_error_is_reported_when_another_worker_did_the_job() -> None:
    """The log line of an ejection has this cause."""

    async def law() -> None:
        bench = Bench(Workers(says(500), says()))
        await bench.run()
        assert bench.leases.doubts == ["returned 500: Internal Server Error"]

    timeless(law(), 1000.0)


@pytest.mark.parametrize(
    ("percent", "per_second", "blame"), [(0, 0, Blame.ERROR), (0, 0.5, Blame.DOUBT), (0.5, 0, Blame.DOUBT)]
)
def test_error_is_in_doubt_if_the_job_can_be_retried(percent: float, per_second: float, blame: Blame) -> None:
    """Either half of the budget is enough; without a budget no other worker will be asked."""

    async def law() -> None:
        bench = Bench(Workers(says(500)), {"retry": {"budget_percent": percent, "budget_per_second": per_second}})
        bench.began()
        await asyncio.sleep(0.1)
        assert [told for _, told, _, _ in bench.leases.ended] == [blame]

    timeless(law(), 1000.0)


def test_doubts_of_a_job_whose_client_has_left_are_dropped() -> None:
    """No other worker will do the job, so none is blamed."""

    async def law() -> None:
        bench = Bench(Workers(says(500)), has_left=True)
        bench.began()
        await asyncio.sleep(0.1)
        assert (bench.given, bench.leases.resolved) == ([None], [(("http://w1",), Blame.NONE, "")])

    timeless(law(), 1000.0)


@pytest.mark.parametrize(("first", "is_named"), [(says(503), False), (fails(Phase.DIED), True)])
def test_large_answer_s_report_names_a_suspected_job(first: Response | UpstreamFailed, is_named: bool) -> None:
    """The report names the job only if a worker died under it."""

    async def law() -> None:
        bench = Bench(Workers(first, says(rest=Parts())))
        answer = await bench.run()
        assert answer.rest is not None
        assert [part async for part in answer.rest] == [b"rest"]
        assert bench.leases.ended[1] == ("http://w2", Blame.OK, True, bench.job.name if is_named else "")

    timeless(law(), 1000.0)


def test_log_has_each_failed_attempt_and_each_job_without_a_result(caplog: pytest.LogCaptureFixture) -> None:
    """A line names what the worker did, and a job with a result has no line."""

    async def law() -> None:
        await Bench(Workers(says())).run()
        bench = Bench(Workers(says(503), says(503)), {"retry": {"attempts": 2}})
        await bench.run()

    timeless(law(), 1000.0)
    assert caplog.messages == [
        f"Worker http://w1 {SICK} (job id, /run_code, attempt 1)",
        f"Worker http://w2 {SICK} (job id, /run_code, attempt 2)",
        f"Job id failed: 503 all_failed after 0.000 s, /run_code; http://w1 {SICK}; http://w2 {SICK}",
    ]


def test_log_has_a_client_that_left(caplog: pytest.LogCaptureFixture) -> None:
    """The line has the job's progress."""
    caplog.set_level("INFO")

    async def law() -> None:
        bench = Bench()
        running = asyncio.create_task(bench.run())
        await asyncio.sleep(2)
        running.cancel()
        await asyncio.wait([running])

    timeless(law(), 1000.0)
    told = "Job id failed: 499 client_left after 2.000 s, /run_code; http://w1 has not answered yet"
    assert caplog.messages == [told]


def test_log_has_an_answer_that_was_cut(caplog: pytest.LogCaptureFixture) -> None:
    """The line has the job's duration until then."""

    async def law() -> None:
        bench = Bench(Workers(says(rest=Parts(fails(Phase.DIED)))))
        answer = await bench.run()
        await asyncio.sleep(2)
        assert answer.rest is not None
        with pytest.raises(UpstreamFailed):
            await anext(answer.rest)

    timeless(law(), 1000.0)
    (told,) = caplog.messages
    assert told.startswith("Job id failed: 200 answer_cut after 2.000 s, /run_code; http://w")
