"""What a process does with replies of a scripted scheduler; grants arrive through a real Valkey."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import msgspec
import pytest

from router.config.settings import RedisSettings
from router.fleet.model import Worker
from router.fleet.redis_client import RedisClient
from router.fleet.snapshot import FleetView
from router.policy.verdict import Blame
from router.scheduling.failover import FailoverScheduler
from router.scheduling.inbox import Inbox
from router.scheduling.leases import Leases
from router.scheduling.messages import Adopted, Beat, Call, Ended, Grant, Orphan, Reply, Rules
from router.scheduling.pending import ClientLeft, NoWorkers, QueueFull, QueueTimeout, RunsAlready
from router.telemetry.recorder import Recorder
from tests.support.eventually import eventually, leased
from tests.support.programs import Valkey


class ScriptedScheduler:
    """Replies by `reply`, and keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.reply: Callable[[Call], Reply] = lambda _: Reply(routable=1)

    def __call__(self, call: Call, say_all_again: Callable[[Call], Call], then: Callable[[Reply], None]) -> None:
        """Reply to one call."""
        del say_all_again
        self.calls.append(call)
        asyncio.get_running_loop().call_soon(lambda: then(self.reply(call)))

    def has_just_returned(self) -> bool:
        """Return False, because there was no outage."""
        return False

    def told(self, field: str) -> list[object]:
        """Return all values of one field in all calls, in order."""
        return [item for call in self.calls for item in getattr(call, field)]


@pytest.fixture
def scheduler() -> ScriptedScheduler:
    """A scripted scheduler."""
    return ScriptedScheduler()


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[RedisClient]:
    """A client of a real Valkey, in which a cancelled wait for grants ends."""
    redis = RedisClient.connect(RedisSettings(url=valkey.url), timeout_s=1)
    yield redis
    await redis.close()


@pytest.fixture
def leases(scheduler: ScriptedScheduler, redis: RedisClient) -> Leases:
    """A process' leases with the scripted scheduler."""
    return Leases(scheduler, Inbox(redis, "p"), FleetView(redis, [Worker("http://a")]), "p", Recorder())  # type: ignore[arg-type]


async def beat(leases: Leases, scheduler: ScriptedScheduler) -> Beat:
    """Let the process send one heartbeat, and return it."""
    before = len(scheduler.calls)
    running = asyncio.create_task(leases.run())
    await eventually(lambda: any(call.beat for call in scheduler.calls[before:]), what="a heartbeat")
    running.cancel()
    await asyncio.wait([running])
    await leases.flush()
    return next(call.beat for call in scheduler.calls[before:] if call.beat)


async def stays() -> None:
    """Never return, because the client does not leave."""
    await asyncio.Event().wait()


def grants_all(call: Call, waiting: int = 0) -> Reply:
    """Grant a lease to every job that arrives."""
    granted = tuple(Grant(arrival.number, "http://a", 7) for arrival in call.arrived)
    return Reply(routable=1, granted=granted, waiting=waiting)


def queues_all(call: Call) -> Reply:
    """Put every job that arrives into the queue."""
    return Reply(routable=1, queued=tuple(part for arrival in call.arrived for part in (arrival.number, 7)))


async def test_jobs_of_one_moment_share_one_call(leases: Leases, scheduler: ScriptedScheduler) -> None:
    """A hundred jobs arrive in one call, and end in one other call."""
    scheduler.reply = grants_all
    given = await asyncio.gather(*(leased(leases, 10, 10, stays) for _ in range(100)))
    assert len(scheduler.calls) == 1
    for lease in given:
        leases.end(lease, Blame.OK)
    await leases.flush()
    assert len(scheduler.calls) == 2
    assert scheduler.told("ended") == [Ended("http://a", lease.number, Blame.OK) for lease in given]


async def test_end_waits_for_the_next_call_unless_a_job_is_pending(
    leases: Leases, scheduler: ScriptedScheduler
) -> None:
    """If no job is pending, an end goes with the next job's call; otherwise it is sent at once."""
    for waiting, calls in ((0, 2), (1, 3)):
        scheduler.calls.clear()
        scheduler.reply = partial(grants_all, waiting=waiting)
        first = await leased(leases, 10, 10, stays)
        leases.end(first, Blame.OK)
        for _ in range(5):
            await asyncio.sleep(0)
        second = await leased(leases, 10, 10, stays)
        assert scheduler.told("ended") == [Ended(first.url, first.number, Blame.OK)]
        assert len(scheduler.calls) == calls
        leases.end(second, Blame.OK)
        await leases.flush()


