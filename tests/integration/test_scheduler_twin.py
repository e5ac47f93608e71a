"""The script and its Python twin run against each other on a real Valkey, under the laws that both keep."""

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from router.fleet.model import Health, Member, Worker
from router.policy.strategy import Strategy
from router.policy.tenants import DEFAULT, LONGEST_FIRST, TenantRule
from router.policy.verdict import Blame
from router.scheduling.local.memory import memory_of
from router.scheduling.local.scheduler import LocalScheduler
from router.scheduling.messages import (
    PROCESS_TTL_MS,
    SETTLE_MS,
    Arrival,
    Beat,
    Call,
    Check,
    Claim,
    Ended,
    Grant,
    Held,
    Orphan,
    Reply,
    Rules,
    RunOver,
    Wish,
    lease_name,
)
from tests.support.lua_scheduler import JOBS, POOLS, PROCESSES, RULES, TENANTS, URLS, LuaScheduler, State


class Model(LocalScheduler):
    """The twin with health checks, which in production only the script serves."""

    def step(self, call: Call, now: int) -> Reply:
        """Serve the jobs, then the checks."""
        reply = super().step(call, now)
        granted, refused = list(reply.granted), list(reply.refused)
        for check in call.checks:
            held = self.leases.setdefault(check.url, {})
            cap = self._plan.fleet[check.url].cap
            has_room = not cap or (self._settles_at is None and len(held) < cap)
            is_left_alone = self.breakers.is_ejected(check.url)
            may_have_more = self.rests.have_room(check.url, len(held)) and self.starts.has_room(check.url, len(held))
            if has_room and not is_left_alone and may_have_more:
                held[lease_name(call.process, check.number)] = now + check.bound_ms
                self.turns.run(DEFAULT, lease_name(call.process, check.number), now + check.bound_ms)
                granted.append(Grant(check.number, check.url, 0))
            else:
                refused.append(check.number)
        return msgspec.structs.replace(reply, granted=tuple(granted), refused=tuple(refused))

    def open_pools(self) -> list[str]:
        """Return the pools that are open, but for the one of all workers."""
        return [pool for pool in POOLS if pool and self.pools.is_open(pool)]

    def planned(self) -> Collection[str]:
        """Return the workers that may get jobs."""
        return self._plan.by_url.keys()


KEYS = ("akey", "bkey", "ckey")
# Most jobs need no memory; the largest ones need a worker's whole.
SIZES = (0, 0, 0, 400, 900, 1500)
# How long jobs are expected to take; of some that is not known.
SIZES_MS = (0, 0, 1, 70, 70, 9000, 2**31)
ABILITIES = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.sampled_from([("gpu",), ("gpu", "ib")]),
        "languages": st.sampled_from([("python",), ("cpp",), ("cpp", "python")]),
        "memory_mb": st.sampled_from([1000, 1500]),
    },
)


class Job(NamedTuple):
    """A job with a lease: who holds it, and what else is a part of its name. It stays the job's when its lease ends."""

    process: str
    number: int
    tenant: str = ""
    memory_mb: int = 0

    def ended(self, url: str, blame: Blame, **told: Any) -> Ended:
        """Return how it ended."""
        return Ended(url, self.number, blame, tenant=self.tenant, memory_mb=self.memory_mb, **told)


