"""Identical jobs share runs and answers, with scripted leases and scripted workers."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from router.http.answer import Answer
from router.http.headers import read_worker_head
from router.http.response import Phase, Response
from router.jobs.job import Job, JobRun
from router.jobs.options import JobOptions
from router.jobs.sooner.groups import Group
from router.jobs.sooner.reuse import Woken
from router.policy.tenants import ReuseRule, TenantRule
from router.scheduling.messages import RunOver, SharedRun
from router.scheduling.pending import ClientLeft, Lease, QueueTimeout, RunsElsewhere
from tests.support.timeless import keep_loop_time, timeless
from tests.unit.jobs.test_dispatcher import Bench, Workers, fails, says

pytestmark = pytest.mark.usefixtures("loop_time")
RESULT = b'{"status":"Success","run_result":{"status":"Finished"}}'
LIMITED = b'{"status":"Failed","run_result":{"status":"TimeLimitExceeded"}}'
LEASE = Lease(1, "http://w1", 71, 5)
KEEP_MS = 60_000


@pytest.fixture
def loop_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatcher goes by the loop's clock."""
    keep_loop_time(monkeypatch, "jobs.dispatcher", "jobs.ending", "jobs.job", "jobs.judging", "jobs.sooner.reuse")


class Alike:
    """A dispatcher whose clients let identical jobs share runs; `given` are the answers by job."""

    def __init__(self, max_kb: int = 64, **settings: Any) -> None:
        rule = TenantRule(reuse=ReuseRule(KEEP_MS / 1000, max_kb))
        self.bench = Bench(Workers(), settings, tenants={"default": rule})
        self.bench.leases.script = [None] * 20
        self.given: dict[str, Answer | None] = {}
        self._left: dict[str, asyncio.Event] = {}

    def begin(self, name: str, **changes: Any) -> JobRun:
        """Begin a job with this request id."""
        left = self._left[name] = asyncio.Event()
        share = self.bench.buffers.share()
        job: Job = msgspec.structs.replace(
            self.bench.job, request_id=name.encode(), has_left=_waits_for(left), share=share, **changes
        )
        return self.bench.dispatcher.begin(job, lambda answer: self.given.__setitem__(name, answer))

    async def leave(self, name: str) -> None:
        """Let a client leave."""
        self._left[name].set()
        await asyncio.sleep(0.01)

    async def lease(self, number: int = 0) -> None:
        """Give the job that has asked at this place a lease, and let its attempt begin."""
        self.bench.leases.asked[number].then(LEASE)
        await asyncio.sleep(0.01)

    async def answer(self, response: Any, number: int = 0) -> None:
        """Let the attempt at this place end."""
        self.bench.workers.held[number](response)
        await asyncio.sleep(0.01)

    @property
    def key(self) -> str:
        """The key of the jobs."""
        return self.bench.job.key

    def reused(self) -> set[str]:
        """Return the jobs that have got another one's answer."""
        return {name for name, given in self.given.items() if given is not None and b'"reused":true' in given.body}


def _waits_for(left: asyncio.Event) -> Callable[[], Coroutine[None, None, None]]:
    async def has_left() -> None:
        await left.wait()

    return has_left


def final(body: bytes = RESULT) -> Response:
    """Return a worker's answer, to which metadata are added."""
    return Response(read_worker_head(200, [(b"content-type", b"application/json")]), body)


def law(check: Callable[[Alike], Coroutine[None, None, None]], **settings: Any) -> None:
    """Check a law in a time that does not pass by itself."""

    async def run() -> None:
        await check(Alike(**settings))

    timeless(run())


def test_answer_serves_all_that_wait_and_is_kept() -> None:
    """Each gets an answer of its own with the run's worker; hits and the time saved are counted."""

    async def check(alike: Alike) -> None:
        for name in "abc":
            alike.begin(name)
        assert len(alike.bench.leases.asked) == 1
        await alike.lease()
        await asyncio.sleep(3)
        await alike.answer(final())
        for name, given in alike.given.items():
            assert given is not None
            assert dict(given.headers)[b"x-request-id"] == name.encode()
            assert json.loads(given.body)["router_metadata"]["worker_url"] == "http://w1"
        assert (set(alike.given), alike.reused()) == ({"a", "b", "c"}, {"b", "c"})
        (over,) = alike.bench.leases.runs_over
        assert (over.key, over.ms, bool(over.answer)) == (alike.key, KEEP_MS, True)
        (counts,) = alike.bench.counts().tenants.values()
        assert (counts.jobs, counts.reused) == (3, 2)
        assert counts.saved_s == pytest.approx(6, abs=0.1)

    law(check)


