"""What a process sends to the scheduler in calls and heartbeats; scheduler, fleet and grants are scripted."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from router.fleet.keys import Keys
from router.fleet.redis_client import RedisUnavailable
from router.policy.placement import Placement
from router.policy.verdict import Blame
from router.scheduling.inbox import Inbox
from router.scheduling.leases import BEAT_S, HAND_IN_EVERY, LOOK_AFTER, Leases
from router.scheduling.messages import Arrival, Call, Claim, Ended, Grant, Held, Reply
from router.scheduling.pending import (
    ClientLeft,
    Exhausted,
    Lease,
    NoRoom,
    NoWorkers,
    Quarantined,
    QueueTimeout,
    Unfunded,
)
from router.telemetry.recorder import Recorder
from tests.support.timeless import keep_loop_time, timeless

A, B = "http://a", "http://b"


def fleet(fleet_print: str, *urls: str, **pools: set[str]) -> SimpleNamespace:
    """A snapshot in which these workers may get jobs; those of some pools are named apart."""
    routable = frozenset(urls)
    return SimpleNamespace(
        fleet_print=fleet_print,
        routable=routable,
        routable_in=lambda pool: frozenset(pools[pool]) if pool in pools else routable,
        able_in=lambda pool, _memory_mb: frozenset(pools[pool]) if pool in pools else routable,
    )


class Desk:
    """A process' leases with a scripted scheduler, fleet and list of grants."""

    def __init__(self, without_workers_s: float = 0.0) -> None:
        self.calls: list[Call] = []
        self.reply: Callable[[Call], Reply] = lambda _: Reply(routable=2)
        self.is_return = False
        self.grants: asyncio.Queue[list[Grant]] = asyncio.Queue()
        self.available = True
        self.listened: list[float] = []
        self.told: dict[str, list[Lease | NoRoom]] = {}
        self.left: dict[str, asyncio.Event] = {}
        self.snapshot = fleet("one", A, B)
        self.recorder = Recorder()
        view: Any = self
        self.on_change: Callable[[], None] | None = None
        scheduler: Any = self
        redis: Any = SimpleNamespace(keys=Keys("sfr"), popped=self._popped, available=True)
        self.redis = redis
        self.leases = Leases(scheduler, Inbox(redis, "p"), view, "p", self.recorder, without_workers_s)
        self.say_all_again: Callable[[Call], Call]

    def __call__(self, call: Call, say_all_again: Callable[[Call], Call], then: Callable[[Reply], None]) -> None:
        """Record one call."""
        self.calls.append(call)
        self.say_all_again = say_all_again
        asyncio.get_running_loop().call_soon(lambda: then(self.reply(call)))

    def has_just_returned(self) -> bool:
        """Whether there was an outage."""
        return self.is_return

    async def _popped(self, key: str, _wait_s: float, _count: int) -> AsyncIterator[list[str]]:
        assert key == Keys("sfr").grants("p")
        self.listened.append(asyncio.get_running_loop().time())
        while True:
            if not self.available:
                raise RedisUnavailable("away")
            yield [msgspec.json.encode(grant).decode() for grant in await self.grants.get()]

    def ask(self, name: str, bound_s: float = 60, wait_s: float = 30, **more: Any) -> Any:
        """Ask for a job's lease; the arguments of `then` are kept by the job's name."""
        told: list[Lease | NoRoom] = []
        self.told[name], self.left[name] = told, asyncio.Event()

        async def has_left() -> None:
            await self.left[name].wait()

        return self.leases.ask(bound_s, wait_s, has_left, told.append, **more)

    async def settle(self) -> None:
        """Let everything under way finish."""
        for _ in range(8):
            await asyncio.sleep(0)

    def said(self, name: str) -> list[Any]:
        """Return all values of one field in all calls, in order."""
        return [item for call in self.calls for item in getattr(call, name)]

    def kinds(self, name: str) -> list[type]:
        """Return the types of the arguments of a job's `then`."""
        return [type(each) for each in self.told[name]]


def queue(call: Call) -> Reply:
    """Queue all jobs that arrive, with tickets from 70."""
    told = tuple(part for arrival in call.arrived for part in (arrival.number, arrival.ticket or 70 + arrival.number))
    return Reply(routable=2, queued=told, waiting=len(call.arrived))


