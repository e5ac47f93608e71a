"""Second runs beside the first: when a job gets one, and each order in which the two end."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from router.fleet.model import Worker, WorkerRecord
from router.fleet.records import FleetState
from router.fleet.snapshot import Snapshot
from router.http.response import Phase, Response, UpstreamFailed
from router.jobs.options import JobOptions
from router.jobs.sooner.groups import Group
from router.jobs.sooner.hedging import PAUSE_S
from router.jobs.sooner.notes import Adopt, Brought
from router.policy.tenants import TenantRule
from router.policy.verdict import Blame, Kind
from router.scheduling.messages import Wish
from router.scheduling.pending import Lease, Unhedged
from tests.support.timeless import keep_loop_time, timeless
from tests.unit.jobs.test_adoption import Mail, Post
from tests.unit.jobs.test_dispatcher import BODY, SICK, WELL, Bench, Parts, fails, says

SLOW, FAST = "http://w1", "http://w2"  # in the order in which the scripted leases give them
LATE = b'{"status": "Failed", "run_result": {"status": "TimeLimitExceeded"}}'
# Long enough for the first look, the look-up of sizes and the second look.
A_WHILE_S = 0.6


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_loop_time(monkeypatch, "jobs.dispatcher", "jobs.ending", "jobs.job", "jobs.judging", "jobs.sooner.hedging")


def bench(speed: float = 0.3, transport: Post | None = None, **settings: Any) -> Bench:
    """Return a dispatcher with second runs, whose first worker has this speed."""
    made = Bench(settings={"hedge": {"enabled": True}, **settings}, transport=transport)
    records = (WorkerRecord(Worker(SLOW), speed=speed), WorkerRecord(Worker("http://w9"), speed=0.2))
    made.dispatcher._view.snapshot = Snapshot(FleetState(records))
    return made


async def doubled(**settings: Any) -> Bench:
    """Return a bench whose job has two runs under way."""
    made = bench(**settings)
    made.began()
    await asyncio.sleep(A_WHILE_S)
    assert [url for url, _, _ in made.workers.sent] == [SLOW, FAST]
    return made


async def come(made: Bench, run: int, outcome: Response | UpstreamFailed) -> None:
    """Let the first or the second run end."""
    made.workers.held[run - 1](outcome)
    await asyncio.sleep(0)


def law(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on a loop whose clock jumps."""

    def run() -> None:
        timeless(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@law
async def test_second_run_is_asked_for_on_a_worker_that_is_not_slow() -> None:
    """It has the first one's ticket and limits, and tries neither the first worker nor any slow one."""
    made = await doubled()
    first, second = made.leases.asked
    assert second.wish == Wish(0, is_hedge=True)
    assert second.tried == ("http://w1", "http://w9")
    assert (second.ticket, second.bound_s, second.wait_s, second.retry_of) == (71, first.bound_s, 0, "")
    assert made.workers.sent[0][1:] == made.workers.sent[1][1:]
    await come(made, 2, says())
    await come(made, 1, says())


@law
async def test_answer_of_the_second_run_counts_if_it_comes_first() -> None:
    """The client learns it, and the first run ends its lease later, and says nothing against its worker."""
    made = await doubled()
    await come(made, 2, says(body=WELL))
    (answer,) = made.given
    assert answer is not None
    assert dict(answer.headers)[b"x-router-worker"] == FAST.encode()
    assert dict(answer.headers)[b"x-router-attempt"] == b"2"
    assert made.leases.ended == [(FAST, Blame.OK, True, "")]
    assert made.buffers.held_bytes == len(BODY)  # for the first run
    await come(made, 1, says())
    assert len(made.given) == 1
    assert made.leases.ended[1:] == [(SLOW, Blame.OK, True, "")]
    assert made.buffers.held_bytes == 0
    counts = made.counts()
    assert (counts.hedges, counts.hedges_counted) == (1, 1)
    assert {url: each.jobs for url, each in counts.workers.items()} == {SLOW: 1, FAST: 1}
    assert counts.attempts[Kind.RESULT].count == 2


def test_metadata_says_that_a_second_run_s_answer_counts() -> None:
    """It says nothing where the first run's answer counts."""

    async def hedged(run: int) -> bytes:
        made = await doubled()
        head = msgspec.structs.replace(says().head, is_json=True)
        await come(made, run, Response(head, WELL, None))
        (answer,) = made.given
        assert answer is not None
        await come(made, 3 - run, says())
        return answer.body

    assert b'"hedged":true' in timeless(hedged(2))
    assert b"hedged" not in timeless(hedged(1))


@law
async def test_answer_of_the_first_run_counts_if_it_comes_first() -> None:
    """The second run ends its lease later."""
    made = await doubled()
    await come(made, 1, says())
    assert len(made.given) == 1
    await come(made, 2, says())
    assert made.leases.ended == [(SLOW, Blame.OK, True, ""), (FAST, Blame.OK, True, "")]
    assert made.buffers.held_bytes == 0
    assert made.counts().hedges_counted == 0


@law
async def test_second_run_that_fails_is_dropped() -> None:
    """Its worker is blamed for its own fault, and the first run's answer comes."""
    made = await doubled()
    await come(made, 2, fails(Phase.GARBLED))
    assert made.given == []
    assert made.leases.ended == [(FAST, Blame.FAULT, True, "")]
    await come(made, 1, says())
    assert [answer and answer.status for answer in made.given] == [200]
    assert len(made.leases.asked) == 2


@law
async def test_failed_first_run_waits_for_the_second() -> None:
    """There is no retry meanwhile, and the second run's answer is the job's."""
    made = await doubled()
    await come(made, 1, fails(Phase.DIED))
    await asyncio.sleep(1)
    assert (made.given, len(made.leases.asked)) == ([], 2)
    await come(made, 2, says())
    assert [answer and answer.status for answer in made.given] == [200]
    assert made.counts().hedges_counted == 1


@pytest.mark.parametrize("first", [1, 2])
def test_job_is_tried_again_when_both_runs_have_failed(first: int) -> None:
    """Once, for both count as attempts, and on a third worker; it gets no further second run."""

    async def law() -> None:
        made = await doubled()
        await come(made, first, fails(Phase.DIED))
        await come(made, 3 - first, fails(Phase.DIED))
        await asyncio.sleep(2)
        third = made.leases.asked[2]
        assert third.retry_of == made.job.name
        assert set(third.tried) == {SLOW, FAST}
        assert len(made.workers.sent) == 3
        await come(made, 3, says())
        assert [answer and answer.status for answer in made.given] == [200]

    timeless(law())


@law
async def test_error_of_both_runs_is_the_job_s_own() -> None:
    """Two workers say the same, so there is no third run, and nobody is blamed."""
    made = await doubled()
    await come(made, 2, says(body=SICK))
    await come(made, 1, says(body=SICK))
    await asyncio.sleep(0.1)
    assert [answer and (answer.status, SICK in answer.body) for answer in made.given] == [(200, True)]
    assert [blame for _, blame, _, _ in made.leases.ended] == [Blame.DOUBT, Blame.DOUBT]
    assert made.leases.resolved == [((FAST, SLOW), Blame.NONE, "")]


@law
async def test_time_limit_on_a_slow_worker_waits_for_the_second_run() -> None:
    """The limit may be the slow worker's, so the other answer counts."""
    made = await doubled()
    await come(made, 1, says(body=LATE))
    assert made.given == []
    await come(made, 2, says())
    assert [answer and answer.body for answer in made.given] == [WELL]


@pytest.mark.parametrize("is_late", [False, True])
def test_time_limit_is_the_answer_if_the_second_run_brings_none(is_late: bool) -> None:
    """It is better than an error, and than a retry."""

    async def law() -> None:
        made = await doubled(timeout=10)
        await come(made, 1, says(body=LATE))
        if is_late:
            await asyncio.sleep(10)
        else:
            await come(made, 2, fails(Phase.DIED))
        assert [answer and answer.body for answer in made.given] == [LATE]
        assert len(made.leases.asked) == 2
        if is_late:
            await come(made, 2, says())
        assert len(made.leases.ended) == 2

    timeless(law())


@pytest.mark.parametrize("ends", ["well", "badly", "too late"])
def test_group_does_not_fail_by_a_time_limit_that_is_not_the_answer(ends: str) -> None:
    """Until the job has its answer, the group's other jobs go on."""

    async def law() -> None:
        made, group = bench(timeout=10), Group("", "", "g")
        made.job = msgspec.structs.replace(made.job, options=JobOptions(group="g", stops_on_failure=True))
        made.began()
        await asyncio.sleep(A_WHILE_S)
        await come(made, 1, says(body=LATE))
        assert not made.dispatcher.groups.has_failed(group)
        if ends == "too late":
            await asyncio.sleep(10)
        await come(made, 2, fails(Phase.DIED) if ends == "badly" else says())
        assert [answer and answer.body for answer in made.given] == [WELL if ends == "well" else LATE]
        assert made.dispatcher.groups.has_failed(group) is (ends != "well")

    timeless(law())


@pytest.mark.parametrize(
    ("ends", "brought"),
    [
        ([says(body=LATE), says()], WELL),
        ([fails(Phase.DIED), says()], WELL),
        ([says(), fails(Phase.DIED)], WELL),
        ([says(), says(body=LATE)], WELL),
        ([says(body=LATE), fails(Phase.DIED)], None),
    ],
)
def test_next_identical_job_gets_the_answer_that_counts(
    ends: list[Response | UpstreamFailed], brought: bytes | None
) -> None:
    """The client has gone while both runs were under way: the end of one of them does not end the other's use."""

    async def law() -> None:
        mail = Mail()
        made, brings = bench(timeout=10, transport=Post(mail, "p")), list[Brought]()
        Post(mail, "q").hear(Brought, brings.append)
        made.began()
        await asyncio.sleep(10.1)
        assert [answer and answer.status for answer in made.given] == [504]
        for run, outcome in enumerate(ends, 1):
            await come(made, run, outcome)
        mail.readers["p", Adopt](Adopt(1, "q", 7))
        await asyncio.sleep(0.1)
        assert [bool(note.name) for note in brings] == [brought is not None]
        assert [answer.body for answer in mail.answers.values()] == [brought] * len(mail.answers)
        await asyncio.sleep(20)
        assert made.buffers.held_bytes == 0

    timeless(law())


@law
async def test_time_limit_of_the_second_run_counts() -> None:
    """Its worker is not slow."""
    made = await doubled()
    await come(made, 2, says(body=LATE))
    assert [answer and answer.body for answer in made.given] == [LATE]
    await come(made, 1, says())


@pytest.mark.parametrize("first", [1, 2])
def test_both_runs_go_on_after_the_deadline(first: int) -> None:
    """The client is told, and each run ends its lease; the body counts until both are over."""

    async def law() -> None:
        made = await doubled(timeout=10)
        await asyncio.sleep(10)
        assert [answer and answer.status for answer in made.given] == [504]
        await come(made, first, says())
        assert made.buffers.held_bytes == len(BODY)
        await come(made, 3 - first, says())
        assert made.buffers.held_bytes == 0
        assert len(made.leases.ended) == 2
        assert len(made.given) == 1

    timeless(law())


@law
async def test_deadline_holds_for_a_job_that_only_the_second_run_is_left_of() -> None:
    """The first run would have ended in time; the second one began later."""
    made = bench(timeout=12.1)  # the limits are 10 s, with 2 s of grace
    made.began()
    await asyncio.sleep(A_WHILE_S)
    await come(made, 1, fails(Phase.DIED))
    await asyncio.sleep(12.5)
    assert [answer and answer.status for answer in made.given] == [504]
    await come(made, 2, says())


@pytest.mark.parametrize("first", [1, 2])
def test_rest_of_the_loser_s_large_answer_is_closed(first: int) -> None:
    """The winner's is the client's to read; the loser's lease ends with its connection."""

    async def law() -> None:
        made = await doubled()
        won, lost = Parts(), Parts()
        await come(made, first, says(rest=won))
        (answer,) = made.given
        assert answer is not None
        await come(made, 3 - first, says(rest=lost))
        assert (won.is_closed, lost.is_closed) == (False, True)
        loser = FAST if first == 1 else SLOW
        assert made.leases.ended == [(loser, Blame.NONE, True, "")]
        assert answer.rest is not None
        assert [part async for part in answer.rest] == [b"rest"]
        assert len(made.leases.ended) == 2

    timeless(law())


@law
async def test_fault_of_this_program_gives_both_leases_back() -> None:
    """The client gets an error, and nothing stays held."""
    made = await doubled()
    (run,) = made.dispatcher._unanswered
    made.dispatcher._break_off(run, LookupError("a fault"))
    assert [answer and answer.status for answer in made.given] == [500]
    assert made.leases.ended == [(SLOW, Blame.NONE, True, ""), (FAST, Blame.NONE, True, "")]
    await come(made, 1, says())
    await come(made, 2, says())
    assert len(made.leases.ended) == 2


@law
async def test_lease_that_comes_too_late_is_given_back() -> None:
    """The first run has answered meanwhile."""
    made = bench()
    made.leases.script = [Lease(1, SLOW, 71, 0), None]
    made.began()
    await asyncio.sleep(A_WHILE_S)
    await come(made, 1, says())
    made.leases.asked[1].then(Lease(2, FAST, 71, 0))
    assert made.leases.ended[1:] == [(FAST, Blame.NONE, True, "")]
    assert len(made.workers.sent) == 1


@law
async def test_refused_second_run_is_asked_for_again() -> None:
    """Not at once, but while the job still runs."""
    made = bench()
    made.leases.script = [Lease(1, SLOW, 71, 0), Unhedged(), Lease(3, FAST, 71, 0)]
    made.began()
    await asyncio.sleep(A_WHILE_S + 2 * PAUSE_S)
    assert len(made.leases.asked) == 3
    assert len(made.workers.sent) == 2
    await come(made, 1, says())
    await come(made, 2, says())


@pytest.mark.parametrize(
    ("speed", "expected_ms", "is_doubled"),
    [(0.3, 0, True), (1.0, 0, False), (0.7, 100_000, False), (0.3, 100_000, True), (0.3, 10, True), (1.0, 500, True)],
)
def test_slow_workers_and_overrunning_jobs_get_second_runs(speed: float, expected_ms: int, is_doubled: bool) -> None:
    """Others get none, however long they run."""

    async def law() -> None:
        made = bench(speed)
        options = msgspec.structs.replace(made.job.options, expected_ms=expected_ms)
        made.job = msgspec.structs.replace(made.job, options=options)
        made.began()
        await asyncio.sleep(5)
        assert len(made.leases.asked) == 1 + is_doubled
        for run in range(len(made.workers.sent)):
            await come(made, run + 1, says())

    timeless(law())


@law
async def test_nothing_is_asked_for_while_jobs_wait() -> None:
    """With pools or rules of tenants the scheduler alone can tell which room they wait for, so it is asked."""
    made = bench()
    made.leases.others_wait = True
    made.began()
    await asyncio.sleep(2)
    assert len(made.leases.asked) == 1
    state = made.dispatcher._view.snapshot.state
    made.dispatcher._view.snapshot = Snapshot(replace(state, tenants={"a": TenantRule()}))
    await asyncio.sleep(1)
    assert len(made.leases.asked) == 2
    await come(made, 1, says())
    await come(made, 2, says())


@law
async def test_jobs_are_not_looked_at_unless_second_runs_are_enabled() -> None:
    """A job runs on a slow worker for as long as it takes."""
    made = bench(hedge={"enabled": False})
    made.began()
    await asyncio.sleep(60)
    assert len(made.leases.asked) == 1
    await come(made, 1, says())
