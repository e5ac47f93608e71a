"""Decides which scheduler this process uses: the one in Redis, or its twin in this process.

While Redis is away, does not know the fleet, or is in use by a later release, the twin decides. It has this process'
share of each cap and memory. When Redis is back, the process hands in the leases that it holds. No request waits for
Redis longer than a call's time limit, nor at all for a Redis that is known to be away.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter, time

import msgspec

from router.fleet.journal.ejection_log import log_ejections
from router.fleet.model import Ejection, Member
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.fleet.schema import SCHEMA_VERSION
from router.fleet.snapshot import FleetView, Snapshot
from router.policy.tenants import TenantRule
from router.scheduling.local.scheduler import LocalScheduler
from router.scheduling.messages import Call, Reply, Rules
from router.scheduling.redis_scheduler import RedisScheduler
from router.telemetry.recorder import Recorder

log = logging.getLogger(__name__)

# After a failed call this process does not try Redis again for so long.
PAUSE_S = 1.0
# A process says in so many heartbeats after an outage that it is back: a call that timed out may still be done late.
RETURN_BEATS = 3


class FailoverScheduler:
    """Gives each call to the scheduler in force: `scheduler(call, say_all_again, then)`."""

    def __init__(self, redis: RedisClient, view: FleetView, rules: Rules, processes: int, recorder: Recorder) -> None:
        self._client = redis
        self._redis = RedisScheduler(redis, rules)
        self._view = view
        self._rules = rules
        self._recorder = recorder
        self._processes = processes  # of the whole fleet, once Redis has told
        self._local: LocalScheduler | None = None
        self._local_fleet: Snapshot | None = None
        self._try_again_at = -math.inf
        self._return_beats = 0
        self._newer_schema = 0

    @property
    def is_alone(self) -> bool:
        """Whether the twin in this process decides."""
        return self._local is not None

    def has_just_returned(self) -> bool:
        """Whether the heartbeat that is made now is one of the first after an outage; call it once for each."""
        self._return_beats -= 1
        return self._return_beats >= 0

    def __call__(self, call: Call, say_all_again: Callable[[Call], Call], then: Callable[[Reply], None]) -> None:
        """Call `then` with the reply to `call`, once, and never before this has returned.

        If another scheduler is in force from now on, it gets `say_all_again(call)`: all that this process knows.
        """
        # Only a heartbeat looks whether Redis is back, and only if Redis has answered the last call of another part of
        # this process. Jobs share the heartbeat's call, and must not wait for a Redis that is away.
        if self._local is None:
            self._ask_redis(call, say_all_again, then)
            return
        loop = asyncio.get_running_loop()
        if call.beat and loop.time() >= self._try_again_at and self._client.answers:
            # Its jobs have new numbers by now, so that the twin must get this call, too, if Redis does not answer.
            self._ask_redis(say_all_again(call), say_all_again, then)
        else:
            loop.call_soon(then, self._ask_locally(self._local, call))

    def _ask_redis(self, call: Call, say_all_again: Callable[[Call], Call], then: Callable[[Reply], None]) -> None:
        since = perf_counter()
        self._redis.ask(call, partial(self._go_on, call, say_all_again, then, since))

    def _go_on(
        self,
        call: Call,
        say_all_again: Callable[[Call], Call],
        then: Callable[[Reply], None],
        since: float,
        reply: Reply | RedisUnavailable,
    ) -> None:
        """Hand on Redis' reply; if there is none, or it does not fit, let the twin decide."""
        if isinstance(reply, RedisUnavailable):
            self._recorder.redis_failed()
            self._try_again_at = asyncio.get_running_loop().time() + PAUSE_S
        else:
            self._recorder.redis_answered(perf_counter() - since)
            if reply.processes:
                # A Redis that came back empty has not heard all processes yet.
                self._processes = max(reply.processes, self._processes if reply.settles else 0)
            if reply.newer_schema != self._newer_schema:
                self._tell_of_schema(reply.newer_schema)
            if reply.has_fleet and not reply.newer_schema:
                if self._local is not None:
                    log.info("Leases are the whole fleet's again")
                    self._local, self._return_beats = None, RETURN_BEATS
                then(reply)
                return
        if self._local is None:
            log.warning("Leases are given by this process alone, with 1/%d of each cap", self._processes)
            own = msgspec.structs.replace(
                self._rules, budget_per_second=self._rules.budget_per_second / self._processes
            )
            self._local, self._local_fleet = LocalScheduler(own), None
            call = say_all_again(call)
        then(self._ask_locally(self._local, call))

    def _tell_of_schema(self, newer_schema: int) -> None:
        if newer_schema:
            log.error(
                "Redis holds version %d of the keys, and this router knows up to %d: it goes on by itself until it is "
                "upgraded",
                newer_schema,
                SCHEMA_VERSION,
            )
        self._newer_schema = newer_schema

    def _ask_locally(self, local: LocalScheduler, call: Call) -> Reply:
        snapshot = self._view.snapshot
        if snapshot is not self._local_fleet:
            self._local_fleet = snapshot
            local.set_fleet((_share(member, self._processes) for member in snapshot.members), self._processes)
            rules = snapshot.state.tenants
            local.set_tenants({name: _share_of_tenant(rule, self._processes) for name, rule in rules.items()})
        now_ms = int(asyncio.get_running_loop().time() * 1000)
        before = _ejections(local, now_ms)
        reply = local.step(call, now_ms)
        log_ejections(before, _ejections(local, now_ms), snapshot.state.records, " by this process alone")
        return reply


def _ejections(local: LocalScheduler, now_ms: int) -> dict[str, Ejection]:
    at_zero_s = time() - now_ms / 1000
    return {
        url: Ejection(at_zero_s + breaker.until_ms / 1000, breaker.times, breaker.failures, breaker.cause)
        for url, breaker in local.breakers.ejected().items()
    }


def _share(member: Member, processes: int) -> Member:
    """Return `member` with this process' share of its cap, rounded up, so that every worker gets jobs."""
    cap = member.worker.max_concurrency
    if cap is None:
        return member
    return replace(member, worker=replace(member.worker, max_concurrency=math.ceil(cap / processes)))


def _share_of_tenant(rule: TenantRule, processes: int) -> TenantRule:
    """Return `rule` with this process' share of its limits, rounded up."""
    running, waiting = (
        None if most is None else math.ceil(most / processes) for most in (rule.max_running, rule.max_waiting)
    )
    return msgspec.structs.replace(rule, max_running=running, max_waiting=waiting)