@pytest.mark.parametrize("answer", [final(LIMITED), final(b'{"status":"Success","compile_result":{"status":"Error"}}')])
def test_answer_that_is_not_final_serves_nobody_else(answer: Response) -> None:
    """All that have waited run by themselves at once, and for a moment other processes' jobs do."""

    async def check(alike: Alike) -> None:
        for name in "abc":
            alike.begin(name)
        await alike.lease()
        await alike.answer(answer)
        assert list(alike.given) == ["a"]
        _, *others = alike.bench.leases.asked
        assert [other.wish for other in others] == [None, None]
        (over,) = alike.bench.leases.runs_over
        assert (over.ms > 0, over.answer) == (True, "")

    law(check)


def test_failed_run_serves_nobody_else() -> None:
    """If all attempts fail, the others run by themselves."""

    async def check(alike: Alike) -> None:
        alike.begin("a")
        alike.begin("b")
        await alike.lease()
        await alike.answer(fails(Phase.GARBLED))
        assert list(alike.given) == ["a"]
        assert len(alike.bench.leases.asked) == 2

    law(check, retry={"attempts": 1})


def test_large_answer_serves_this_process_and_is_not_kept() -> None:
    """Jobs that wait here get it."""

    async def check(alike: Alike) -> None:
        alike.begin("a")
        alike.begin("b")
        await alike.lease()
        await alike.answer(final(RESULT + b" " * 2000))
        assert alike.reused() == {"b"}
        assert [over.answer for over in alike.bench.leases.runs_over] == [""]

    law(check, max_kb=1)


def test_pending_run_goes_on_with_the_next_job() -> None:
    """If its client leaves or its wait is over, the next one has its place; after the last one the run is over."""

    async def check(alike: Alike) -> None:
        leases = alike.bench.leases
        for name in "abc":
            alike.begin(name)
        leases.asked[0].then(ClientLeft())
        await asyncio.sleep(0.01)
        leases.asked[1].then(QueueTimeout())
        await asyncio.sleep(0.01)
        assert [(asked.ticket, asked.wish and asked.wish.key) for asked in leases.asked] == [
            (0, alike.key),
            (50, alike.key),
            (50, alike.key),
        ]
        assert not leases.runs_over
        leases.asked[2].then(ClientLeft())
        await asyncio.sleep(0.01)
        assert leases.runs_over == [RunOver(alike.key)]
        assert [given and given.status for given in alike.given.values()] == [None, 504, None]

    law(check)


def test_place_of_a_skipped_job_is_the_next_one_s() -> None:
    """That one is of no group, or of another one."""

    async def check(alike: Alike) -> None:
        leases = alike.bench.leases
        alike.begin("skipped", options=JobOptions(group="g", stops_on_failure=True))
        alike.begin("next")
        alike.bench.dispatcher.groups.fail(Group("", "", "g"))
        await asyncio.sleep(0.01)
        assert [asked.ticket for asked in leases.asked] == [0, 50]
        assert [(name, given and given.status) for name, given in alike.given.items()] == [("skipped", 424)]

    law(check)


def test_job_that_waits_for_another_ones_run_is_skipped() -> None:
    """The run, which is of no group, goes on for the others."""

    async def check(alike: Alike) -> None:
        alike.begin("runs")
        alike.begin("skipped", options=JobOptions(group="g", stops_on_failure=True))
        alike.begin("waits")
        await alike.lease()
        alike.bench.dispatcher.groups.fail(Group("", "", "g"))
        await asyncio.sleep(0.01)
        assert [(name, given and given.status) for name, given in alike.given.items()] == [("skipped", 424)]
        await alike.answer(final())
        assert ({name: given and given.status for name, given in alike.given.items()}, alike.reused()) == (
            {"skipped": 424, "runs": 200, "waits": 200},
            {"waits"},
        )
        assert len(alike.bench.leases.asked) == 1

    law(check)


def test_job_that_waits_may_leave() -> None:
    """The run goes on without it."""

    async def check(alike: Alike) -> None:
        for name in "abc":
            alike.begin(name)
        await alike.lease()
        await alike.leave("b")
        assert alike.given == {"b": None}
        await alike.answer(final())
        assert alike.reused() == {"c"}

    law(check)


