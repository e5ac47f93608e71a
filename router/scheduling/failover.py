"""The scheduler that this process uses: Redis', or its twin in this process.

While Redis is away, or does not know the fleet, the twin decides, with this process' share of each cap; when Redis is
back, what is held is handed in there. No request waits for Redis longer than its time limit, and while it is
away none waits for it at all.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter, time

import msgspec

from router.fleet.ejection_log import tell_ejections
from router.fleet.model import Ejection, Member
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.fleet.snapshot import FleetView, Snapshot
from router.scheduling.local_scheduler import LocalScheduler
from router.scheduling.messages import Call, Reply, Rules
from router.scheduling.redis_scheduler import RedisScheduler
from router.telemetry.recorder import Recorder

log = logging.getLogger(__name__)

# After a failed call, Redis is left alone for a moment before the next try.
PAUSE_S = 1.0
# For so many heartbeats after an outage a process says that it is back: a call that timed out may be done late.
RETURN_BEATS = 3


class FailoverScheduler:
    """Called as `scheduler(call, say_all_again, then)`; knows which of the two is in force."""

    def __init__(self, redis: RedisClient, view: FleetView, rules: Rules, processes: int, recorder: Recorder) -> None:
        self._client = redis
        self._redis = RedisScheduler(redis, rules)
        self._view = view
        self._rules = rules
        self._recorder = recorder
        self._processes = processes  # until Redis tells how many there are
        self._local: LocalScheduler | None = None
        self._local_fleet: Snapshot | None = None
        self._try_again_at = -math.inf
        self._return_beats = 0

    @property
    def is_alone(self) -> bool:
        """Whether this process decides for itself."""
        return self._local is not None

    def has_just_returned(self) -> bool:
        """Whether the heartbeat that asks is one of the first after an outage."""
        self._return_beats -= 1
        return self._return_beats >= 0

    def __call__(self, call: Call, say_all_again: Callable[[Call], Call], then: Callable[[Reply], None]) -> None:
        """Call `then` with the reply to `call`, once, and never before this has returned.

        Where the scheduler changes, the new one is told all: `say_all_again(call)`.
        """
        # Only a heartbeat looks whether Redis is back, and only when it answered somebody's last call: jobs share this
        # call, and must not wait.
        loop = asyncio.get_running_loop()
        if self._local is None:
            self._ask_redis(call, say_all_again, then)
        elif call.beat and loop.time() >= self._try_again_at and self._client.answers:
            # Whoever answers it: what it tells of is asked for under new numbers.
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
        """Take Redis' reply; where there is none, or Redis does not know the fleet, decide here."""
        if isinstance(reply, RedisUnavailable):
            self._recorder.redis_failed()
            self._try_again_at = asyncio.get_running_loop().time() + PAUSE_S
        else:
            self._recorder.redis_answered(perf_counter() - since)
            if reply.processes:
                self._processes = reply.processes
            if reply.has_fleet:
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

    def _ask_locally(self, local: LocalScheduler, call: Call) -> Reply:
        snapshot = self._view.snapshot
        if snapshot is not self._local_fleet:
            self._local_fleet = snapshot
            local.set_fleet(_share(member, self._processes) for member in snapshot.members)
        now_ms = int(asyncio.get_running_loop().time() * 1000)
        before = _ejections(local, now_ms)
        reply = local.step(call, now_ms)
        tell_ejections(before, _ejections(local, now_ms), snapshot.state.records, " by this process alone")
        return reply


def _ejections(local: LocalScheduler, now_ms: int) -> dict[str, Ejection]:
    at_zero_s = time() - now_ms / 1000
    return {
        url: Ejection(at_zero_s + breaker.until_ms / 1000, breaker.times, breaker.failures, breaker.cause)
        for url, breaker in local.breakers.ejected().items()
    }


def _share(member: Member, processes: int) -> Member:
    """Return `member` with this process' share of its cap, rounded up: no worker is out of everybody's reach."""
    cap = member.worker.max_concurrency
    if cap is None:
        return member
    return replace(member, worker=replace(member.worker, max_concurrency=math.ceil(cap / processes)))
