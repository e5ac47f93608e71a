"""Which scheduler is asked, and when: the one in Redis or the one in this process; Redis' replies are scripted."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from redis.exceptions import RedisError

from router.fleet.keys import Keys
from router.fleet.model import Health, Member, Worker, WorkerRecord
from router.fleet.redis_client import RedisUnavailable
from router.logs import local_time
from router.policy.verdict import Blame
from router.scheduling import failover
from router.scheduling.failover import PAUSE_S, RETURN_BEATS, FailoverScheduler
from router.scheduling.messages import Arrival, Beat, Call, Ended, Grant, Reply, Rules
from router.telemetry.recorder import Recorder
from tests.support.lua_scheduler import unpacked
from tests.support.timeless import timeless

A, B = "http://a", "http://b"
FIRST = Call("p", arrived=(Arrival(1, 1000, 1000),))
BEAT = Call("p", beat=Beat())


class Fleet:
    """One process of several, with a Redis that answers by `redis`."""

    def __init__(self, *workers: Worker, processes: int = 1, **rules: Any) -> None:
        self.redis: Callable[[Call], Reply | Exception] = lambda _: Reply(routable=7)
        self.asked: list[Call] = []
        self.answers = True
        self.keys = Keys("sfr")
        self.told: list[Reply] = []
        self.again: list[Call] = []
        self.recorder = Recorder()
        self.follow(*workers)
        parts: Any = self
        self.scheduler = FailoverScheduler(parts, parts, Rules(**rules), processes, self.recorder)

    def follow(self, *workers: Worker) -> None:
        """Make these workers the fleet."""
        members = tuple(Member(worker, Health.HEALTHY) for worker in workers)
        records = tuple(WorkerRecord(worker, Health.HEALTHY) for worker in workers)
        self.snapshot = SimpleNamespace(members=members, state=SimpleNamespace(records=records, tenants={}))

    def script(self, *_: object) -> SimpleNamespace:
        """Return the scripted script."""
        return SimpleNamespace(ask=self._ask)

    def _ask(self, text: bytes, then: Callable[[object], None]) -> None:
        call = unpacked(text)
        self.asked.append(call)
        answer = self.redis(call)
        told = answer if isinstance(answer, Exception) else msgspec.msgpack.encode(answer)
        asyncio.get_running_loop().call_soon(then, told)

    def succeeded(self, steady: str = "") -> None:
        """Behave like RedisClient."""
        del steady
        self.answers = True

    def failed(self, error: Exception, steady: str = "") -> Any:
        """Behave like RedisClient."""
        del steady
        self.answers = False
        return RedisUnavailable(str(error))

    def all_again(self, call: Call) -> Call:
        """Return the call with everything that this process knows."""
        self.again.append(call)
        return msgspec.structs.replace(call, arrived=(Arrival(9, 1000, 1000),), seed=4)

    async def ask(self, call: Call) -> Reply:
        """Ask, and return the reply, which arrives once and in a later turn of the loop."""
        before = len(self.told)
        self.scheduler(call, self.all_again, self.told.append)
        assert len(self.told) == before
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(self.told) == before + 1
        return self.told[-1]


def run(law: Callable[[], Awaitable[None]]) -> None:
    """Run the test in a loop whose clock jumps."""

    async def main() -> None:
        await law()

    timeless(main())


def away(_: Call) -> Exception:
    """Give no answer."""
    return RedisError("away")


def test_redis_decides_while_it_is_available() -> None:
    """Each call is counted with its duration."""

    async def law() -> None:
        fleet = Fleet(Worker(A))
        assert (await fleet.ask(FIRST)).routable == 7
        assert (fleet.asked, fleet.again, fleet.scheduler.is_alone) == ([FIRST], [], False)
        counts = fleet.recorder.take()
        assert (counts.redis.count, counts.redis_failures) == (1, 0)
        assert 0 <= counts.redis.total_s < 60

    run(law)


def test_without_redis_the_local_scheduler_decides() -> None:
    """The twin gets the failed call with all pending jobs; then jobs no longer ask Redis, and heartbeats only later."""

    async def law() -> None:
        fleet = Fleet(Worker(A))
        fleet.redis = away
        reply = await fleet.ask(FIRST)
        assert reply.granted == (Grant(9, A, 1),)
        assert (fleet.again, fleet.scheduler.is_alone) == ([FIRST], True)
        assert fleet.recorder.take().redis_failures == 1
        assert (await fleet.ask(FIRST)).granted == (Grant(1, A, 2),)
        assert len(fleet.asked) == 1
        fleet.answers = True  # as the last load of the fleet found
        await fleet.ask(BEAT)
        assert len(fleet.asked) == 1
        await asyncio.sleep(PAUSE_S)
        await fleet.ask(FIRST)
        assert len(fleet.asked) == 1
        fleet.answers = False
        await fleet.ask(BEAT)
        assert len(fleet.asked) == 1

    run(law)


def test_returning_redis_gets_everything_and_decides_again() -> None:
    """A heartbeat finds out, and the next ones report the outage."""

    async def law() -> None:
        fleet = Fleet(Worker(A))
        assert not fleet.scheduler.has_just_returned()
        fleet.redis = away
        await fleet.ask(FIRST)
        await asyncio.sleep(PAUSE_S)
        fleet.answers, fleet.redis = True, lambda _: Reply(routable=7)
        assert (await fleet.ask(BEAT)).routable == 7
        assert fleet.asked[-1].arrived == (Arrival(9, 1000, 1000),)
        assert not fleet.scheduler.is_alone
        assert [fleet.scheduler.has_just_returned() for _ in range(RETURN_BEATS + 2)] == [True] * 3 + [False] * 2
        assert (await fleet.ask(FIRST)).routable == 7

    run(law)


def test_redis_that_fails_again_changes_nothing() -> None:
    """Leases of this process stay, and Redis is not asked for a moment again."""

    async def law() -> None:
        fleet = Fleet(Worker(A, max_concurrency=1))
        fleet.redis = away
        await fleet.ask(FIRST)
        await asyncio.sleep(PAUSE_S)
        fleet.answers = True
        assert (await fleet.ask(BEAT)).granted == (Grant(9, A, 2),)
        assert (len(fleet.asked), fleet.again) == (2, [FIRST, BEAT])
        fleet.answers = True
        await fleet.ask(BEAT)
        assert len(fleet.asked) == 2
        await asyncio.sleep(PAUSE_S)
        await fleet.ask(BEAT)
        assert len(fleet.asked) == 3

    run(law)


def test_redis_without_the_fleet_decides_nothing() -> None:
    """It answers, and each heartbeat asks whether it knows the fleet by now."""

    async def law() -> None:
        fleet = Fleet(Worker(A))
        fleet.redis = lambda _: Reply(has_fleet=False)
        assert (await fleet.ask(FIRST)).granted == (Grant(9, A, 1),)
        assert fleet.recorder.take().redis_failures == 0
        await fleet.ask(BEAT)
        assert len(fleet.asked) == 2
        assert fleet.scheduler.is_alone

    run(law)


@pytest.mark.parametrize(("cap", "told", "share"), [(4, 0, 2), (5, 0, 3), (1, 0, 1), (8, 4, 2), (None, 0, 10)])
def test_local_scheduler_has_its_share_of_each_cap(cap: int | None, told: int, share: int) -> None:
    """The share is by the number of processes that Redis last counted, rounded up; without a cap there is none."""

    async def law() -> None:
        fleet = Fleet(Worker(A, max_concurrency=cap), processes=2)
        fleet.redis = lambda _: Reply(processes=told)
        await fleet.ask(BEAT)
        fleet.redis = away
        await fleet.ask(BEAT)
        call = Call("p", arrived=tuple(Arrival(number, 1000, 1000) for number in range(20, 29)))
        # One lease was granted before, in the call with everything that this process knows.
        assert 1 + len((await fleet.ask(call)).granted) == share

    run(law)


def test_share_of_each_cap_stays_while_an_emptied_redis_counts_the_processes_anew() -> None:
    """A Redis that fails again before all processes have told it that they live leaves the share as it was."""

    async def law() -> None:
        fleet = Fleet(Worker(A, max_concurrency=8), processes=2)
        for told in (Reply(processes=8), Reply(processes=1, settles=True)):
            fleet.redis = lambda _, told=told: told  # type: ignore[misc]
            await fleet.ask(BEAT)
        fleet.redis = away
        await fleet.ask(BEAT)
        assert not (await fleet.ask(Call("p", arrived=(Arrival(20, 1000, 1000),)))).granted

    run(law)


def test_local_scheduler_has_its_share_of_the_retries() -> None:
    """The share is by the same number of processes as for the caps."""

    async def law() -> None:
        fleet = Fleet(Worker(A), processes=4, budget_per_second=8.0, budget_percent=0.0)
        fleet.redis = away
        await fleet.ask(BEAT)
        retries = tuple(Arrival(number, 1000, 1000, 1, (), "job") for number in range(20, 30))
        assert len((await fleet.ask(Call("p", arrived=retries))).granted) == 2

    run(law)


def test_local_scheduler_follows_the_fleet() -> None:
    """It uses the view's fleet, and the event loop's clock in milliseconds."""

    async def law() -> None:
        fleet = Fleet(Worker(A, max_concurrency=1))
        fleet.redis = away
        await fleet.ask(FIRST)  # A is leased for a second
        assert (await fleet.ask(FIRST)).granted == ()
        fleet.follow(Worker(B))
        assert [grant.url for grant in (await fleet.ask(BEAT)).granted] == [B]
        fleet.follow(Worker(A, max_concurrency=1))
        assert (await fleet.ask(Call("p", arrived=(Arrival(3, 1000, 5000),)))).granted == ()
        await asyncio.sleep(0.9)
        assert (await fleet.ask(BEAT)).granted == ()
        await asyncio.sleep(0.2)
        assert [grant.number for grant in (await fleet.ask(BEAT)).granted] == [3]

    run(law)


@pytest.mark.parametrize("loop_s", [0.0, 5_000.0])
def test_local_scheduler_logs_ejections_with_their_ends(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, loop_s: float
) -> None:
    """The end is by the wall clock, not by the loop's clock."""
    monkeypatch.setattr(failover, "time", lambda: 1_800_000_000.0)

    async def main() -> None:
        fleet = Fleet(Worker(A), Worker(B), failures=1, base_ms=30_000, max_ejected_percent=100)
        fleet.redis = away
        (grant,) = (await fleet.ask(FIRST)).granted
        caplog.clear()
        await fleet.ask(Call("p", ended=(Ended(grant.url, grant.number, Blame.FAULT, cause="it broke"),)))
        until = local_time(1_800_000_030.0)
        (line,) = caplog.messages
        assert line.startswith(f"Worker {grant.url} is ejected by this process alone until {until}: ")
        assert line.endswith("it broke")

    timeless(main(), loop_s)


def test_redis_of_a_later_release_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """This process goes on by itself, says so once, and goes back when the keys are those that it knows."""

    async def law() -> None:
        fleet = Fleet(Worker(A))
        fleet.redis = lambda _: Reply(newer_schema=9)
        assert (await fleet.ask(FIRST)).granted == (Grant(9, A, 1),)
        for _ in range(3):
            await fleet.ask(BEAT)
        assert fleet.scheduler.is_alone
        assert sum("version 9" in record.message for record in caplog.records) == 1
        fleet.redis = lambda _: Reply(routable=7)
        assert (await fleet.ask(BEAT)).routable == 7
        assert not fleet.scheduler.is_alone

    run(law)


def test_process_alone_keeps_to_its_share_of_the_memory() -> None:
    """Rounded up, as its share of each cap."""

    async def law() -> None:
        fleet = Fleet(Worker(A, memory_mb=1000), processes=3)
        fleet.redis = away
        await fleet.ask(FIRST)
        sizes = ((1, 334), (2, 1))
        jobs = tuple(Arrival(number, 1000, 1000, memory_mb=size) for number, size in sizes)
        assert [grant.number for grant in (await fleet.ask(Call("p", arrived=jobs))).granted] == [1]

    run(law)


def test_job_above_the_share_of_a_memory_runs_alone() -> None:
    """A process that runs nothing else on a worker may give it any job that the worker itself can take."""

    async def law() -> None:
        fleet = Fleet(Worker(A, memory_mb=1000), processes=3)
        fleet.redis = away
        await fleet.ask(FIRST)
        sizes = ((1, 100), (2, 1000), (3, 1))
        jobs = tuple(Arrival(number, 1000, 1000, memory_mb=size) for number, size in sizes)
        assert [grant.number for grant in (await fleet.ask(Call("p", arrived=jobs))).granted] == [1]
        small_ends = Ended(A, 1, Blame.OK, memory_mb=100)
        assert [grant.number for grant in (await fleet.ask(Call("p", ended=(small_ends,)))).granted] == [2]
        large_ends = Ended(A, 2, Blame.OK, memory_mb=1000)
        assert [grant.number for grant in (await fleet.ask(Call("p", ended=(large_ends,)))).granted] == [3]

    run(law)