class Machine(RuleBasedStateMachine):
    """Three processes that use one scheduler, present twice: as the script and as the twin."""

    redis: Any
    strategy: Strategy

    @initialize(
        # A fleet with an uncapped worker never has pending jobs, so most of these fleets have none.
        caps=st.sampled_from([0, 1, 1]).flatmap(lambda least: st.lists(st.integers(least, 3), min_size=2, max_size=5)),
        weights=st.lists(st.integers(1, 3), min_size=5),
        is_prompt=st.booleans(),
        able=st.lists(ABILITIES, min_size=5),
    )
    def start(self, caps: list[int], weights: list[int], is_prompt: bool, able: list[dict[str, Any]]) -> None:
        """Start with an empty Redis, a healthy fleet, and processes that may claim their grants at once."""
        self.is_prompt = is_prompt
        self.redis.flushall()
        rules = Rules(strategy=self.strategy, **RULES)  # type: ignore[arg-type]
        self.script, self.twin = LuaScheduler(self.redis, rules), Model(rules, SETTLE_MS)
        self.now = 1_000_000
        self.numbers = self.hedges = 0
        self.beating = set(PROCESSES)
        self.held: dict[Job, str] = {}
        self.tickets: dict[tuple[str, int], int] = {}
        self.tenants: dict[str, TenantRule] = {}
        self.may_run_over = False
        self.checks: set[str] = set()
        self.pools: dict[tuple[str, int], str] = {}
        self.sized: dict[tuple[str, int], tuple[int, int]] = {}
        self.before_all: set[tuple[str, int]] = set()  # those that were pending when their tenant's order was set
        self.unclaimed: list[tuple[str, Grant]] = []
        self.may_be_over = False
        self.prints = 0
        self.answers: set[tuple[str, str]] = set()  # each with the key of the run that brought it
        self.left_behind: dict[str, list[tuple[int, str, int]]] = {}
        self.members = {
            url: Member(Worker(url, weight, cap or None, **its))
            for url, cap, weight, its in zip(URLS, caps, weights, able, strict=False)
        }
        self._publish()
        for process in PROCESSES:
            self._call(process, beat=Beat())
        self.beats = dict.fromkeys(PROCESSES, self.now)
        self.settled_at = self.now + SETTLE_MS
        self.now += SETTLE_MS - 1

    def _publish(self) -> None:
        self.script.set_fleet(list(self.members.values()))
        self.twin.set_fleet(self.members.values())
        self.script.set_tenants(self.tenants)
        self.twin.set_tenants(self.tenants)

    def _call(self, process: str, **said: Any) -> Reply:
        call = Call(process, seed=7, **said)
        self.pools |= {(process, arrival.number): arrival.pool for arrival in call.arrived}
        sizes = {wish.number: wish.size_ms for wish in call.wishes}
        for arrival in call.arrived:
            hurries_at = self.now + (0 if arrival.ticket else arrival.wait_ms // 2)
            self.sized[process, arrival.number] = sizes.get(arrival.number, 0), hurries_at
        reply = self.script.step(call, self.now)
        assert reply == self.twin.step(call, self.now)
        self._check_order(process, reply)
        self._check_slow_ones(call, reply)
        self._check_adopted(call, reply)
        for grant in reply.granted:
            self.held[_job(process, grant)] = grant.url
            self.tickets[process, grant.number] = grant.ticket
        for number, ticket in zip(reply.queued[::2], reply.queued[1::2], strict=True):
            self.tickets[process, number] = ticket
        self._check_shared(call, reply)
        given, woken = self.script.grants()
        assert (given, woken) == (self.twin.outbox, self.twin.shared_runs.woken)
        self.twin.outbox.clear()
        self.twin.shared_runs.woken.clear()
        self.unclaimed += [(other, grant) for other, grants in given.items() for grant in grants]
        return reply

    def _check_order(self, reply_process: str, reply: Reply) -> None:
        """Check that no pending job of a line that would take any worker goes before a job of it that was granted.

        But a slow worker may get the shortest one.
        """
        for grant in reply.granted:
            tenant = grant.tenant or DEFAULT
            key = (reply_process, grant.number)
            # A job that can run on every worker can take the one that this grant is for.
            line = self.twin.turns.lines.get((tenant, ""), ())
            waiting = [job for job in line if not job.tried and not job.memory_mb]
            may_go = not self.twin.turns.is_at_most(tenant) and not self.twin.memory.has_reserved((tenant, ""))
            is_slow = grant.url in self.twin.pools.room("").behind and self.twin.turns.goes_by_size((tenant, ""))
            if may_go and self.pools.get(key) == "" and not is_slow:
                rank = self._rank(tenant, key, grant.ticket)
                assert all(rank <= self._rank(tenant, _key(job.name), job.ticket) for job in waiting)

    def _check_slow_ones(self, call: Call, reply: Reply) -> None:
        """Check that a slow worker got a job only if no other one of the room had room."""
        if any(member.worker.memory_mb for member in self.members.values()):
            return  # in such a fleet a reservation that ends gives room to others within the call
        arrived = {arrival.number: arrival for arrival in call.arrived if not arrival.tried}
        for grant in reply.granted:
            if grant.number in arrived:
                room = self.twin.pools.room(arrived[grant.number].pool)
                assert grant.url not in room.behind or not any(map(self.twin.has_room, room.ring))

    def _rank(self, tenant: str, key: tuple[str, int], ticket: int) -> tuple[int, ...]:
        """Return the order of a tenant's job in its line: the lowest goes first."""
        if self.twin.turns.rule(tenant).order != LONGEST_FIRST:
            return (ticket,)
        size_ms, hurries_at = self.sized[key]
        is_before_all = key in self.before_all or hurries_at <= self.now
        return (0, ticket) if is_before_all else (1, -size_ms, ticket)

    def _check_shared(self, call: Call, reply: Reply) -> None:
        """Check that an answer is one to an identical job, and that a job with one, or that waits, gets no lease."""
        self.answers |= {(over.key, over.answer) for over in call.runs_over if over.answer}
        keys = {wish.number: wish.key for wish in call.wishes}
        for shared in reply.shared:
            assert shared.process != call.process
            assert bool(shared.process) != bool(shared.answer)
            assert not shared.answer or (keys[shared.number], shared.answer) in self.answers
        told = [grant.number for grant in reply.granted] + [*reply.queued[::2], *reply.refused, *reply.crowded]
        assert not {shared.number for shared in reply.shared}.intersection(told)

    @rule(
        process=st.sampled_from(PROCESSES),
        keys=st.lists(st.sampled_from(("", *KEYS)), min_size=1, max_size=3),
        tenant=st.sampled_from(("", *TENANTS)),
        ms=st.sampled_from([-5000, 500, 3000]),
    )
    def arrive_alike(self, process: str, keys: list[str], tenant: str, ms: int) -> None:
        """Jobs arrive that share runs with identical ones."""
        self.numbers += len(keys)
        numbers = range(self.numbers - len(keys) + 1, self.numbers + 1)
        arrived = tuple(Arrival(number, 3000, ms, tenant=tenant) for number in numbers)
        wishes = tuple(Wish(number, key=key, reuse_ms=1000) for number, key in zip(numbers, keys, strict=True) if key)
        self._call(process, arrived=arrived, wishes=wishes)

    @rule(
        process=st.sampled_from(PROCESSES),
        runs=st.lists(
            st.tuples(st.sampled_from(KEYS), st.sampled_from([0, 500, 3000, 3000]), st.sampled_from([0, 0, 1, 9, 12])),
            min_size=1,
            max_size=3,
        ),
    )
    def end_shared(self, process: str, runs: list[tuple[str, int, int]]) -> None:
        """Runs that are shared are over: with an answer, without one, or without having come to their end."""
        over = tuple(RunOver(key, ms, key[0] * size if ms else "") for key, ms, size in runs)
        self._call(process, runs_over=over)

    def _check_adopted(self, call: Call, reply: Reply) -> None:
        """Check that each run and each place is given once, to a job with its key; one with a run gets no lease."""
        for orphan in call.orphans:
            its = orphan.ticket, (orphan.process or call.process) if orphan.number else "", orphan.number
            kept = self.left_behind.setdefault(orphan.key, [])
            if orphan.ms:
                kept.append(its)
            else:
                kept[:] = [other for other in kept if other[1:] != its[1:]]
        keys = {wish.number: wish.key for wish in call.wishes}
        for adopted in reply.adopted:
            self.left_behind[keys[adopted.number]].remove((adopted.ticket, adopted.process, adopted.run))
            if adopted.process:
                told = {grant.number for grant in reply.granted} | {*reply.queued[::2], *reply.refused, *reply.crowded}
                assert adopted.number not in told
            elif adopted.number in reply.queued:
                assert adopted.ticket in reply.queued

    @rule(
        process=st.sampled_from(PROCESSES),
        key=st.sampled_from(KEYS),
        ticket=st.integers(1, 30),
        number=st.sampled_from([0, 0, 1, 2, 3]),
        ms=st.sampled_from([0, 1000, 3000, 3000]),
        owner=st.sampled_from(("", *PROCESSES)),
        keyed_ms=st.sampled_from([0, 0, 500]),
    )
    def leave_behind(
        self, process: str, key: str, ticket: int, number: int, ms: int, owner: str, keyed_ms: int
    ) -> None:
        """A client goes while its job is pending or running, or while it waits for another one's run; or a run ends."""
        if number or ms:
            self._call(process, orphans=(Orphan(key, ms, ticket, number, owner),), keyed_ms=keyed_ms)

    @rule(
        process=st.sampled_from(PROCESSES),
        keys=st.lists(st.sampled_from(("", *KEYS)), max_size=4),
        tenant=st.sampled_from(("", *TENANTS)),
    )
    def come_back(self, process: str, keys: list[str], tenant: str) -> None:
        """Jobs with keys arrive; some of them are the same as jobs that have left something behind."""
        self.numbers += len(keys)
        numbers = range(self.numbers - len(keys) + 1, self.numbers + 1)
        arrived = tuple(Arrival(number, 3000, 3000, tenant=tenant) for number in numbers)
        wishes = tuple(Wish(number, key=key) for number, key in zip(numbers, keys, strict=True))
        self._call(process, arrived=arrived, wishes=wishes)

    @rule(
        process=st.sampled_from(PROCESSES),
        wanted=st.lists(
            st.tuples(
                *(st.integers(1, 5000), st.integers(1, 5000), st.sets(st.sampled_from(URLS), max_size=2)),
                *(st.sampled_from(("", *TENANTS)), st.sampled_from(POOLS), st.sampled_from(SIZES)),
                st.sampled_from(SIZES_MS),
            ),
            max_size=4,
        ),
    )
    def arrive(self, process: str, wanted: list[tuple[int, int, set[str], str, str, int, int]]) -> None:
        """Jobs arrive at a process."""
        arrivals, wishes = [], []
        for bound, wait, tried, tenant, pool, memory_mb, size_ms in wanted:
            self.numbers += 1
            asked = (bound, wait, 0, tuple(sorted(tried)), "", tenant, pool, memory_mb)
            arrivals.append(Arrival(self.numbers, *asked))
            wishes += [Wish(self.numbers, size_ms)] if size_ms else []
        self._call(process, arrived=tuple(arrivals), wishes=tuple(wishes))

    @rule(
        process=st.sampled_from(PROCESSES),
        count=st.integers(1, 8),
        tenant=st.sampled_from(("", *TENANTS)),
        pool=st.sampled_from(("", *POOLS)),
        memory_mb=st.sampled_from(SIZES),
        sizes=st.lists(st.sampled_from(SIZES_MS), max_size=8),
    )
    def arrive_plainly(
        self, process: str, count: int, tenant: str, pool: str, memory_mb: int, sizes: Collection[int] = ()
    ) -> None:
        """Many jobs of one kind arrive at a process."""
        self.numbers += count
        numbers = range(self.numbers - count + 1, self.numbers + 1)
        self._call(
            process,
            arrived=tuple(Arrival(number, 3000, 3000, 0, (), "", tenant, pool, memory_mb) for number in numbers),
            wishes=tuple(map(Wish, numbers, sizes)),
        )

    @precondition(lambda self: any(member.worker.memory_mb for member in self.members.values()))
    @rule(process=st.sampled_from(PROCESSES), tenant=st.sampled_from(("", *TENANTS)), behind=st.integers(0, 3))
    def arrive_large(self, process: str, tenant: str, behind: int) -> None:
        """A small job and a large one come that only workers with memory may run, and others come behind them."""
        tried = tuple(url for url, member in sorted(self.members.items()) if not member.worker.memory_mb)
        self.numbers += 2
        sizes = ((self.numbers - 1, 400), (self.numbers, 900))
        jobs = tuple(Arrival(number, 3000, 3000, 0, tried, "", tenant, "", size) for number, size in sizes)
        self._call(process, arrived=jobs)
        self.arrive_plainly(process, behind, "run-7", "", 0)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), tried=st.sets(st.sampled_from(URLS), max_size=2), others=st.integers(0, 2))
    def hedge(self, data: st.DataObject, tried: set[str], others: int) -> None:
        """A running job asks for a second run, perhaps beside jobs that arrive."""
        first = data.draw(st.sampled_from(sorted(self.held)))
        process, number, tenant, memory_mb = first
        pool, ticket = self.pools.get((process, number), ""), self.tickets.get((process, number), 0)
        self.numbers += 1 + others
        second = self.numbers
        tried_by_it = tuple(sorted({self.held[first], *tried}))
        job = Arrival(second, 3000, 0, ticket, tried_by_it, "", tenant, pool, memory_mb)
        new = tuple(Arrival(second - 1 - each, 3000, 3000) for each in range(others))
        reply = self._call(process, arrived=(job, *new), wishes=(Wish(second, is_hedge=True),))
        urls = [grant.url for grant in reply.granted if grant.number == second]
        assert bool(urls) != (second in reply.unhedged)
        assert second not in reply.queued[::2]
        assert not set(urls) & set(tried_by_it)
        if urls:
            self.hedges += 1
            room = self.twin.pools.room(pool)
            waits = [other for other in self.twin.turns.may_go() if self.twin.pools.room(other[1]) == room]
            assert all(self.twin.memory.has_reserved(other) for other in waits)
        assert self.hedges <= self.twin.ticket * 0.2

    @rule(
        tenants=st.dictionaries(
            st.sampled_from(TENANTS),
            st.builds(
                TenantRule,
                weight=st.integers(1, 4),
                priority=st.sampled_from([0, 0, 0, -3, 2]),
                max_running=st.sampled_from([None, None, 1, 3]),
                max_waiting=st.sampled_from([None, None, 0, 2]),
                order=st.sampled_from(["arrival", LONGEST_FIRST]),
            ),
        )
    )
    def change_rules(self, tenants: dict[str, TenantRule]) -> None:
        """The sidecar publishes other rules for the tenants."""
        pending = [(job.line[0], _key(job.name)) for job in self.twin.turns.waiting]
        ordered = {tenant for tenant, _ in pending if self.twin.turns.rule(tenant).order == LONGEST_FIRST}
        self.before_all |= {key for tenant, key in pending if tenant not in ordered}
        self.tenants = tenants
        self.may_run_over = True  # more may run already than may now
        self._publish()

    @rule(
        process=st.sampled_from(PROCESSES),
        sizes=st.lists(st.sampled_from(SIZES_MS), min_size=2, max_size=5),
        ms=st.sampled_from([0, 100, 1500]),
    )
    def wait_by_size(self, process: str, sizes: list[int], ms: int) -> None:
        """Jobs of a tenant whose longest go first wait, perhaps for half of their patience."""
        self.change_rules({**self.tenants, "run-7": TenantRule(order=LONGEST_FIRST)})
        for size_ms in sizes:  # one after another: those of one call have their tickets by size
            self.arrive_plainly(process, 1, "run-7", "", 0, [size_ms])
        self._pass(ms)

    @rule(
        process=st.sampled_from(PROCESSES),
        old=st.integers(1, 30),
        tried=st.sampled_from(URLS),
        fresh=st.integers(0, 2),
        job=st.sampled_from(("", *JOBS)),
    )
    def retry(self, process: str, old: int, tried: str, fresh: int, job: str) -> None:
        """A job arrives again, perhaps among new ones; after a loss its ticket may exceed Redis' counter."""
        first, self.numbers = self.numbers + 1, self.numbers + 1 + fresh
        new = (Arrival(number, 500, 500) for number in range(first + 1, self.numbers + 1))
        reply = self._call(process, arrived=(Arrival(first, 500, 500, old, (tried,), job), *new))
        assert bool(reply.quarantined) == (self.script.state().quarantined.get(job, 0) > self.now)

    @rule(process=st.sampled_from(PROCESSES), url=st.sampled_from(URLS), bound=st.integers(1, 5000))
    def check(self, process: str, url: str, bound: int) -> None:
        """A health check asks for a lease on a worker in any state."""
        if url in self.members:
            self.numbers += 1
            self.checks.add(lease_name(process, self.numbers))
            self._call(process, checks=(Check(self.numbers, url, bound),))

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        blame=st.sampled_from(Blame),
        is_over=st.booleans(),
        job=st.sampled_from(JOBS),
        ms=st.sampled_from([0, 1, 400, 3000]),
    )
    def end(self, data: st.DataObject, blame: Blame, is_over: bool, job: str, ms: int) -> None:
        """A job ends well or badly, or times out while its worker still runs it."""
        lease = data.draw(st.sampled_from(sorted(self.held)))
        url = self.held[lease]
        if is_over:
            del self.held[lease]
        cause = f"returned {lease.number}"
        self._call(lease.process, ended=(lease.ended(url, blame, is_over=is_over, job=job, cause=cause, ms=ms),))

    @precondition(lambda self: self.held)
    @rule(job=st.sampled_from(JOBS), ran_ms=st.sampled_from([0, 0, 1, 500]), gap_ms=st.sampled_from([0, 1, 2500]))
    def break_workers(self, job: str, ran_ms: int, gap_ms: int) -> None:
        """A job breaks one worker after another, or several that die together; then it is sent again."""
        for lease, url in sorted(self.held.items())[:6]:
            del self.held[lease]
            self._call(lease.process, ended=(lease.ended(url, Blame.DIED, job=job, ms=ran_ms),))
            self.now += gap_ms
        self.retry("p", 1, URLS[0], 0, job)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), blame=st.sampled_from(Blame))
    def end_all_of_one_worker(self, data: st.DataObject, blame: Blame) -> None:
        """All jobs of one worker end in the same way, as in a breakdown."""
        url = data.draw(st.sampled_from(sorted(set(self.held.values()))))
        for process in PROCESSES:
            leases = [lease for lease, at in sorted(self.held.items()) if (lease.process, at) == (process, url)]
            for lease in leases:
                del self.held[lease]
            if leases:
                ended = tuple(lease.ended(url, blame, job=JOBS[lease.number % len(JOBS)]) for lease in leases)
                self._call(process, ended=ended)

    @precondition(lambda self: self.held)
    @rule(blame=st.sampled_from([Blame.BUSY, Blame.AWAY]), ms=st.sampled_from([0, 1, 300]), keep=st.integers(0, 3))
    def turn_away(self, blame: Blame, ms: int, keep: int) -> None:
        """Workers turn away all but a few of the jobs just sent, which arrive again with their tickets."""
        for lease in sorted(self.held)[keep:]:
            process, number, tenant, memory_mb = lease
            url, ticket = self.held.pop(lease), self.tickets.get((process, number), 0)
            self.numbers += 1
            pool = self.pools.get((process, number), "")
            again = Arrival(self.numbers, 3000, 3000, ticket, (), "", tenant, pool, memory_mb)
            self._call(process, ended=(lease.ended(url, blame, ms=ms),), arrived=(again,))

    @rule(process=st.sampled_from(PROCESSES), url=st.sampled_from(URLS), count=st.integers(1, 3))
    def fail(self, process: str, url: str, count: int) -> None:
        """Jobs whose leases have expired are reported as failed, which starts most ejections."""
        numbers = range(10_001, 10_001 + count)
        self._call(
            process, ended=tuple(Ended(url, number, Blame.FAULT, cause=f"failed {number}") for number in numbers)
        )

    @precondition(lambda self: self._ejected())
    @rule(data=st.data(), process=st.sampled_from(PROCESSES), blame=st.sampled_from([*Blame, Blame.FAULT, None]))
    def try_ejected(self, data: st.DataObject, process: str, blame: Blame | None) -> None:
        """An ejection ends, jobs arrive, and the trial among them ends or is never reported."""
        url = data.draw(st.sampled_from(self._ejected()))
        until = self.twin.breakers.by_url[url].until_ms
        if until < math.inf:
            self._pass(int(until) - self.now)
        self.arrive_plainly(process, len(URLS), "", "", 0)
        for lease in sorted(self.held):
            if blame is not None and self.twin.breakers.is_tried_by(url, lease_name(*lease)):
                del self.held[lease]
                self._call(lease.process, ended=(lease.ended(url, blame, cause=f"failed its trial {lease.number}"),))

    def _ejected(self) -> list[str]:
        return [url for url in sorted(self.members) if self.twin.breakers.is_ejected(url)]

    @rule(ms=st.sampled_from([1, 100, 700, 2500, 6000]))
    def advance(self, ms: int) -> None:
        """Time passes; living processes send heartbeats."""
        self._pass(ms)

    @precondition(lambda self: self._moments())
    @rule(data=st.data(), by=st.sampled_from([-1, 0, 0]))
    def advance_to_a_moment(self, data: st.DataObject, by: int) -> None:
        """Time passes to a moment at which something ends, or to 1 ms before it."""
        self._pass(data.draw(st.sampled_from(self._moments())) - self.now + by)

    def _moments(self) -> list[int]:
        """Return the moments at which leases, waits, ejections, rests, processes and the settling end."""
        twin = self.twin
        moments = {at for held in twin.leases.values() for at in held.values()}
        aging_ms = twin.rules.aging_ms
        moments |= {at for job in twin.turns.waiting for at in (job.deadline, job.since + aging_ms, job.hurries_at)}
        moments |= {int(b.until_ms) for b in twin.breakers.by_url.values() if b.times and b.until_ms < math.inf}
        moments |= {rest.until_ms for rest in twin.rests.by_url.values()}
        moments |= {start.until_ms for start in twin.starts.by_url.values()}
        moments |= {at + PROCESS_TTL_MS for process, at in self.beats.items() if process not in self.beating}
        return sorted(at for at in {*moments, self.settled_at} if at > self.now)

    def _pass(self, ms: int) -> None:
        if self.is_prompt:
            for process, grant in [given for given in self.unclaimed if given[0] in self.beating]:
                self.unclaimed.remove((process, grant))
                self._claim(process, grant)
        self.now += ms
        for process in sorted(self.beating):
            names = (job.name.partition(":") for job in self.twin.turns.waiting)
            waiting = [int(number) for owner, _, number in names if owner == process]
            self._call(process, beat=Beat(oldest=(*waiting[:3], 10_000)))
            self.beats[process] = self.now

    @precondition(lambda self: self.unclaimed)
    @rule(data=st.data(), bound_ms=st.sampled_from([1800, 1800, 300]))
    def claim(self, data: st.DataObject, bound_ms: int) -> None:
        """A process claims a grant, perhaps too late."""
        self._claim(*self.unclaimed.pop(data.draw(st.integers(0, len(self.unclaimed) - 1))), bound_ms)

    def _claim(self, process: str, grant: Grant, bound_ms: int = 1800) -> None:
        claim = Claim(grant.url, grant.number, bound_ms, grant.tenant, grant.memory_mb)
        reply = self._call(process, claims=(claim,))
        assert {*reply.claimed, *reply.lost} == {grant.number}
        if reply.claimed:
            self.held[_job(process, grant)] = grant.url

    @precondition(lambda self: self.twin.turns.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A client hangs up while its job is pending."""
        name = data.draw(st.sampled_from([job.name for job in self.twin.turns.waiting]))
        process, _, number = name.partition(":")
        self._call(process, left=(int(number),))

    @rule(process=st.sampled_from(PROCESSES))
    def die_or_live(self, process: str) -> None:
        """A process stops sending heartbeats, or begins again."""
        self.beating ^= {process}

    @rule(url=st.sampled_from(URLS), health=st.sampled_from([Health.HEALTHY, Health.UNHEALTHY, Health.UNKNOWN]))
    def change_health(self, url: str, health: Health) -> None:
        """The sidecar sees a worker's health change."""
        if url in self.members:
            self.members[url] = replace(self.members[url], health=health)
            self._publish()

    @rule(url=st.sampled_from(URLS), process=st.sampled_from(PROCESSES))
    def drain_or_resume(self, url: str, process: str) -> None:
        """The operator drains or resumes a worker, and a process sees that."""
        if url in self.members:
            member = self.members[url]
            self.members[url] = replace(member, is_draining=not member.is_draining)
            self.script.set_drain(list(self.members.values()))
            self.twin.set_fleet(self.members.values())
            self.prints += 1
            self._call(process, fleet_print=str(self.prints))

    @rule(url=st.sampled_from(URLS), weight=st.integers(1, 4), cap=st.sampled_from([1, 2, 3, 4, 0]), able=ABILITIES)
    def reweigh_or_add(self, url: str, weight: int, cap: int, able: dict[str, Any]) -> None:
        """config.yaml changes a worker's weight, cap and abilities, or brings a new one."""
        self.members[url] = Member(Worker(url, weight, cap or None, **able))
        self.may_be_over = True  # a cap may fall below what runs already
        self._publish()

    @rule(url=st.sampled_from(URLS), speed=st.sampled_from([1.0, 0.9, 0.5, 0.1]))
    def change_speed(self, url: str, speed: float) -> None:
        """The sidecar sees that a worker is slower or faster than it was."""
        if url in self.members:
            self.members[url] = replace(self.members[url], speed=speed)
            self._publish()

    @rule(url=st.sampled_from(URLS), ms=st.sampled_from([1, 1, 300]))
    def fall_ill_and_recover(self, url: str, ms: int) -> None:
        """A worker is unhealthy for a while, then comes back."""
        self.change_health(url, Health.UNHEALTHY)
        self._pass(ms)
        self.change_health(url, Health.HEALTHY)

    @rule(url=st.sampled_from(URLS))
    def remove(self, url: str) -> None:
        """config.yaml loses a worker."""
        if len(self.members) > 1 and self.members.pop(url, None) is not None:
            self._publish()

    @rule(process=st.sampled_from(PROCESSES), is_return=st.booleans(), has_heard=st.sampled_from([True, True, False]))
    def hand_in(self, process: str, is_return: bool, has_heard: bool) -> None:
        """A process reports all its leases, or none if the replies with their grants were lost."""
        if not has_heard:
            self.held = {lease: url for lease, url in self.held.items() if lease.process != process}
        held = tuple(
            Held(url, number, 600, tenant, memory_mb)
            for (owner, number, tenant, memory_mb), url in sorted(self.held.items())
            if owner == process
        )
        self.may_be_over = self.may_run_over = True  # what had lapsed is set again
        self._call(process, beat=Beat(held=held, is_return=is_return))

    @rule()
    def wipe(self) -> None:
        """Redis loses its memory; the sidecar writes the fleet again."""
        self.redis.flushall()
        self.twin = Model(self.twin.rules, SETTLE_MS)
        self.hedges = 0
        self.unclaimed.clear()
        self.held.clear()
        self.beats.clear()
        self.settled_at = self.now + SETTLE_MS
        self._publish()

    @invariant()
    def laws_hold(self) -> None:
        """Both sides agree; no worker is over its cap; no job waits while there is room; at most half are ejected."""
        self._call("p")
        state, twin = self.script.state(), self.twin
        assert state.leases == {url: held for url, held in twin.leases.items() if held}
        turns = twin.turns
        self._check_lines(state)
        counted = {tenant: held for tenant, held in turns.running.items() if held}
        if not self.redis.hget("sfr:plan:head", "shared"):  # until a tenant comes, the others' jobs are not counted
            counted.pop(DEFAULT, None)
        assert state.running == counted
        assert state.ticket == twin.ticket
        breakers = twin.breakers.by_url
        assert state.breakers == {url: (b.failures, b.times, b.trial) for url, b in breakers.items()}
        assert state.until == {url: b.until_ms for url, b in breakers.items() if b.times and not b.trial}
        assert state.ejected == {url: b.until_ms for url, b in breakers.items() if b.times}
        assert state.causes == {url: b.cause for url, b in breakers.items() if b.cause}
        assert {job for job, until in state.quarantined.items() if until > self.now} == twin.quarantine.held(self.now)
        assert state.rests == twin.rests.by_url
        self._check_starts(state)
        assert all(url in self.members for url in state.rests)
        with_room = {url for url in twin.planned() if twin.has_room(url)}
        assert state.room == with_room
        assert min(state.lapse.values(), default=math.inf) > self.now
        for url, held in state.leases.items():
            assert state.lapse[url] <= min(held.values())
        for url, rest in state.rests.items():
            assert state.lapse[url] <= rest.until_ms
        if not self.may_be_over:
            for url, member in self.members.items():
                assert len(state.leases.get(url, ())) <= (member.cap or math.inf)
                taken_mb = sum(memory_of(lease) for lease in state.leases.get(url, ()))
                assert taken_mb <= (member.worker.memory_mb or math.inf)
        if not self.may_run_over:
            for tenant, held in state.running.items():
                jobs = [name for name in held if name not in self.checks]
                assert len(jobs) <= (turns.rule(tenant).max_running or math.inf)
        assert self.script.rooms() == {pool: with_room & set(twin.pools.room(pool).urls) for pool in twin.open_pools()}
        assert state.reserved == {url: f"{tenant}/{pool}" for url, (tenant, pool) in twin.memory.reserved.items()}
        for line in turns.may_go():
            if twin.memory.has_reserved(line):
                continue
            job = turns.job_at(line, 0)
            untried = with_room & set(twin.pools.room(line[1]).urls) - set(job.tried)
            assert not any(twin.memory.fits(url, job.memory_mb) for url in untried)
        assert sum(times > 0 for _, times, _ in state.breakers.values()) <= len(URLS) / 2

    def _check_starts(self, state: State) -> None:
        """Check that no worker that has come back may run more than its share by the time since."""
        twin = self.twin
        assert state.starts == twin.starts.by_url
        assert state.out == twin.starts.out
        for url, start in state.starts.items():
            share = (self.members[url].cap * (self.now - start.since)) / twin.rules.slow_start_ms
            assert start.limit <= max(1, math.ceil(share))
            assert state.lapse[url] <= start.until_ms
            assert self.now - start.since <= twin.rules.slow_start_ms

    def _check_lines(self, state: State) -> None:
        turns = self.twin.turns
        assert state.lines == {line: [(job.ticket, job.name) for job in jobs] for line, jobs in turns.lines.items()}
        assert state.asked == {job.name for job in turns.waiting}
        for line, names in state.orders.items():
            # Jobs that wait when the order is set get their places when the line may go.
            assert names == turns.order.names(line) or len(names) < len(turns.lines[line])


def _key(name: str) -> tuple[str, int]:
    process, _, number = name.partition(":")
    return process, int(number)


def _job(process: str, grant: Grant) -> Job:
    return Job(process, grant.number, grant.tenant, grant.memory_mb)


@pytest.mark.parametrize("strategy", list(Strategy))
def test_script_and_twin_agree_and_keep_the_laws(redis: "Redis", strategy: Strategy) -> None:
    """After any order of steps both sides have the same state, and each law holds."""
    machine = type("Machine", (Machine,), {"redis": redis, "strategy": strategy})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )
