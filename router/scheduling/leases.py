"""This process' leases: asks for them, keeps them alive and gives them back.

All that the process has to say at one moment goes in one call of the scheduler (batching.py says when). Which scheduler
is in force, failover.py decides.
"""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial

import msgspec

from router.fleet.snapshot import FleetView
from router.policy.placement import ANYWHERE, Placement
from router.policy.verdict import Blame
from router.scheduling.absence import Absence
from router.scheduling.batching import CallBatcher
from router.scheduling.failover import FailoverScheduler
from router.scheduling.inbox import Inbox
from router.scheduling.left_behind import LeftBehind
from router.scheduling.messages import Arrival, Beat, Call, Claim, Ended, Grant, Held, Reply, Wish
from router.scheduling.pending import (
    Lease,
    NoRoom,
    NoWorkers,
    PendingJob,
    QueueTimeout,
    note_places,
    refusals,
)
from router.telemetry.recorder import Recorder

log = logging.getLogger(__name__)

BEAT_S = 0.5
# Every fourth heartbeat registers the leases again that this process holds, in case a Redis that failed over has lost
# some. Every heartbeat does while Redis says that its memory began empty. Redis pays for each lease each time.
HAND_IN_EVERY = 4
# Each heartbeat looks for so many of the oldest pending jobs: they are next, and if these are lost, all may be.
LOOK_AFTER = 10
_RANDOM_BITS = 32


class Leases:
    """This process' leases. `run` sends heartbeats and listens for grants.

    After `without_workers_s` without any worker, pending jobs are refused.
    """

    def __init__(
        self,
        scheduler: FailoverScheduler,
        inbox: Inbox,
        view: FleetView,
        process: str,
        recorder: Recorder,
        without_workers_s: float = 0.0,
    ) -> None:
        self._scheduler = scheduler
        self._absence = Absence(view, without_workers_s)
        self._inbox = inbox
        self._view = view
        self._process = process
        self._recorder = recorder
        self._numbers = itertools.count(1)
        self._pending_jobs: dict[int, PendingJob] = {}
        self._held: dict[int, tuple[Lease, float]] = {}  # number → the moment (this process' clock) it passes
        # What the next call will say.
        self._arrived: list[int] = []
        self._has_wishes = self._beat_is_due = False
        self._ended: list[Ended] = []
        self._claims: list[Claim] = []
        self._left: list[int] = []
        self._told_print = ""
        # What the last reply said.
        self.others_wait = self._redis_settles = False
        self._missed: frozenset[int] = frozenset()  # pending jobs that the last heartbeat did not find in the queue
        self._beats = itertools.count()
        self._calls = CallBatcher(self._call, self._is_urgent, lambda: bool(self._ended))
        self.left_behind = LeftBehind(self._calls.now)

    def has_workers(self, pool: str) -> bool:
        """Whether there is a worker that may get jobs of this pool and can be reached, by the last reply."""
        return self._absence.since(pool) is None

    def is_enough_for(self, job_since: float, pool: str) -> bool:
        """Whether a job of this pool that came at `job_since` has waited for long enough while there is no worker."""
        return self._absence.is_enough_for(job_since, pool)

    def load(self) -> tuple[int, int]:
        """Return how many leases this process holds, and how many of its jobs are pending."""
        return len(self._held), len(self._pending_jobs)

    async def run(self) -> None:
        """Send heartbeats and listen for grants, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._inbox.run(self._claim_all))
            self._view.on_change = self._beat_now
            while True:
                self._beat_now()
                await asyncio.sleep(BEAT_S)

    async def flush(self) -> None:
        """Return when all has been said, so that the process can end."""
        await self._calls.flush()

    def ask(
        self,
        bound_s: float,
        wait_s: float,
        has_left: Callable[[], Coroutine[None, None, None]],
        then: Callable[[Lease | NoRoom], None],
        ticket: int = 0,
        tried: tuple[str, ...] = (),
        retry_of: str = "",
        job_since: float = 0.0,
        placement: Placement = ANYWHERE,
        wish: Wish | None = None,
    ) -> PendingJob:
        """Ask for a lease of `bound_s` seconds, after a wait of at most `wait_s`, for a job that came at `job_since`.

        `then` is called once, and never before this has returned: with the lease, or with a NoRoom (NoWorkers,
        Exhausted, Unfunded, Quarantined, QueueFull, TenantFull, TooManyPools, QueueTimeout, ClientLeft, or RunsAlready
        if `wish` has a key). `has_left` returns when the client has hung up; it is awaited only if the job must wait,
        and then the job gives up its place. `ticket`, `tried` and `retry_of` as in Arrival. `placement` tells whose job
        it is and where it can run. `wish` is what few jobs ask for; its number is given here.
        """
        number = next(self._numbers)
        arrival = Arrival(
            *(number, int(bound_s * 1000), int(wait_s * 1000), ticket, tried, retry_of),
            *(placement.tenant, placement.pool, placement.memory_mb),
        )
        now = time.monotonic()
        pending = PendingJob(arrival, now, job_since or now, has_left, then, placement, wish)
        self._pending_jobs[number] = pending
        self._arrived.append(number)
        if wish is not None:
            self._has_wishes = True
        self._calls.now()
        return pending

    def give_up(self, pending: PendingJob) -> None:
        """Take back what was asked for; `then` is not called."""
        number = pending.arrival.number
        if self._pending_jobs.pop(number, None):
            pending.stop_waiting()
            self._left.append(number)
            self._calls.now()

    def move(self, moved: Sequence[tuple[PendingJob, Placement]]) -> None:
        """Let pending jobs wait for other workers, each with its ticket, and before jobs that have just come."""
        fresh, self._arrived = self._arrived, []
        for pending, placement in moved:
            if self._pending_jobs.get(pending.arrival.number) is pending:
                pending.place(placement)
                self._arrive_again(pending.arrival.number, pending.arrival.ticket)
        self._arrived += fresh
        self._calls.now()

    def end(
        self, lease: Lease, blame: Blame, *, is_over: bool = True, job: str = "", cause: str = "", ms: int = 0
    ) -> None:
        """Say what the attempt tells of its worker, and give the lease back unless the worker still runs the job.

        The arguments are as in Ended.
        """
        if is_over:
            self._held.pop(lease.number, None)
        its = lease.placement
        self._ended.append(Ended(lease.url, lease.number, blame, is_over, job, cause, ms, its.tenant, its.memory_mb))
        self._calls.soon()

    def resolve(self, doubts: tuple[tuple[Lease, str], ...], blame: Blame, job: str = "") -> None:
        """Say what the attempts that ended in doubt tell of their workers: each lease with its cause."""
        for lease, cause in doubts:
            self.end(lease, blame, is_over=False, job=job, cause=cause)

    # One call

    def _beat_now(self) -> None:
        self._beat_is_due = True
        self._calls.now()

    def _call(self) -> None:
        call = self._compose()
        self._scheduler(call, self._say_all_again, partial(self._replied, call))

    def _replied(self, call: Call, reply: Reply) -> None:
        try:
            self._apply(call, reply)
        finally:
            self._calls.over()

    def _is_urgent(self) -> bool:
        # An end is urgent if a job waits for the room that it gives.
        is_more = (self.others_wait and self._ended) or self.left_behind.is_urgent
        return bool(self._arrived or self._claims or self._left or self._beat_is_due or is_more)

    def _compose(self) -> Call:
        """Return all that is to be said now, as one call."""
        # The heartbeat first: it ends the wait of some jobs, which leave the queue with this call.
        beat = self._beat(is_return=self._scheduler.has_just_returned()) if self._beat_is_due else None
        arrived = tuple(self._pending_jobs[number].arrival for number in self._arrived if number in self._pending_jobs)
        call = Call(
            self._process,
            arrived=arrived,
            wishes=self._wishes(arrived) if self._has_wishes else (),
            ended=tuple(self._ended),
            claims=tuple(self._claims),
            left=tuple(self._left),
            beat=beat,
            fleet_print=self._new_fleet_print(),
            seed=random.getrandbits(_RANDOM_BITS),
        )
        self._arrived, self._ended, self._claims, self._left, self._beat_is_due = [], [], [], [], False
        return self.left_behind.told_in(call) if self.left_behind.has_news else call

    def _beat(self, *, is_return: bool) -> Beat:
        self._refuse_in_vain()
        # Only jobs that a reply has put into the queue: newer ones are on their way.
        queued = (number for number, pending in self._pending_jobs.items() if pending.timer)
        oldest = tuple(itertools.islice(queued, LOOK_AFTER))
        is_whole = is_return or self._redis_settles or next(self._beats) % HAND_IN_EVERY == 0
        held = self._held_leases() if is_whole else ()
        return Beat(len(self._held), len(self._pending_jobs), oldest, held, is_return)

    def _held_leases(self) -> tuple[Held, ...]:
        now = time.monotonic()
        self._held = {number: held for number, held in self._held.items() if held[1] > now}
        return tuple(
            Held(lease.url, lease.number, int((moment - now) * 1000), lease.placement.tenant, lease.placement.memory_mb)
            for lease, moment in self._held.values()
        )

    def _refuse_in_vain(self) -> None:
        """End the wait of jobs whose workers are gone."""
        for number, reason in self._absence.in_vain(self._pending_jobs):
            self._fail(number, reason)
            self._left.append(number)

    def _new_fleet_print(self) -> str:
        fleet_print = self._view.snapshot.fleet_print
        is_new = fleet_print != self._told_print
        self._told_print = fleet_print
        return fleet_print if is_new else ""

    def _say_all_again(self, call: Call) -> Call:
        """Return `call` as the first one to another scheduler: with all pending jobs in order, all leases, the fleet.

        The jobs' tickets come from the other scheduler's counter, so they take new ones.
        """
        for number in list(self._pending_jobs):
            self._arrive_again(number, ticket=0)
        arrived, self._arrived = tuple(pending.arrival for pending in self._pending_jobs.values()), []
        fleet_print = self._view.snapshot.fleet_print
        said = {"arrived": arrived, "wishes": self._wishes(arrived), "orphans": self.left_behind.all_runs()}
        return msgspec.structs.replace(call, **said, beat=self._beat(is_return=True), fleet_print=fleet_print)

    def _wishes(self, arrived: tuple[Arrival, ...]) -> tuple[Wish, ...]:
        self._has_wishes = False
        of_jobs = ((arrival.number, self._pending_jobs[arrival.number].wish) for arrival in arrived)
        return tuple(msgspec.structs.replace(wish, number=number) for number, wish in of_jobs if wish is not None)

    def _arrive_again(self, number: int, ticket: int) -> None:
        """Let a job ask again, under a new number.

        A grant for the old number may still be on its way. It will be given back, as no job has that number; if the job
        had kept it, the lease that the job runs under by then would be given back with it.
        """
        pending = self._pending_jobs.pop(number)
        again = next(self._numbers)
        pending.arrival = msgspec.structs.replace(pending.arrival, number=again, ticket=ticket, retry_of="")
        self._pending_jobs[again] = pending
        self._arrived.append(again)
        if pending.wish is not None:
            self._has_wishes = True
        self._left.append(number)

    # What the scheduler replies

    def _apply(self, call: Call, reply: Reply) -> None:
        self.others_wait, self._redis_settles = reply.waiting > 0, reply.settles
        self.left_behind.hear(reply)
        if reply.adopted:
            note_places(reply.adopted, self._pending_jobs)
        self._absence.hear(reply)
        if reply.look_in_ms:
            asyncio.get_running_loop().call_later(reply.look_in_ms / 1000, self._calls.now)
        for number, ticket in zip(reply.queued[::2], reply.queued[1::2], strict=True):
            self._wait_on(number, ticket)
        for grant in reply.granted:
            self._take(grant)
        refused = reply.refused or reply.crowded or reply.unpooled or reply.adopted or reply.unhedged or reply.shared
        if refused or reply.exhausted or reply.unfunded or reply.quarantined:
            self._refuse(reply)
        if call.claims:
            self._take_claimed(call.claims, set(reply.claimed))
        for number in (*reply.lost, *self._twice_missing(call, reply)):
            if pending := self._pending_jobs.get(number):
                self._arrive_again(number, pending.arrival.ticket)

    def _refuse(self, reply: Reply) -> None:
        for number, reason in refusals(reply):
            self._fail(number, reason)

    def _take_claimed(self, claims: tuple[Claim, ...], claimed: set[int]) -> None:
        for claim in claims:
            if claim.number in claimed:
                self._take(Grant(claim.number, claim.url, 0, claim.tenant, claim.memory_mb))

    def _twice_missing(self, call: Call, reply: Reply) -> frozenset[int]:
        """Return the jobs that two heartbeats in a row did not find. After one, a grant may still be on its way."""
        if call.beat is None:
            return frozenset()
        before, self._missed = self._missed, frozenset(reply.missing)
        return before & self._missed

    def _wait_on(self, number: int, ticket: int) -> None:
        pending = self._pending_jobs.get(number)
        if pending is None:  # it has been given up, which the next call says
            return
        if self._absence.is_enough_for(pending.job_since, pending.placement.pool):
            self._fail(number, NoWorkers())
            self._left.append(number)
            return
        pending.arrival = msgspec.structs.replace(pending.arrival, ticket=ticket)
        if pending.timer is None:
            pending.start_waiting(self.refuse, self.left_behind)

    def _take(self, grant: Grant) -> None:
        """Hand a lease to the job that waits for it; if there is none, give it back."""
        pending = self._pending_jobs.pop(grant.number, None)
        if pending is None:
            self._give_back(grant)
            return
        if pending.timer is not None:
            pending.stop_waiting()
        now, ticket = time.monotonic(), grant.ticket or pending.arrival.ticket
        waited_s = now - pending.since
        waited_ms = int(waited_s * 1000)
        lease = Lease(grant.number, grant.url, ticket, waited_ms, pending.placement, pending.is_adopted)
        self._held[grant.number] = lease, now + pending.arrival.bound_ms / 1000
        try:
            pending.then(lease)
        except Exception:
            log.exception("A lease could not be taken, and is given back")
            self.end(lease, Blame.NONE)
        self._recorder.waited(waited_s, pending.placement.tenant)

    def _fail(self, number: int, reason: NoRoom) -> None:
        pending = self._pending_jobs.pop(number, None)
        if pending is not None:
            pending.stop_waiting()
            # Not at once: this call may just be composed, and a job that asks again now would be lost from it.
            asyncio.get_running_loop().call_soon(pending.then, reason)

    def refuse(self, pending: PendingJob, reason: NoRoom) -> None:
        """End a job's wait without a lease."""
        number = pending.arrival.number
        if isinstance(reason, QueueTimeout) and self._absence.since(pending.placement.pool) is not None:
            reason = NoWorkers()
        self._fail(number, reason)
        self._left.append(number)
        self._calls.now()
        self._recorder.waited(time.monotonic() - pending.since, pending.placement.tenant)

    def _claim_all(self, grants: list[Grant]) -> None:
        for grant in grants:
            self._claim(grant)
        self._calls.now()

    def _claim(self, grant: Grant) -> None:
        if (pending := self._pending_jobs.get(grant.number)) is not None:
            bound_ms = pending.arrival.bound_ms
            self._claims.append(Claim(grant.url, grant.number, bound_ms, grant.tenant, grant.memory_mb))
        else:
            self._give_back(grant)

    def _give_back(self, grant: Grant) -> None:
        """Give back a lease of which no job is known any more."""
        self._ended.append(Ended(grant.url, grant.number, Blame.NONE, tenant=grant.tenant, memory_mb=grant.memory_mb))
