"""The Python twin of lua/scheduler.lua: makes the same decisions over a state in this process.

It serves while Redis is away; each process then has its share of each cap and memory. It is also the model that
hypothesis runs the script against. It reads no clock and draws no random number: both are arguments.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

from router.fleet.model import Member
from router.policy.tenants import DEFAULT, TenantRule
from router.policy.verdict import Blame
from router.scheduling.local.breaker import Breakers
from router.scheduling.local.budget import budget_for_hedges, budget_for_retries
from router.scheduling.local.heartbeats import Heartbeats
from router.scheduling.local.memory import Memory
from router.scheduling.local.order import Line, Waiting, second_runs
from router.scheduling.local.plan import Plan
from router.scheduling.local.pools import Pools, Room
from router.scheduling.local.quarantine import Quarantine
from router.scheduling.local.rests import Rests
from router.scheduling.local.reuse import SharedRuns
from router.scheduling.local.sharing import Orphans, tickets_for
from router.scheduling.local.slow_start import SlowStarts
from router.scheduling.local.told import Told
from router.scheduling.local.turns import Turns
from router.scheduling.messages import (
    CLAIM_WITHIN_MS,
    PASSED_OVER_AT_MOST,
    PASSED_OVER_IN_ROOM,
    TRIAL,
    Arrival,
    Beat,
    Call,
    Claim,
    Ended,
    Grant,
    Reply,
    Rules,
    lease_name,
)


class LocalScheduler:
    """The leases, the queue and the breakers of one process or, as a model, of many.

    A memory that begins empty settles for `settle_ms`; in a process of its own there is nothing to wait for.
    """

    def __init__(self, rules: Rules, settle_ms: int = 0) -> None:
        self.rules = rules
        self._settle_ms = settle_ms
        self._settles_at: int | None = None
        self._has_begun = False
        self.leases: dict[str, dict[str, int]] = {}
        self.rests = Rests()
        self.starts = SlowStarts(rules)
        self.breakers = Breakers(rules, self._full_until)
        self.turns = Turns(rules)
        self.pools = Pools()
        self.memory = Memory(lambda url: self.leases.get(url, ()), self._memory_mb)
        self.outbox: dict[str, list[Grant]] = {}
        self.ticket = 0
        self._seed = 0
        self._plan = Plan(rules, self.breakers)
        self._budget = budget_for_retries(rules)
        self._hedges = budget_for_hedges(rules)
        self.quarantine = Quarantine(rules)
        self.shared_runs = SharedRuns(rules.reuse_bytes)
        self._beats = Heartbeats()
        self._orphans = Orphans()

    def set_fleet(self, members: Iterable[Member], processes: int = 1) -> None:
        """Take over the workers of the fleet, and their conditions; so many `processes` share their memory."""
        self._plan.set_fleet(members)
        self.memory.processes = processes

    def set_tenants(self, tenants: Mapping[str, TenantRule]) -> None:
        """Take over the tenants' rules."""
        self.turns.set_tenants(tenants)

    def step(self, call: Call, now: int) -> Reply:
        """Do all that `call` says at the moment `now` (ms of any clock that does not go back)."""
        told = Told()
        self._seed = call.seed
        self.rests.look_at_ms = self.starts.look_at_ms = None
        self._settle(now)
        self._make_plan_if_stale(now)
        self._end(call.process, call.ended, now)
        self._claim(call.process, call.claims, now, told)
        self._drop_lapsed(now)
        self.breakers.open_trials(now)
        self._make_plan_if_stale(now)
        processes = self._hear_beat(call.process, call.beat, now, told) if call.beat else 0
        self.turns.leave_all(lease_name(call.process, number) for number in call.left)
        self.turns.order.hurry(now)
        self._serve_queue(call.process, now, told)
        self._orphans.expect(call.keyed_ms, now)
        for orphan in call.orphans:
            self._orphans.keep(call.process, orphan, now)
        self.shared_runs.end_all(call, now)
        self._arrive(call, hedges := second_runs(call, now), now, told)
        self._serve_queue(call.process, now, told)
        self._hedge(hedges, call.process, now, told)
        reply = Reply(
            routable=len(self._plan.by_url),
            away=self.rests.away,
            look_in_ms=min(filter(None, (self.rests.look_at_ms, self.starts.look_at_ms)), default=now) - now,
            processes=processes,
            unreached=tuple(pool for pool, room in self.pools.apart().items() if self.rests.are_away(room.urls)),
            keyed_ms=max(0, self._orphans.keyed_until - now),
            waiting=len(self.turns.waiting),
            settles=self._settles_at is not None,
        )
        return told.in_reply(reply)

    def has_room(self, url: str) -> bool:
        """Whether the worker, which is in the plan, may get a job of any line now."""
        return url not in self.memory.reserved and self.has_slot(url)

    def has_slot(self, url: str) -> bool:
        """Whether the worker, which is in the plan, may get one more job now."""
        planned = self._plan.by_url[url]
        if planned.cap == TRIAL:
            return self.breakers.allows(url)
        running = len(self.leases.get(url, ()))
        if not (self.rests.have_room(url, running) and self.starts.has_room(url, running)):
            return False
        return planned.cap == 0 or (self._settles_at is None and running < planned.cap)

    def _make_plan_if_stale(self, now: int) -> None:
        was_well = self._plan.well
        if self._plan.make_if_stale():
            self.starts.begin(self._caps(), self._plan.out(), was_well, now)
            self.rests.forget_all_but(self._plan.by_url)
            self.memory.reserved.clear()
            workers = [self._plan.fleet[url].worker for url in self._plan.by_url]
            self.pools.set_workers(workers, self._plan.slow, {pool for _, pool in self.turns.lines if pool})

    def _caps(self) -> dict[str, int]:
        return {url: planned.cap for url, planned in self._plan.by_url.items()}

    def _settle(self, now: int) -> None:
        """Let a memory that begins empty learn first what runs; until then workers with a cap get no jobs."""
        if not self._has_begun:
            self._has_begun, self._settles_at = True, now + self._settle_ms
        if self._settles_at is not None and self._settles_at <= now:
            self._settles_at = None
            self._plan.expire()

    def _memory_mb(self, url: str) -> int | None:
        return self._plan.fleet[url].worker.memory_mb if url in self._plan.by_url else None

    def _pick(self, job: Waiting) -> tuple[str | None, list[str]]:
        """Return the worker for the job, and those that have room but not the memory."""
        room = self.pools.room(job.line[1])
        turn = self.pools.turn(room, job.ticket)
        in_order = self._plan.in_order(job.ticket, self._seed, self._load, room, turn)
        unfit = []
        for url in in_order:
            if url in job.tried or not self.has_room(url):
                continue
            if self.memory.fits(url, job.memory_mb):
                self.pools.count(room)
                return url, []
            if self._plan.by_url[url].cap != TRIAL:
                unfit.append(url)
        return None, unfit

    def _load(self, url: str) -> float | None:
        return len(self.leases.get(url, ())) / self._plan.by_url[url].weight if self.has_room(url) else None

    def _lease(self, url: str, tenant: str, name: str, moment: int) -> None:
        self.leases.setdefault(url, {})[name] = moment
        self.turns.run(tenant, name, moment)
        if self._plan.by_url[url].cap == TRIAL:
            self.breakers.begin_trial(url, name, moment)

    def _end(self, process: str, ended: Sequence[Ended], now: int) -> None:
        for item in ended:
            name = lease_name(process, item.number, item.tenant, item.memory_mb)
            if item.is_over and self.leases.get(item.url, {}).pop(name, 0):
                self.turns.end_run(item.tenant or DEFAULT, name)
            self._hear_of_rest(item, now)
            if item.blame is not Blame.AWAY or not self._are_all_away() or self.breakers.is_ejected(item.url):
                self.breakers.judge(item, name, now, len(self._plan.fleet))
            if item.blame is Blame.DIED and self._is_to_stay(item.url):
                others = len(self.leases.get(item.url, ()))
                self.quarantine.hear_of_death(item.job, item.url, name, others, now, item.ms)
            elif item.blame is Blame.OK:
                self.quarantine.exonerate(item.job)

    def _hear_of_rest(self, item: Ended, now: int) -> None:
        if item.blame in (Blame.BUSY, Blame.AWAY):
            if item.url in self._plan.by_url and not self.breakers.is_ejected(item.url):
                running = len(self.leases.get(item.url, ()))
                self.rests.turn_away(item.url, running, now, is_away=item.blame is Blame.AWAY, ms=item.ms)
        elif item.blame in (Blame.OK, Blame.ERROR, Blame.DOUBT):
            self.rests.hear_of_answer(item.url)

    def _are_all_away(self) -> bool:
        return self.rests.away >= len(self._plan.by_url)

    def _is_to_stay(self, url: str) -> bool:
        """Whether the worker belongs to the fleet and is not drained; else it was to end anyway."""
        return url in self._plan.fleet and not self._plan.fleet[url].is_draining

    def _full_until(self, url: str) -> int | None:
        held, cap = self.leases.get(url, {}), self._plan.fleet[url].cap if url in self._plan.fleet else 0
        return min(held.values()) if cap and len(held) >= cap else None

    def _claim(self, process: str, claims: Sequence[Claim], now: int, told: Told) -> None:
        for claim in claims:
            name = lease_name(process, claim.number, claim.tenant, claim.memory_mb)
            if name not in self.leases.get(claim.url, {}):
                told.lost.append(claim.number)
                continue
            self.leases[claim.url][name] = now + claim.bound_ms
            self.turns.run(claim.tenant or DEFAULT, name, now + claim.bound_ms)
            if self.breakers.is_tried_by(claim.url, name):
                self.breakers.begin_trial(claim.url, name, now + claim.bound_ms)
            self.turns.leave(lease_name(process, claim.number))
            told.claimed.append(claim.number)

    def _drop_lapsed(self, now: int) -> None:
        self.turns.drop_lapsed(now)
        for url, held in self.leases.items():
            self.leases[url] = {name: moment for name, moment in held.items() if moment > now}
        for url, rest in list(self.rests.by_url.items()):
            if rest.until_ms <= now:
                self.rests.pass_by(url, len(self.leases.get(url, ())), now, is_wanted=bool(self.turns.lines))
        if self.starts.by_url:
            self.starts.go_on(self._caps(), now)

    def _grant(self, own: str, job: Waiting, url: str, now: int, told: Told) -> None:
        process, _, number = job.name.rpartition(":")
        tenant, memory_mb = job.line[0], job.memory_mb
        name = lease_name(process, int(number), tenant, memory_mb)
        grant = Grant(int(number), url, job.ticket, "" if tenant == DEFAULT else tenant, memory_mb)
        if process == own:
            self._lease(url, tenant, name, now + job.bound_ms)
            told.granted.append(grant)
        else:
            self._lease(url, tenant, name, now + CLAIM_WITHIN_MS)
            self.outbox.setdefault(process, []).append(grant)

    def _serve_queue(self, own: str, now: int, told: Told) -> None:
        self._serve_reservations(own, now, told)
        passed: Counter[Line] = Counter()
        by_room: Counter[Room] = Counter()
        while True:
            line = self._whose_turn(passed, by_room, now)
            if line is None:
                return
            is_for_slow = self.turns.goes_by_size(line) and self._only_slow_have_room(self.pools.room(line[1]))
            job = self.turns.job_at(line, passed[line], is_for_slow=is_for_slow)
            if self._is_over(job, own, now):
                self.turns.leave(job.name)
                continue
            url, unfit = self._pick(job)
            if url:
                self._grant(own, job, url, now, told)
                self.turns.leave(job.name)
            elif not self.memory.reserve(unfit, job.memory_mb, line):
                passed[line] += 1
                by_room[self.pools.room(line[1])] += 1

    def _whose_turn(self, passed: Counter[Line], by_room: Counter[Room], now: int) -> Line | None:
        """Return the line whose turn it is: one with a worker that has room, and a job that is not passed over."""
        rooms: defaultdict[Room, list[Line]] = defaultdict(list)
        for line in self._may_go():
            rooms[self.pools.room(line[1])].append(line)
        orders: dict[Line, tuple[float, str]] = {}
        for room, lines in rooms.items():
            if by_room[room] < PASSED_OVER_IN_ROOM and self._is_open(room):
                orders |= self.turns.orders(lines, now)
        left = (line for line in orders if passed[line] < min(len(self.turns.lines[line]), PASSED_OVER_AT_MOST))
        return min(left, key=orders.__getitem__, default=None)

    def _serve_reservations(self, own: str, now: int, told: Told) -> None:
        """Let the head of each line that has reserved a worker go there if it fits, or give up the worker."""
        for url, line in sorted(self.memory.reserved.items()):
            while (job := self.turns.head(line)) and self._is_over(job, own, now):
                self.turns.leave(job.name)
            if not job or not self._can_wait_for(url, job):
                del self.memory.reserved[url]
            elif self.has_slot(url) and self.memory.fits(url, job.memory_mb):
                del self.memory.reserved[url]
                self._grant(own, job, url, now, told)
                self.turns.leave(job.name)

    def _can_wait_for(self, url: str, job: Waiting) -> bool:
        """Whether the job may still get the worker that its line has reserved."""
        if self.turns.is_at_most(job.line[0]) or url in self.rests.by_url or url in job.tried:
            return False
        return url in self.pools.room(job.line[1]).urls and self.memory.is_large_enough(url, job.memory_mb)

    def _is_over(self, job: Waiting, own: str, now: int) -> bool:
        return job.deadline <= now or not self._beats.is_alive(job.name.rpartition(":")[0], own, now)

    def _may_go(self) -> list[Line]:
        return [line for line in self.turns.may_go() if not self.memory.has_reserved(line)]

    def _is_open(self, room: Room) -> bool:
        return any(self.has_room(url) for url in room.urls)

    def _only_slow_have_room(self, room: Room) -> bool:
        return bool(room.behind) and self._is_open(room) and not any(self.has_room(url) for url in room.ring)

    def _waits_for_shortest(self, job: Waiting, arrival: Arrival, room: Room) -> bool:
        """Whether a job waits in its line, so that a slow worker gets the shortest one of all that have come."""
        if arrival.ticket or not self.turns.goes_by_size(job.line) or self.turns.is_crowded(job.line[0]):
            return False
        return self._only_slow_have_room(room) and len(self.turns.waiting) < self.rules.max_waiting

    def _may_go_first(self, line: Line, room: Room) -> bool:
        """Whether a job may go before the jobs that wait for this room, for none of them may go."""
        if self.turns.is_at_most(line[0]) or self.memory.has_reserved(line):
            return False
        return not any(self.pools.room(pool) == room for _, pool in self._may_go())

    def _admit(self, pool: str, now: int) -> bool:
        """Open the pool of a job; return whether it is open."""
        if not self.pools.is_open(pool) and self.pools.are_full():
            self._plan.expire()
            self._make_plan_if_stale(now)  # it drops the pools that are not in use
        return self.pools.admit(pool)

    def _arrive(self, call: Call, hedges: Mapping[int, Waiting], now: int, told: Told) -> None:
        process = call.process
        first_runs = [each for each in call.arrived if each.number not in hedges]
        sizes = {wish.number: wish.size_ms for wish in call.wishes}
        arrivals = self.turns.in_order(first_runs, sizes) if sizes else first_runs
        first, self.ticket = tickets_for(arrivals, self.ticket)
        is_alive = partial(self._beats.is_alive, own=process, now=now)
        for arrival, ticket in self._orphans.share(call.wishes, arrivals, first, now, is_alive, told.adopted):
            job = Waiting.of(arrival, process, ticket, now, sizes.get(arrival.number, 0))
            is_shared = partial(self.shared_runs.shares, call, arrival, ticket, now, is_alive, told.shared)
            if self._is_refused(arrival, now, told) or is_shared():
                continue
            if not self._admit(arrival.pool, now):
                told.unpooled.append(arrival.number)
                continue
            room = self.pools.room(arrival.pool)
            may_now = self._may_go_first(job.line, room) and not self._waits_for_shortest(job, arrival, room)
            if may_now and (url := self._pick(job)[0]):
                self._grant(process, job, url, now, told)
            elif self.memory.has_tried_all(room.urls, arrival.tried, arrival.memory_mb):
                told.exhausted.append(arrival.number)
            elif self.turns.is_crowded(job.line[0]):
                told.crowded.append(arrival.number)
            elif len(self.turns.waiting) >= self.rules.max_waiting:
                told.refused.append(arrival.number)
            else:
                self.turns.enter(job)
                told.queued += [arrival.number, ticket]

    def _hedge(self, hedges: Mapping[int, Waiting], own: str, now: int, told: Told) -> None:
        """Give leases to second runs while no job waits for the room; others do not get any."""
        for number, job in hedges.items():
            may_go = self.pools.is_open(job.line[1]) and self._may_go_first(job.line, self.pools.room(job.line[1]))
            url = self._pick(job)[0] if may_go else None
            if url and self._plan.by_url[url].cap != TRIAL and self._hedges.take(now, self.ticket):
                self._grant(own, job, url, now, told)
            else:
                told.unhedged.append(number)

    def _is_refused(self, arrival: Arrival, now: int, told: Told) -> bool:
        """Whether the job is a retry that may not be made."""
        if arrival.retry_of and self.quarantine.holds(arrival.retry_of, now):
            told.quarantined.append(arrival.number)
            return True
        if arrival.retry_of and not self._budget.take(now, self.ticket):
            told.unfunded.append(arrival.number)
            return True
        return False

    def _hear_beat(self, process: str, beat: Beat, now: int, told: Told) -> int:
        self._budget.fill(now, self.ticket)
        self._hedges.fill(now, self.ticket)
        held = {(item.url, lease_name(process, item.number, item.tenant, item.memory_mb)): item for item in beat.held}
        if beat.is_return:
            self._drop_unheld(process, held.keys())
        for (url, name), item in held.items():
            if name not in self.leases.setdefault(url, {}):
                self.leases[url][name] = now + item.left_ms
                self.turns.run(item.tenant or DEFAULT, name, now + item.left_ms)
        names = (job.name for job in self.turns.waiting)
        self.turns.leave_all(self._beats.abandoned(names, process, now))
        told.missing += [number for number in beat.oldest if not self.turns.waits(lease_name(process, number))]
        return self._beats.hear(process, now)

    def _drop_unheld(self, process: str, held: Collection[tuple[str, str]]) -> None:
        for url in self._plan.fleet:
            for name in list(self.leases.get(url, ())):
                if name.split()[0].rpartition(":")[0] == process and (url, name) not in held:
                    del self.leases[url][name]
                    for running in self.turns.running.values():
                        running.pop(name, None)