def test_answer_that_is_late_for_its_client_serves_others() -> None:
    """The client gets 504, and the attempt goes on."""

    async def check(alike: Alike) -> None:
        alike.begin("a", client_s=5.0)
        alike.begin("b")
        await alike.lease()
        await asyncio.sleep(6)
        assert [given and given.status for given in alike.given.values()] == [504]
        await alike.answer(final())
        assert alike.reused() == {"b"}

    law(check)


def test_job_waits_for_the_run_of_another_process() -> None:
    """It asks again every second, and at once when it hears that the run is over; the answer serves others here."""

    async def check(alike: Alike) -> None:
        leases = alike.bench.leases
        alike.begin("a")
        alike.begin("b")
        leases.asked[0].then(RunsElsewhere(SharedRun(1, 90, "q")))
        await asyncio.sleep(1.1)
        assert [asked.ticket for asked in leases.asked] == [0, 90]
        alike.bench.dispatcher.reuse._woken(Woken(alike.key))  # the note comes before the reply
        leases.asked[1].then(RunsElsewhere(SharedRun(1, 90, "q")))
        await asyncio.sleep(0.01)
        assert len(leases.asked) == 3
        leases.asked[2].then(RunsElsewhere(SharedRun(1, 90, "q")))
        await asyncio.sleep(0.01)
        alike.bench.dispatcher.reuse._woken(Woken(alike.key))
        assert len(leases.asked) == 4
        kept = Alike()
        kept.begin("z")
        await kept.lease()
        await kept.answer(final())
        leases.asked[3].then(RunsElsewhere(SharedRun(1, 90, "", kept.bench.leases.runs_over[0].answer)))
        await asyncio.sleep(0.01)
        assert alike.reused() == {"a", "b"}
        assert not leases.runs_over

    law(check)


def test_answer_of_another_release_is_not_used() -> None:
    """The jobs run by themselves."""

    async def check(alike: Alike) -> None:
        alike.begin("a")
        alike.begin("b")
        alike.bench.leases.asked[0].then(RunsElsewhere(SharedRun(1, 90, "", "[]")))
        await asyncio.sleep(0.01)
        assert (len(alike.bench.leases.asked), alike.given) == (3, {})

    law(check)


def test_nobody_waits_longer_than_its_client() -> None:
    """Neither for a run of this process nor for one of another."""

    async def check(alike: Alike) -> None:
        leases = alike.bench.leases
        alike.begin("a", client_s=5.0)
        alike.begin("b", client_s=3.0)
        for number in range(6):
            if len(leases.asked) > number:
                leases.asked[number].then(RunsElsewhere(SharedRun(1, 90, "q")))
            await asyncio.sleep(1.01)
        assert {name: given and given.status for name, given in alike.given.items()} == {"b": 504, "a": 504}
        assert leases.runs_over == [RunOver(alike.key)]

    law(check)


def test_header_wins_over_the_rule() -> None:
    """With 0 a job has a run of its own; with seconds it shares one although its tenant has no rule."""

    async def check(alike: Alike) -> None:
        for name in "ab":
            alike.begin(name, options=JobOptions(reuse_s=0))
        assert [asked.wish for asked in alike.bench.leases.asked] == [None, None]
        plain = Bench()
        plain.leases.script = [None] * 2
        for _ in range(2):
            plain.job = msgspec.structs.replace(plain.job, options=JobOptions(reuse_s=7))
            plain.began()
        assert [asked.wish and asked.wish.reuse_ms for asked in plain.leases.asked] == [7000]

    law(check)


def test_job_shares_runs_for_a_millisecond_at_least() -> None:
    """With none, the scheduler would give it what a client has left, as to a job that shares nothing."""

    async def main() -> None:
        bench = Bench(tenants={"default": TenantRule(reuse=ReuseRule(0.0004))})
        bench.leases.script = [None]
        bench.began()
        assert [asked.wish and asked.wish.reuse_ms for asked in bench.leases.asked] == [1]

    timeless(main())


def test_only_answers_that_can_be_final_are_shared() -> None:
    """Jobs of other endpoints have runs of their own."""

    async def check(alike: Alike) -> None:
        for name in "ab":
            alike.begin(name, path="/run_jupyter")
        assert [asked.wish for asked in alike.bench.leases.asked] == [None, None]

    law(check)


def test_answer_without_opt_in_is_unchanged() -> None:
    """No job asks with a key."""

    async def run() -> None:
        bench = Bench(Workers(says()))
        await bench.run()
        assert [asked.wish for asked in bench.leases.asked] == [None]

    timeless(run())