def give(call: Call) -> Reply:
    """Give all jobs that arrive a lease."""
    return Reply(routable=2, granted=tuple(Grant(each.number, A, 70 + each.number) for each in call.arrived))


def miss(number: int, call: Call) -> Reply:
    """Report this job as missing in reply to a heartbeat."""
    return Reply(routable=2, missing=(number,) if call.beat else ())


def run(law: Callable[[Desk], Awaitable[None]]) -> None:
    """Run the test in a loop whose clock jumps."""

    async def main() -> None:
        await law(Desk())

    timeless(main())


async def living(desk: Desk) -> "asyncio.Task[None]":
    """Start the process' heartbeats."""
    task = asyncio.create_task(desk.leases.run())
    await desk.settle()
    return task


async def ended(task: "asyncio.Task[None]") -> None:
    """Stop the process' heartbeats."""
    task.cancel()
    await asyncio.wait([task])


def test_arrival_has_all_of_the_job() -> None:
    """Times are in milliseconds, and the granted lease goes to that job."""

    async def law(desk: Desk) -> None:
        desk.reply = give
        desk.ask("x", 1.5, 2.5, ticket=9, tried=(B,), retry_of="name")
        await desk.settle()
        assert desk.said("arrived") == [Arrival(1, 1500, 2500, 9, (B,), "name")]
        (lease,) = desk.told["x"]
        assert isinstance(lease, Lease)
        assert (lease.number, lease.url, lease.ticket) == (1, A, 71)
        assert 0 <= lease.waited_ms < 60_000
        assert desk.leases.load() == (1, 0)
        assert desk.recorder.take().waits.count == 1

    run(law)


def test_lease_without_a_ticket_gets_the_job_s() -> None:
    """A claimed lease has no ticket, because another process' call granted it; it lasts as long as the job may run."""

    async def law(desk: Desk) -> None:
        task = await living(desk)
        desk.reply = queue
        desk.ask("x", 7)
        await desk.settle()
        desk.reply = lambda call: Reply(routable=2, claimed=tuple(claim.number for claim in call.claims))
        desk.grants.put_nowait([Grant(1, B, 5)])
        await desk.settle()
        assert desk.said("claims") == [Claim(B, 1, 7000)]
        (lease,) = desk.told["x"]
        assert isinstance(lease, Lease)
        assert (lease.url, lease.ticket, desk.leases.load()) == (B, 71, (1, 0))
        desk.left["x"].set()  # the client of a job with a lease is not watched
        await asyncio.sleep(40)
        assert (desk.kinds("x"), desk.said("left")) == ([Lease], [])
        await ended(task)

    run(law)


def test_late_claim_lets_its_job_ask_again() -> None:
    """The job arrives under a new number with its place in the queue, and that does not count as a retry."""

    async def law(desk: Desk) -> None:
        task = await living(desk)
        desk.reply = queue
        desk.ask("x", ticket=50, tried=(B,), retry_of="name")
        await desk.settle()

        def lose(call: Call) -> Reply:
            return give(call) if call.arrived else Reply(routable=2, lost=tuple(each.number for each in call.claims))

        desk.reply = lose
        desk.grants.put_nowait([Grant(1, A, 50)])
        await desk.settle()
        assert desk.said("arrived")[1] == Arrival(2, 60_000, 30_000, 50, (B,), "")
        assert desk.said("left") == [1]
        assert desk.kinds("x") == [Lease]
        await ended(task)

    run(law)


def test_grant_without_a_job_is_returned() -> None:
    """This also holds for a grant of another process' call, and no worker is blamed."""

    async def law(desk: Desk) -> None:
        task = await living(desk)
        desk.grants.put_nowait([Grant(5, A, 1), Grant(6, B, 2)])
        await desk.settle()
        await asyncio.sleep(1)
        assert desk.said("ended") == [Ended(A, 5, Blame.NONE), Ended(B, 6, Blame.NONE)]
        assert desk.said("claims") == []
        await ended(task)

    run(law)


def test_grants_are_read_again_when_redis_is_back() -> None:
    """The process tries as often as it sends heartbeats."""

    async def law(desk: Desk) -> None:
        desk.available = False
        task = await living(desk)
        await asyncio.sleep(2 * BEAT_S + 0.1)
        assert desk.listened == [0.0, BEAT_S, 2 * BEAT_S]
        await ended(task)

    run(law)


def test_heartbeat_has_leases_and_pending_jobs() -> None:
    """A heartbeat has their numbers; every fourth has all leases with their remaining time, without expired ones."""

    async def law(desk: Desk) -> None:
        desk.reply = give
        desk.ask("short", 0.001)
        desk.ask("long", 3600)
        await desk.settle()
        desk.reply = queue
        for number in range(LOOK_AFTER + 3):
            desk.ask(f"w{number}", wait_s=3600)
        await desk.settle()
        desk.reply = lambda _: Reply(routable=2)
        desk.ask("on its way", wait_s=3600)
        while not all(moment < time.monotonic() for _, moment in list(desk.leases._held.values())[:1]):
            pass
        before = len(desk.calls)
        task = await living(desk)
        await asyncio.sleep(BEAT_S * (HAND_IN_EVERY + 0.5))
        beats = [call.beat for call in desk.calls[before:] if call.beat]
        assert [bool(beat.held) for beat in beats] == [True, False, False, False, True]
        assert (beats[0].running, beats[0].waiting) == (1, LOOK_AFTER + 4)
        assert list(beats[0].oldest) == list(range(3, 3 + LOOK_AFTER))
        ((url, number, left_ms),) = [(held.url, held.number, held.left_ms) for held in beats[0].held]
        assert (url, number) == (A, 2)
        assert 3_000_000 < left_ms <= 3_600_000
        assert not any(beat.is_return for beat in beats)
        await ended(task)

    run(law)


@pytest.mark.parametrize("why", ["settles", "has returned"])
def test_redis_that_may_have_lost_leases_gets_all_in_each_heartbeat(why: str) -> None:
    """This holds while the scheduler settles, and after an outage."""

    async def law(desk: Desk) -> None:
        desk.reply = give
        desk.ask("x")
        await desk.settle()
        desk.reply = lambda _: Reply(routable=2, settles=why == "settles")
        desk.is_return = why != "settles"
        task = await living(desk)
        await asyncio.sleep(3.2 * BEAT_S)
        beats = [call.beat for call in desk.calls if call.beat]
        assert len(beats) == 4
        assert all(beat.held for beat in beats)
        assert [beat.is_return for beat in beats] == [why != "settles"] * 4
        await ended(task)

    run(law)


def test_fleet_is_sent_once_and_a_change_at_once() -> None:
    """Only the next call has the fleet's fingerprint."""

    async def law(desk: Desk) -> None:
        task = await living(desk)
        await asyncio.sleep(1.2 * BEAT_S)
        desk.snapshot = fleet("two", A)
        assert desk.on_change is not None
        desk.on_change()
        await desk.settle()
        desk.ask("x")
        await desk.settle()
        assert [call.fleet_print for call in desk.calls] == ["one", "", "two", ""]
        assert desk.calls[2].beat is not None
        await ended(task)

    run(law)


def test_retry_without_an_untried_worker_stops_waiting() -> None:
    """The fleet may shrink while a retry is pending; jobs that other workers may run stay pending."""

    async def law(desk: Desk) -> None:
        desk.reply = queue
        desk.ask("both", tried=(A, B), wait_s=3600)
        desk.ask("a", tried=(A,), wait_s=3600)
        desk.ask("fresh", wait_s=3600)
        task = await living(desk)
        assert [desk.kinds(name) for name in ("both", "a", "fresh")] == [[Exhausted], [], []]
        await asyncio.sleep(BEAT_S)
        desk.snapshot = fleet("two", A)
        await asyncio.sleep(2 * BEAT_S)
        assert [desk.kinds(name) for name in ("both", "a", "fresh")] == [[Exhausted], [Exhausted], []]
        assert sorted(desk.said("left")) == [1, 2]
        await ended(task)

    run(law)


def test_other_scheduler_gets_everything() -> None:
    """It gets all pending jobs in order under new numbers without tickets, all leases and the fleet."""

    async def law(desk: Desk) -> None:
        desk.reply = give
        desk.ask("held")
        await desk.settle()
        desk.reply = queue
        desk.ask("first", ticket=9, tried=(A,), retry_of="name")
        desk.ask("second")
        await desk.settle()
        again = desk.say_all_again(Call("p"))
        assert [(each.number, each.ticket, each.tried, each.retry_of) for each in again.arrived] == [
            (4, 0, (A,), ""),
            (5, 0, (), ""),
        ]
        assert again.fleet_print == "one"
        assert again.beat is not None
        assert ([held.number for held in again.beat.held], again.beat.is_return) == ([1], True)
        desk.reply = lambda _: Reply(routable=2)
        desk.ask("third")
        await desk.settle()
        assert [arrival.number for arrival in desk.calls[-1].arrived] == [6]  # the others were in earlier calls
        assert desk.said("left") == [2, 3]

    run(law)


def test_each_refusal_reaches_its_job() -> None:
    """Each job gets its own refusal in a later turn of the loop."""

    async def law(desk: Desk) -> None:
        desk.reply = lambda _: Reply(routable=2, exhausted=(1,), unfunded=(2,), quarantined=(3,))
        for name in ("a", "b", "c"):
            desk.ask(name)
        await desk.settle()
        assert [desk.kinds(name) for name in ("a", "b", "c")] == [[Exhausted], [Unfunded], [Quarantined]]
        assert desk.leases.load() == (0, 0)

    run(law)


def test_pending_job_ends_with_its_time_or_its_client() -> None:
    """It ends once, leaves the queue, and its wait is recorded."""

    async def law(desk: Desk) -> None:
        desk.reply = queue
        desk.ask("late", wait_s=30)
        desk.ask("left", wait_s=3600)
        await desk.settle()
        desk.left["left"].set()
        await desk.settle()
        assert (desk.kinds("left"), desk.kinds("late")) == ([ClientLeft], [])
        await asyncio.sleep(60)
        assert (desk.kinds("left"), desk.kinds("late")) == ([ClientLeft], [QueueTimeout])
        assert desk.said("left") == [2, 1]
        waits = desk.recorder.take().waits
        assert waits.count == 2
        assert 0 <= waits.total_s < 100
        assert desk.leases.load() == (0, 0)

    # The deadline of a pending job is by time.monotonic, which the loop's own clock usually is.
    timeless(_with(law), time.monotonic())


async def _with(law: Callable[[Desk], Awaitable[None]], without_workers_s: float = 0.0) -> None:
    await law(Desk(without_workers_s))


def test_job_that_gives_up_gets_no_answer() -> None:
    """Its place is given up once, whether it is in the queue by then or not."""

    async def law(desk: Desk) -> None:
        desk.reply = queue
        pending = desk.ask("x", wait_s=1)
        await desk.settle()
        desk.leases.give_up(pending)
        desk.leases.give_up(pending)
        await asyncio.sleep(10)
        early = desk.ask("y")
        desk.leases.give_up(early)
        await desk.settle()
        assert (desk.told, desk.said("left"), desk.leases.load()) == ({"x": [], "y": []}, [1, 2], (0, 0))
        assert [arrival.number for arrival in desk.said("arrived")] == [1]
        assert desk.recorder.take().waits.count == 0

    timeless(_with(law), time.monotonic())


def test_job_queued_after_it_gave_up_leaves_the_queue() -> None:
    """Its arrival was under way when it gave up."""

    async def law(desk: Desk) -> None:
        pending = desk.ask("x")
        await asyncio.sleep(0)
        desk.reply = lambda call: queue(call) if call.arrived else Reply(routable=2)
        desk.leases.give_up(pending)
        await desk.settle()
        await desk.leases.flush()
        assert 1 in desk.said("left")
        assert desk.told["x"] == []

    run(law)


def test_lease_whose_job_still_runs_is_kept() -> None:
    """Its end is reported with the blame, and heartbeats still have its lease."""

    async def law(desk: Desk) -> None:
        desk.reply = give
        desk.ask("x")
        desk.ask("y")
        await desk.settle()
        first, second = desk.told["x"][0], desk.told["y"][0]
        assert isinstance(first, Lease)
        assert isinstance(second, Lease)
        desk.leases.end(first, Blame.FAULT, is_over=False)
        desk.leases.end(second, Blame.DIED, job="name")
        await desk.leases.flush()
        assert desk.said("ended") == [Ended(A, 1, Blame.FAULT, False), Ended(A, 2, Blame.DIED, True, "name")]
        assert desk.leases.load() == (1, 0)

    run(law)