async def test_job_that_arrived_twice_keeps_the_lease_it_runs_under(
    leases: Leases, scheduler: ScriptedScheduler
) -> None:
    """A late grant for the first number is returned under that number, and the second lease stays."""
    scheduler.reply = queues_all
    job = asyncio.create_task(leased(leases, 10, 10, stays))
    await eventually(lambda: scheduler.told("arrived"), what="the first arrival")
    await leases.flush()
    first = scheduler.calls[0].arrived[0].number

    def lose_then_grant(call: Call) -> Reply:
        if call.arrived:
            late = Grant(first, "http://a", 7)  # the grant for the first number is only late
            return Reply(routable=1, granted=(*grants_all(call).granted, late))
        return Reply(routable=1, missing=(first,))

    scheduler.reply = lose_then_grant
    await beat(leases, scheduler)
    assert len(scheduler.told("arrived")) == 1  # missing only once, so a grant may be on its way
    await beat(leases, scheduler)
    lease = await job
    await leases.flush()
    assert lease.number != first
    assert scheduler.told("ended") == [Ended("http://a", first, Blame.NONE)]
    assert first in scheduler.told("left")
    assert lease.ticket == 7


async def test_grant_without_a_pending_job_is_returned(leases: Leases, scheduler: ScriptedScheduler) -> None:
    """A job that is cancelled at the moment of its grant keeps no lease."""
    scheduler.reply = grants_all
    job = asyncio.create_task(leased(leases, 10, 10, stays))
    await asyncio.sleep(0)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    await leases.flush()
    number = scheduler.calls[0].arrived[0].number if scheduler.told("arrived") else None
    assert scheduler.told("ended") == ([Ended("http://a", number, Blame.NONE)] if number else [])
    assert (await beat(leases, scheduler)).waiting == 0


async def test_each_end_of_a_pending_job_has_its_own_error(leases: Leases, scheduler: ScriptedScheduler) -> None:
    """A refused, late or abandoned job has its own error, and leaves the queue."""
    scheduler.reply = lambda call: Reply(routable=0, refused=tuple(arrival.number for arrival in call.arrived))
    with pytest.raises(NoWorkers):
        await leased(leases, 10, 10, stays)
    scheduler.reply = lambda call: Reply(routable=1, refused=tuple(arrival.number for arrival in call.arrived))
    with pytest.raises(QueueFull):
        await leased(leases, 10, 10, stays)
    scheduler.reply = queues_all
    with pytest.raises(QueueTimeout):
        await leased(leases, 10, 0.01, stays)

    async def leaves() -> None:
        await asyncio.sleep(0)

    with pytest.raises(ClientLeft):
        await leased(leases, 10, 10, leaves)
    await leases.flush()
    assert scheduler.told("left") == [3, 4]
    assert (await beat(leases, scheduler)).waiting == 0


async def test_job_that_gets_a_run_asks_for_no_lease(leases: Leases, scheduler: ScriptedScheduler) -> None:
    """It learns whose run that is; one that gets a place waits there, and its lease says so."""
    run = Adopted(1, 7, "q", 3)
    scheduler.reply = lambda _: Reply(routable=1, adopted=(run,), keyed_ms=500)
    with pytest.raises(RunsAlready) as got:
        await leased(leases, 10, 10, stays)
    assert got.value.adopted == run
    assert leases.left_behind.are_keyed
    scheduler.reply = lambda call: msgspec.structs.replace(grants_all(call), adopted=(Adopted(2, 5),))
    assert (await leased(leases, 10, 10, stays)).is_adopted
    scheduler.reply = grants_all
    assert not (await leased(leases, 10, 10, stays)).is_adopted
    assert not leases.left_behind.are_keyed


async def test_all_processes_are_told_before_a_pending_job_is_late(
    leases: Leases, scheduler: ScriptedScheduler
) -> None:
    """What it leaves behind is told in the next call; where adoption is off, no call tells anything."""
    scheduler.reply = queues_all
    with pytest.raises(QueueTimeout):
        await leased(leases, 10, 0.01, stays)
    leases.left_behind.is_on = True
    with pytest.raises(QueueTimeout):
        await leased(leases, 10, 0.1, stays)
    left = Orphan("key", 1000, 7)
    leases.left_behind.tell(left)
    await leases.flush()
    await eventually(lambda: scheduler.told("orphans") == [left], what="the orphan")
    assert [call.keyed_ms > 0 for call in scheduler.calls if call.keyed_ms] == [True]


async def test_redis_without_a_fleet_delays_no_lease(redis: RedisClient) -> None:
    """Jobs in one call with a heartbeat, which asks whether Redis knows the fleet, still get their leases."""
    view = FleetView(redis, [Worker("http://a")])
    recorder = Recorder()
    leases = Leases(FailoverScheduler(redis, view, Rules(), 1, recorder), Inbox(redis, "p"), view, "p", recorder)
    running = asyncio.create_task(leases.run())
    leases.end(await leased(leases, 10, 10, stays), Blame.OK)
    for _ in range(20):
        jobs = [asyncio.create_task(leased(leases, 10, 10, stays)) for _ in range(5)]
        asyncio.get_running_loop().call_soon(leases._beat_now)  # in one call with them
        done, waiting = await asyncio.wait(jobs, timeout=5)
        assert not waiting
        for job in done:
            leases.end(job.result(), Blame.OK)
    running.cancel()
    await asyncio.wait([running])
    await leases.flush()
