"""The deep check: a worker that answers pings shows that it works, by one small job under a lease of its own."""

import itertools
from contextlib import suppress

from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.policy.verdict import Blame
from router.scheduling.messages import Call, Check, Ended, Rules
from router.scheduling.redis_scheduler import RedisScheduler
from sidecar.probe import Probe

# A worker ends its job at run_timeout, and needs some time before and after. The lease covers that time, too.
GRACE_S = 10.0


class NoLease(Exception):
    """The probe has no lease: the worker is full or ejected, or Redis is away."""


class JobProbe:
    """Runs jobs under leases of the process `process`.

    `rules` must be the same as the routers', because the scheduler applies the rules of each call.
    """

    def __init__(self, process: str, rules: Rules, redis: RedisClient, probe: Probe) -> None:
        self._process = process
        self._scheduler = RedisScheduler(redis, rules, steady="")
        self._probe = probe
        self._numbers = itertools.count(1)

    async def run(self, worker_url: str, timeout_s: float) -> str | None:
        """Run a job on the worker; return why it failed, or None if it succeeded.

        Raises NoLease, and TimeoutError if no answer came in time.
        """
        number = await self._lease(worker_url, timeout_s + GRACE_S)
        # After a time-out or a cancellation the worker may still run the job. Then the lease stays until it expires.
        reason = await self._probe.run_job(worker_url, timeout_s)
        # No blame, because the breaker counts only clients' jobs.
        ended = Ended(worker_url, number, Blame.NONE)
        with suppress(RedisUnavailable):
            await self._scheduler(Call(self._process, ended=(ended,)))
        return reason

    async def _lease(self, worker_url: str, bound_s: float) -> int:
        check = Check(next(self._numbers), worker_url, int(bound_s * 1000))
        try:
            reply = await self._scheduler(Call(self._process, checks=(check,)))
        except RedisUnavailable as error:
            raise NoLease from error
        if not reply.granted:
            raise NoLease
        return check.number
