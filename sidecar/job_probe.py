"""The deep check: a worker that answers pings shows that it works, by one small job under a lease of its own."""

import itertools
from contextlib import suppress

from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.policy.verdict import Blame
from router.scheduling.messages import Call, Check, Ended, Rules
from router.scheduling.redis_scheduler import RedisScheduler
from sidecar.probe import Probe

# A worker ends its job at run_timeout, and needs a while before and after; so long the slot counts as taken.
GRACE_S = 10.0


class NoRoom(Exception):
    """No lease for a check: the worker is full or ejected, or Redis is away."""


class JobProbe:
    """Runs jobs as the process `process`. `rules` are the routers', so that this process' calls change nothing."""

    def __init__(self, process: str, rules: Rules, redis: RedisClient, probe: Probe) -> None:
        self._process = process
        self._scheduler = RedisScheduler(redis, rules, steady="")
        self._probe = probe
        self._numbers = itertools.count(1)

    async def run(self, worker_url: str, timeout_s: float) -> str | None:
        """Run a job on the worker; return why that failed, None where it did not.

        Raises NoRoom, and TimeoutError where no answer came in time.
        """
        number = await self._lease(worker_url, timeout_s + GRACE_S)
        # After a time-out, or when this is cancelled, the worker runs on: then the lease stays to its moment.
        reason = await self._probe.run_job(worker_url, timeout_s)
        # The routers' breaker counts clients' jobs alone.
        ended = Ended(worker_url, number, Blame.NONE)
        with suppress(RedisUnavailable):
            await self._scheduler(Call(self._process, ended=(ended,)))
        return reason

    async def _lease(self, worker_url: str, bound_s: float) -> int:
        check = Check(next(self._numbers), worker_url, int(bound_s * 1000))
        try:
            reply = await self._scheduler(Call(self._process, checks=(check,)))
        except RedisUnavailable as error:
            raise NoRoom from error
        if not reply.granted:
            raise NoRoom
        return check.number
