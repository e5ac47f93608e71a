"""After a bug of the router at any step the client has an answer, and nothing is held."""

import asyncio
from typing import Any

import msgspec
import pytest

from router.http.response import Phase
from router.jobs.body_budget import BodyShare
from router.policy.verdict import Blame
from router.scheduling.pending import Lease
from tests.support.timeless import timeless
from tests.unit.jobs.test_dispatcher import BODY, Bench, Parts, Workers, fails, says

pytestmark = pytest.mark.usefixtures("loop_time")


def raises(*_: object, **__: object) -> Any:
    """Raise an error that no code expects."""
    raise LookupError("a fault")


def statuses(bench: Bench) -> list[int | None]:
    """Return the client's answer."""
    return [None if answer is None else answer.status for answer in bench.given]


async def has_ended(bench: Bench) -> None:
    """Fail if a stop would wait for an attempt."""
    await asyncio.wait_for(bench.dispatcher.finish(), 1)


def test_job_that_cannot_ask_for_a_lease_is_answered() -> None:
    """The answer comes after `begin` has returned."""

    async def law() -> None:
        bench = Bench()
        parts: Any = bench.leases
        parts.ask = raises
        bench.began()
        assert bench.given == []
        await asyncio.sleep(0.1)
        assert statuses(bench) == [500]

    timeless(law(), 1000.0)


@pytest.mark.parametrize("client_s", [None, 4.5])
def test_lease_of_a_job_that_cannot_be_sent_is_returned(client_s: float | None) -> None:
    """The worker is not blamed, and the deadline's timer is stopped."""

    async def law() -> None:
        bench = Bench(client_s=client_s)
        parts: Any = bench.workers
        parts.send = raises
        bench.began()
        await asyncio.sleep(10)
        assert (statuses(bench), bench.leases.ended) == ([500], [("http://w1", Blame.NONE, True, "")])
        await has_ended(bench)

    timeless(law(), 1000.0)


@pytest.mark.parametrize("outcome", [says(503), fails(Phase.DIED), says(rest=Parts()), says(503, rest=Parts())])
def test_attempt_whose_end_cannot_be_reported_is_over(outcome: Any) -> None:
    """Its lease is returned, the rest of a large answer is closed, and a stop does not wait for it."""

    async def law() -> None:
        bench = Bench(Workers(outcome))
        parts: Any = bench.recorder
        parts.attempt_ended = raises
        bench.began()
        await asyncio.sleep(0.1)
        assert (statuses(bench), bench.leases.ended) == ([500], [("http://w1", Blame.NONE, True, "")])
        rest = getattr(outcome, "rest", None)
        assert rest is None or rest.is_closed
        await has_ended(bench)

    timeless(law(), 1000.0)


def test_large_answer_with_a_bug_ends_its_lease_once() -> None:
    """The client has a part of the answer, and cannot read on."""

    async def law() -> None:
        rest = Parts()
        bench = Bench(Workers(says(rest=rest)))
        parts: Any = bench.recorder
        parts.job_ended = raises
        bench.began()
        await asyncio.sleep(0.1)
        assert (statuses(bench), rest.is_closed) == ([200], True)
        assert bench.leases.ended == [("http://w1", Blame.NONE, True, "")]

    timeless(law(), 1000.0)


@pytest.mark.parametrize("outcome", [says(503), fails(Phase.NO_MEANS)])
def test_job_that_cannot_ask_again_is_answered(outcome: Any) -> None:
    """This holds after a failed attempt, and after a wait for this host's means."""

    async def law() -> None:
        bench = Bench(Workers(outcome))
        parts: Any = bench.leases
        ask = bench.leases.ask
        parts.ask = lambda *given: raises() if bench.leases.asked else ask(*given)
        bench.began()
        await asyncio.sleep(1)
        assert (statuses(bench), len(bench.leases.asked)) == ([500], 1)

    timeless(law(), 1000.0)


