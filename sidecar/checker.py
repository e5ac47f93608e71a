"""One worker's health checks, one after another: the ping, now and then a job, and what finished jobs say for it."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from router.config.settings import HealthCheckSettings
from router.fleet.model import Health, Observation
from router.fleet.records import Records
from router.fleet.redis_client import RedisUnavailable
from sidecar.job_probe import JobProbe, NoRoom
from sidecar.probe import Probe

# What a worker answers, or a library says of it, may be long, and hold what neither a log nor Redis' JSON takes.
_TOLD_AT_MOST = 500


class Checker:
    """The checks of one worker. It remembers when there was last a sign of life: a good ping or a finished job."""

    def __init__(self, worker_url: str, records: Records, probe: Probe, deep: JobProbe) -> None:
        self._url = worker_url
        self._records = records
        self._probe = probe
        self._deep = deep
        self._clock = asyncio.get_running_loop().time
        # Before its first check nothing is known; jobs that end during that one count.
        self._alive_at = self._clock()
        self._until_deep = 0
        self._has_failed_job = False

    async def look(self, health: Health, settings: HealthCheckSettings) -> Observation:
        """Check the worker, so far known as `health`, once. Never raises: what goes wrong is the observation."""
        began_at = self._clock()
        try:
            seen = await self._look(health, settings)
        except Exception as error:  # noqa: BLE001  (whatever it is, it speaks of this worker, and ends no other's checks)
            told = f"cannot be checked: {type(error).__name__}: {error}"
            seen = Observation(datetime.now(UTC), (self._clock() - began_at) * 1000, told)
        return seen if seen.error is None else replace(seen, error=_in_one_line(seen.error))

    async def _look(self, health: Health, settings: HealthCheckSettings) -> Observation:
        seen = await self._probe.ping(self._url, settings)
        if seen.error is not None:
            return await self._unless_busy(seen, seen.error)
        self._alive_at = self._clock()
        if not settings.deep:
            return seen
        # Who was found sick comes back by a job that it did, not by a ping.
        must_work = self._has_failed_job or health is Health.UNHEALTHY
        if self._until_deep > 0 and not must_work:
            self._until_deep -= 1
            return seen
        return await self._look_deep(seen, settings, must_work=must_work)

    async def _look_deep(self, seen: Observation, settings: HealthCheckSettings, *, must_work: bool) -> Observation:
        try:
            reason = await self._deep.run(self._url, settings.timeout)
        except NoRoom:  # it is asked again at its next check
            return replace(seen, is_outvoted=must_work)
        except TimeoutError:
            error = f"answers pings and timed out on a job after {settings.timeout:g} s"
            seen = await self._unless_busy(seen, error)
            self._has_failed_job = not seen.is_outvoted
            return seen
        self._until_deep = settings.deep_every - 1
        self._has_failed_job = reason is not None
        return seen if reason is None else replace(seen, error=f"answers pings, but failed a job: {reason}")

    async def _unless_busy(self, seen: Observation, error: str) -> Observation:
        """Let a job that the worker finished since the last sign of life outvote `error`.

        Each job speaks once, so that a worker that died at its work is out as soon as any other, one check later.
        """
        now = self._clock()
        try:
            ago_s = await self._records.finished_s_ago(self._url)
        except RedisUnavailable:
            return replace(seen, error=error)
        if ago_s is None or now - ago_s <= self._alive_at:
            return replace(seen, error=error)
        self._alive_at = now
        return replace(seen, error=f"{error}, but it finished a job {ago_s:.1f} s ago", is_outvoted=True)


def _in_one_line(told: str) -> str:
    r"""Return it so that it can be logged, stored and shown.

    >>> _in_one_line("returned 500:\n \x1b[1m\udcff")
    'returned 500: ?[1m?'
    """
    words = " ".join(told[:_TOLD_AT_MOST].split())
    return "".join(character if character.isprintable() else "?" for character in words)
