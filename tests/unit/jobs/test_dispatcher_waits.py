"""How a job that no worker ran waits again: for this host's means, for room, or for a reachable worker."""

import asyncio
import json

import pytest

from router.http.response import Phase
from router.policy.verdict import Kind
from router.scheduling.pending import Exhausted, Lease
from tests.support.timeless import timeless
from tests.unit.jobs.test_dispatcher import Bench, Workers, fails, says

FIRST, SECOND, THIRD = (Lease(number, f"http://w{number}", 70 + number, 5) for number in (1, 2, 3))


pytestmark = pytest.mark.usefixtures("loop_time")


def test_job_waits_a_moment_for_means_and_then_for_room() -> None:
    """The moment is a tenth of a second, in which a file handle may be closed; the time for room is not shortened."""

    async def law() -> None:
        bench = Bench(Workers(fails(Phase.NO_MEANS)), {"queue": {"timeout": 30}})
        bench.began()
        for after_s, asked in ((0.09, 1), (0.02, 2)):
            await asyncio.sleep(after_s)
            assert len(bench.leases.asked) == asked
        assert bench.leases.asked[1].wait_s == pytest.approx(30)

    timeless(law(), 1000.0)


def test_wait_for_means_ends_when_the_client_s_time_ends() -> None:
    """The client gets its answer in time."""

    async def law() -> None:
        bench = Bench(client_s=1.0)  # of which half a second is for the answer's way
        bench.began()
        await asyncio.sleep(0.45)
        bench.workers.held[0](fails(Phase.NO_MEANS))
        await asyncio.sleep(0.04)
        assert bench.given == []
        await asyncio.sleep(0.02)
        assert ([answer and answer.status for answer in bench.given], len(bench.leases.asked)) == ([504], 1)

    timeless(law(), 1000.0)


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_client_that_leaves_while_its_job_waits_for_means_gets_no_attempt(*, is_cancelled: bool) -> None:
    """This holds both for a client that hangs up and for a cancelled job."""

    async def law() -> None:
        bench = Bench(Workers(fails(Phase.NO_MEANS)), has_left=not is_cancelled)
        running = asyncio.create_task(bench.run())
        await asyncio.sleep(0.05)
        if is_cancelled:
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.sleep(1)
        assert (len(bench.leases.asked), bench.answered()) == (1, [499])

    timeless(law(), 1000.0)


@pytest.mark.parametrize("never_ran", [fails(Phase.CONNECT), says(429)])
def test_job_that_no_worker_ran_keeps_its_waiting_time(never_ran: object) -> None:
    """The attempt's time does not count as waiting for room."""

    async def law() -> None:
        for timeout_s, wait_s in ((300, 98), (30, 30)):
            bench = Bench(settings={"queue": {"timeout": timeout_s}})
            bench.began()
            await asyncio.sleep(2)
            bench.workers.held[0](never_ran)  # type: ignore[arg-type]
            assert bench.leases.asked[1].wait_s == pytest.approx(wait_s)

    timeless(law(), 1000.0)


def test_job_without_room_is_not_refused_for_lack_of_workers() -> None:
    """The worker has answered, so there is one."""

    async def law() -> None:
        bench = Bench(Workers(says(429), says()))
        bench.leases.is_enough = True
        assert (await bench.run()).status == 200

    timeless(law(), 1000.0)


def test_retry_without_room_is_counted_once() -> None:
    """The second worker did not run the job, so the next attempt is no further retry."""

    async def law() -> None:
        bench = Bench(Workers(says(503), says(429), says()))
        await bench.run()
        assert bench.counts().retries == {Kind.FAULT: 1, Kind.BUSY: 1}

    timeless(law(), 1000.0)


def test_job_without_a_failure_may_use_any_worker() -> None:
    """This host could not connect to the only worker, and may try it again."""

    async def law() -> None:
        bench = Bench(Workers(fails(Phase.NO_MEANS), says()))
        bench.leases.script = [FIRST, Exhausted(), SECOND]
        assert (await bench.run()).status == 200
        assert [asked.tried for asked in bench.leases.asked] == [(), ("http://w1",), ()]

    timeless(law(), 1000.0)


@pytest.mark.parametrize(
    ("attempts", "unreached", "status", "attempt"),
    [(2, set(), 503, b"2"), (3, set(), 200, b"3"), (2, {""}, 200, b"2"), (2, {"gpu"}, 503, b"2")],
)
def test_worker_unreachable_for_a_retry_counts_as_tried_if_none_is_left(
    attempts: int, unreached: set[str], status: int, attempt: bytes
) -> None:
    """If no worker of its pool can be reached, the job waits like all others and spends no attempt."""

    async def law() -> None:
        bench = Bench(Workers(says(503), fails(Phase.CONNECT), says()), {"retry": {"attempts": attempts}})
        bench.leases.script, bench.leases.unreached = [FIRST, SECOND, Exhausted(), THIRD], unreached
        answer = await bench.run()
        assert (answer.status, dict(answer.headers)[b"x-router-attempt"]) == (status, attempt)
        if status == 503:
            assert json.loads(answer.body)["detail"] == "All workers failed after 2 attempts"
        assert (bench.answered(), len(bench.leases.asked)) == ([status], 3 if status == 503 else 4)

    timeless(law(), 1000.0)