def test_deadline_answers_the_client_in_spite_of_a_bug() -> None:
    """The attempt continues."""

    class Failing(BodyShare):
        __slots__ = ()

        def hand_over(self) -> BodyShare:
            raise LookupError("a fault")

    async def law() -> None:
        bench = Bench(client_s=4.5)
        bench.job = msgspec.structs.replace(bench.job, share=Failing(bench.buffers))
        bench.began()
        await asyncio.sleep(5)
        assert statuses(bench) == [500]
        await has_ended(bench)
        bench.workers.held[0](says())
        assert bench.leases.ended == [("http://w1", Blame.OK, True, "")]

    timeless(law(), 1000.0)


def test_doubts_of_a_late_attempt_are_dropped() -> None:
    """No other worker is asked whether the error is the job's own, so none is blamed, even after a bug."""

    async def law() -> None:
        for fault in (None, LookupError("a fault")):
            bench = Bench(client_s=4.5)
            bench.began()
            await asyncio.sleep(5)
            bench.leases.fault = fault
            bench.workers.held[0](says(500))
            assert bench.leases.resolved == [(("http://w1",), Blame.NONE, "")]
            assert statuses(bench) == [504]

    timeless(law(), 1000.0)


def test_job_whose_next_step_never_happens_is_broken_off() -> None:
    """Some seconds after its deadline its attempt's answer is dropped, and its lease ends once."""

    async def law() -> None:
        bench = Bench()
        bench.began()
        await asyncio.sleep(104)
        assert bench.given == []
        await asyncio.sleep(4)
        assert (statuses(bench), bench.leases.ended) == ([500], [("http://w1", Blame.NONE, True, "")])
        rest = Parts()
        bench.workers.held[0](says(rest=rest))
        assert (len(bench.leases.ended), rest.is_closed) == (1, True)
        await has_ended(bench)

    timeless(law(), 1000.0)


def test_job_without_an_answer_to_its_lease_leaves_the_queue() -> None:
    """A lease that arrives later is returned."""

    async def law() -> None:
        bench = Bench()
        bench.leases.script = [None]
        bench.began()
        await asyncio.sleep(108)
        assert (statuses(bench), bench.leases.given_up) == ([500], bench.leases.asked)
        bench.leases.asked[0].then(Lease(1, "http://w1", 71, 5))
        assert (bench.leases.ended, bench.workers.sent) == ([("http://w1", Blame.NONE, True, "")], [])

    timeless(law(), 1000.0)


@pytest.mark.parametrize("leaves", [False, True])
def test_ended_job_is_no_longer_watched(caplog: pytest.LogCaptureFixture, *, leaves: bool) -> None:
    """A job ends with its answer or when its client leaves."""

    async def law() -> None:
        bench = Bench(Workers(says(503), says()), has_left=leaves)
        bench.began()
        other = Bench()
        other.began()  # with or without another watched job
        await asyncio.sleep(90)
        other.workers.held[0](says())
        await asyncio.sleep(60)
        assert (statuses(bench), statuses(other)) == ([None if leaves else 200], [200])
        assert not bench.dispatcher._unanswered

    timeless(law(), 1000.0)
    assert "fault" not in caplog.text


def test_large_job_is_scanned_while_other_tasks_run() -> None:
    """Its limits are found in its body; a small job asks for its lease at once."""

    async def law() -> None:
        for body, at_once in ((BODY, 1), (bytearray(BODY[:-1] + b', "stdin": "%s"}' % (b"x" * 2**20)), 0)):
            bench = Bench(Workers(says()))
            bench.job = msgspec.structs.replace(bench.job, body=body)
            running = asyncio.create_task(bench.run())
            await asyncio.sleep(0)
            assert len(bench.leases.asked) == at_once
            assert (await running).status == 200
            assert bench.leases.asked[0].bound_s == 13

    timeless(law(), 1000.0)