@pytest.mark.parametrize("field", ["refused", "exhausted", "unfunded", "quarantined"])
def test_each_kind_of_refusal_reaches_its_job(field: str) -> None:
    """Other parts of the reply do not matter."""

    async def law(desk: Desk) -> None:
        def refuse(call: Call) -> Reply:
            said: dict[str, Any] = {field: tuple(each.number for each in call.arrived)}
            return Reply(routable=2, **said)

        desk.reply = refuse
        desk.ask("x")
        await desk.settle()
        assert len(desk.told["x"]) == 1

    run(law)


def empty(call: Call) -> Reply:
    """Queue all jobs that arrive, in a fleet without workers."""
    return msgspec.structs.replace(queue(call), routable=0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the process' clock by the loop's."""
    keep_loop_time(monkeypatch, "scheduling.leases", "scheduling.absence")


@pytest.mark.usefixtures("clock")
def test_pending_job_moves_with_its_ticket_and_before_new_ones() -> None:
    """It leaves its old line in the same call, its wait goes on, and a grant that comes too late is given back."""

    async def law(desk: Desk) -> None:
        desk.reply = queue
        waiting = desk.ask("waits", wait_s=30, placement=Placement("run-7", "", 9))
        await desk.settle()
        desk.ask("comes")
        desk.leases.move([(waiting, Placement("run-7", "gpu", 5))])
        await desk.settle()
        (call,) = desk.calls[1:]
        assert call.left == (1,)
        assert [(each.number, each.ticket, each.tenant, each.pool, each.memory_mb) for each in call.arrived] == [
            (3, 71, "run-7", "gpu", 5),
            (2, 0, "", "", 0),
        ]
        desk.leases._claim_all([Grant(1, A, 71, "run-7", 9)])
        await desk.settle()
        assert desk.said("ended") == [Ended(A, 1, Blame.NONE, tenant="run-7", memory_mb=9)]
        await asyncio.sleep(60)
        assert desk.kinds("waits") == [QueueTimeout]
        desk.leases.move([(waiting, Placement())])  # it has gone meanwhile
        assert desk.leases.load() == (0, 0)

    run(law)


@pytest.mark.usefixtures("clock")
def test_jobs_of_a_pool_without_workers_are_refused_and_others_wait_on() -> None:
    """The time counts from the loss of the pool's last worker, and ends if one comes back."""

    async def law(desk: Desk) -> None:
        task = await living(desk)
        desk.reply = queue
        desk.ask("plain", wait_s=300)
        desk.ask("gpu", wait_s=300, placement=Placement(pool="gpu"))
        await asyncio.sleep(20)
        desk.snapshot = fleet("two", A, B, gpu=set())
        await asyncio.sleep(9)
        desk.ask("late", wait_s=300, placement=Placement(pool="gpu"))
        await desk.settle()
        assert desk.kinds("gpu") == []
        await asyncio.sleep(1 + 2 * BEAT_S)
        assert [desk.kinds(name) for name in ("plain", "gpu", "late")] == [[], [NoWorkers], []]
        desk.snapshot = fleet("one", A, B)
        await asyncio.sleep(BEAT_S)
        desk.snapshot = fleet("two", A, B, gpu=set())
        await asyncio.sleep(9)
        assert desk.kinds("late") == []
        await asyncio.sleep(1 + 2 * BEAT_S)
        assert (desk.kinds("plain"), desk.kinds("late"), desk.said("left")) == ([], [NoWorkers], [2, 3])
        assert desk.leases.has_workers("")
        await ended(task)

    timeless(_with(law, 10), 1000.0)


@pytest.mark.usefixtures("clock")
def test_job_of_a_pool_without_workers_is_refused_at_once_if_none_may_wait() -> None:
    """With `queue.without_workers: 0`, as for the whole fleet."""

    async def law(desk: Desk) -> None:
        desk.snapshot = fleet("one", A, gpu=set())
        desk.reply = queue
        desk.ask("gpu", placement=Placement(pool="gpu"))
        desk.ask("plain")
        await desk.settle()
        assert (desk.kinds("gpu"), desk.kinds("plain")) == ([NoWorkers], [])

    timeless(_with(law, 0), 1000.0)


@pytest.mark.usefixtures("clock")
def test_pool_that_cannot_be_reached_is_without_workers() -> None:
    """Healthy workers do not help its jobs while the scheduler says that none of them can be reached."""

    async def law(desk: Desk) -> None:
        task = await living(desk)
        unreached: tuple[str, ...] = ("gpu",)
        desk.reply = lambda call: msgspec.structs.replace(queue(call), unreached=unreached)
        desk.ask("plain", wait_s=300)
        desk.ask("gpu", wait_s=300, placement=Placement(pool="gpu"))
        await asyncio.sleep(8)
        assert (desk.leases.has_workers("gpu"), desk.leases.has_workers("")) == (False, True)
        unreached = ()
        await asyncio.sleep(2 * BEAT_S)
        assert desk.leases.has_workers("gpu")
        unreached = ("gpu",)
        await asyncio.sleep(9)
        assert desk.kinds("gpu") == []
        await asyncio.sleep(1 + 2 * BEAT_S)
        assert (desk.kinds("plain"), desk.kinds("gpu")) == ([], [NoWorkers])
        await ended(task)

    timeless(_with(law, 10), 1000.0)


def test_retry_that_has_tried_its_pool_stops_waiting() -> None:
    """Workers of other pools are no reason to wait on."""

    async def law(desk: Desk) -> None:
        desk.reply = queue
        desk.ask("gpu", tried=(A,), wait_s=3600, placement=Placement(pool="gpu"))
        desk.ask("plain", tried=(A,), wait_s=3600)
        task = await living(desk)
        assert (desk.kinds("gpu"), desk.kinds("plain")) == ([], [])
        desk.snapshot = fleet("two", A, B, "http://c", gpu={A})
        await asyncio.sleep(2 * BEAT_S)
        assert (desk.kinds("gpu"), desk.kinds("plain")) == ([Exhausted], [])
        await ended(task)

    run(law)


@pytest.mark.usefixtures("clock")
def test_wait_for_any_worker_is_shorter() -> None:
    """It counts from when the last worker went or the job arrived; for a retry, from the job's arrival."""

    async def law(desk: Desk) -> None:
        task = await living(desk)
        assert desk.leases.has_workers("")
        desk.reply = empty
        for name, at, ends in (("early", 0, 10), ("late", 5, 15)):
            await asyncio.sleep(at)
            desk.ask(name, wait_s=300, job_since=asyncio.get_running_loop().time())
            await desk.settle()
            assert not desk.leases.has_workers("")
            assert desk.kinds(name) == []
            assert ends > at
        await asyncio.sleep(4)
        assert desk.kinds("early") == []
        await asyncio.sleep(1 + BEAT_S)
        assert (desk.kinds("early"), desk.kinds("late")) == ([NoWorkers], [])
        await asyncio.sleep(5)
        assert desk.kinds("late") == [NoWorkers]
        assert desk.said("left") == [1, 2]
        desk.ask("retry", wait_s=300, job_since=1001.0)
        desk.ask("new", wait_s=300)
        await desk.settle()
        assert (desk.kinds("retry"), desk.kinds("new")) == ([NoWorkers], [])
        desk.reply = queue  # there is a worker again
        await asyncio.sleep(2 * BEAT_S)
        assert desk.leases.has_workers("")
        await asyncio.sleep(50)
        assert (desk.kinds("new"), desk.said("left")) == ([], [1, 2, 3])
        await asyncio.sleep(400)
        assert (desk.kinds("new"), desk.kinds("retry"), desk.said("left")) == (
            [QueueTimeout],
            [NoWorkers],
            [1, 2, 3, 4],
        )
        await ended(task)

    timeless(_with(law, 10), 1000.0)


@pytest.mark.parametrize(
    ("routable", "away", "has_workers"), [(2, 2, False), (2, 1, True), (0, 0, False), (1, 0, True)]
)
def test_worker_that_cannot_be_reached_does_not_count(routable: int, away: int, *, has_workers: bool) -> None:
    """The last reply decides whether a worker can be reached."""

    async def law(desk: Desk) -> None:
        desk.reply = lambda _: Reply(routable=routable, away=away)
        desk.ask("x")
        await desk.settle()
        assert desk.leases.has_workers("") is has_workers

    run(law)


@pytest.mark.parametrize(("reply", "told"), [(queue, QueueTimeout), (empty, NoWorkers)])
@pytest.mark.usefixtures("clock")
def test_end_of_a_wait_names_its_reason(reply: Callable[[Call], Reply], told: type) -> None:
    """The job waited for room or for any worker; a client that left is reported in both cases."""

    async def law(desk: Desk) -> None:
        desk.reply = reply
        desk.ask("x", wait_s=2)
        desk.ask("left", wait_s=2)
        await desk.settle()
        desk.left["left"].set()
        await asyncio.sleep(60)
        assert (desk.kinds("x"), desk.kinds("left")) == ([told], [ClientLeft])

    timeless(_with(law, 100), 1000.0)


def test_scheduler_is_called_at_the_moment_it_foretold() -> None:
    """The call is exact to the millisecond and happens once."""

    async def law(desk: Desk) -> None:
        desk.reply = lambda _: Reply(routable=2, look_in_ms=500 if len(desk.calls) == 1 else 0)
        desk.ask("x")
        await desk.settle()
        for after_s, calls in ((0.4999, 1), (0.0002, 2), (100, 2)):
            await asyncio.sleep(after_s)
            assert len(desk.calls) == calls

    run(law)


def test_resolved_doubts_are_sent_without_an_end() -> None:
    """Their leases have ended before, and the report is sent soon, even if there is nothing else to send."""

    async def law(desk: Desk) -> None:
        doubts = ((Lease(1, A, 0, 0), "one"), (Lease(2, B, 0, 0), "two"))
        desk.leases.resolve(doubts, Blame.ERROR, "job")
        await asyncio.sleep(5)
        assert desk.said("ended") == [
            Ended(A, 1, Blame.ERROR, False, "job", "one"),
            Ended(B, 2, Blame.ERROR, False, "job", "two"),
        ]

    run(law)


def test_lease_that_its_job_cannot_take_is_returned() -> None:
    """After a bug in taking it, the other jobs of the call still get their leases."""

    async def law(desk: Desk) -> None:
        desk.reply = give

        def fail(_: object) -> None:
            raise LookupError

        desk.leases.ask(60, 30, asyncio.Event().wait, fail)  # type: ignore[arg-type]
        desk.ask("x")
        await desk.settle()
        assert (desk.kinds("x"), desk.leases.load()) == ([Lease], (1, 0))
        await asyncio.sleep(5)
        assert desk.said("ended") == [Ended(A, 1, Blame.NONE)]

    run(law)


def test_given_up_place_is_reported_at_once() -> None:
    """It does not wait for the next heartbeat, because other jobs are queued behind it."""

    async def law(desk: Desk) -> None:
        desk.reply = queue
        pending = desk.ask("x")
        await desk.settle()
        desk.leases.give_up(pending)
        await desk.settle()
        assert (desk.said("left"), desk.told["x"]) == ([1], [])

    run(law)


def test_first_attempt_waits_on_if_all_workers_are_gone() -> None:
    """It has tried no worker, so another rule decides how long it waits for any."""

    async def law(desk: Desk) -> None:
        task = await living(desk)
        desk.reply = queue
        desk.ask("first", wait_s=300)
        desk.ask("retry", wait_s=300, tried=(A,))
        await desk.settle()
        desk.snapshot = fleet("two")
        await asyncio.sleep(2 * BEAT_S)
        assert (desk.kinds("first"), desk.kinds("retry")) == ([], [Exhausted])
        await ended(task)

    run(law)


def test_claim_during_a_call_goes_with_the_next_at_once() -> None:
    """A grant must be claimed soon, and the next heartbeat might be too late."""

    async def law(desk: Desk) -> None:
        task = await living(desk)
        desk.reply = queue
        desk.ask("x")
        await desk.settle()
        desk.reply = lambda _: Reply(routable=2)
        desk.ask("begins a call")
        desk.grants.put_nowait([Grant(1, B, 5)])
        await desk.settle()
        assert [[len(call.arrived), len(call.claims)] for call in desk.calls[-2:]] == [[1, 0], [0, 1]]
        await ended(task)

    run(law)


def test_heartbeat_asks_only_about_queued_jobs() -> None:
    """Another job's lease may be on its way, and that job must not ask for a second one."""

    async def law(desk: Desk) -> None:
        desk.reply = queue
        desk.ask("x")
        await desk.settle()
        desk.reply = lambda _: Reply(routable=2)
        desk.ask("on its way")
        await desk.settle()
        task = await living(desk)
        assert [call.beat.oldest for call in desk.calls if call.beat] == [(1,)]
        await ended(task)

    run(law)


def test_job_missing_in_two_heartbeats_in_a_row_asks_again() -> None:
    """Other calls between the two change nothing, and two misses not in a row do not count."""

    async def law(desk: Desk) -> None:
        desk.reply = queue
        desk.ask("x", wait_s=3600)
        desk.ask("y", wait_s=3600)
        await desk.settle()
        task = await living(desk)
        for number in (1, 2, 1):
            desk.reply = partial(miss, number)
            await asyncio.sleep(BEAT_S)
            await desk.settle()
        assert desk.said("left") == []
        desk.ask("between")
        await desk.settle()
        await asyncio.sleep(BEAT_S)
        await desk.settle()
        assert [each.number for each in desk.said("arrived")] == [1, 2, 3, 4]
        assert desk.said("left") == [1]
        await ended(task)

    run(law)


@pytest.mark.usefixtures("clock")
def test_retry_asks_before_it_is_refused_without_workers() -> None:
    """The job has waited long enough, but there may be a worker again since the last reply."""

    async def law(desk: Desk) -> None:
        task = await living(desk)
        desk.reply = empty
        await asyncio.sleep(20)
        desk.reply = give
        desk.ask("retry", wait_s=300, job_since=1000.0)
        assert desk.on_change is not None
        desk.on_change()
        await desk.settle()
        assert (desk.kinds("retry"), desk.calls[-1].beat is not None) == ([Lease], True)
        await ended(task)

    timeless(_with(law, 10), 1000.0)


@pytest.mark.usefixtures("clock")
def test_lease_has_its_job_s_waiting_time() -> None:
    """The time is in whole milliseconds; a heartbeat has all of the lease's remaining time, even an hour."""

    async def law(desk: Desk) -> None:
        desk.ask("x", 3600)
        await asyncio.sleep(1.5)
        desk.reply = lambda _: Reply(routable=2, granted=(Grant(1, A, 5),))
        task = await living(desk)
        assert desk.told["x"] == [Lease(1, A, 5, 1500)]
        beat = desk.say_all_again(Call("p")).beat
        assert beat is not None
        assert beat.held == (Held(A, 1, 3_600_000),)
        await ended(task)

    timeless(_with(law), 1000.0)


def test_lease_of_a_job_that_gave_up_meanwhile_is_returned() -> None:
    """Its arrival was under way, and other jobs of that call get their leases."""

    async def law(desk: Desk) -> None:
        desk.reply = give
        pending = desk.ask("gone")
        desk.ask("x")
        await asyncio.sleep(0)
        desk.leases.give_up(pending)
        await asyncio.sleep(5)
        assert (desk.kinds("gone"), desk.kinds("x"), desk.leases.load()) == ([], [Lease], (1, 0))
        assert desk.said("ended") == [Ended(A, 1, Blame.NONE)]

    run(law)


def test_retry_asks_before_it_finds_no_worker_left() -> None:
    """The scheduler may know a worker that this process does not know."""

    async def law(desk: Desk) -> None:
        task = await living(desk)
        desk.reply = give
        desk.snapshot = fleet("two", B)
        desk.ask("retry", tried=(B,))
        assert desk.on_change is not None
        desk.on_change()
        await desk.settle()
        assert (desk.kinds("retry"), desk.calls[-1].beat is not None) == ([Lease], True)
        await ended(task)

    run(law)


@pytest.mark.parametrize("answers", [True, False])
def test_unreadable_grants_are_logged_if_redis_answers(caplog: pytest.LogCaptureFixture, *, answers: bool) -> None:
    """If Redis is away, the call that found out has logged that."""

    async def law(desk: Desk) -> None:
        desk.available, desk.redis.available = False, answers
        task = await living(desk)
        assert caplog.messages == ["Grants from other processes cannot be read: away"] * answers
        await ended(task)

    run(law)
