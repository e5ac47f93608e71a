"""Checks one worker: by a ping, sometimes by a job, and after a failure by the jobs that it has just finished."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from router.config.settings import HealthCheckSettings
from router.fleet.model import Health, Observation
from router.fleet.records import Records
from router.fleet.redis_client import RedisUnavailable
from sidecar.job_probe import JobProbe, NoLease
from sidecar.probe import Probe

# A worker's answer or a library's error may be long, and may hold characters that a log or JSON cannot.
_SHOWN_CHARACTERS = 500


class Checker:
    """The checks of one worker. It remembers the last sign of life: a good ping or a finished job."""

    def __init__(self, worker_url: str, records: Records, probe: Probe, job_probe: JobProbe) -> None:
        self._url = worker_url
        self._records = records
        self._probe = probe
        self._job_probe = job_probe
        self._clock = asyncio.get_running_loop().time
        # Jobs that end after this moment, thus during the first check, count as signs of life.
        self._alive_at = self._clock()
        self._until_job = 0
        self._has_failed_job = False

    async def check(self, health: Health, settings: HealthCheckSettings) -> Observation:
        """Check the worker once; `health` is its health so far. Never raises: an error is part of the observation."""
        began_at = self._clock()
        try:
            seen = await self._check(health, settings)
        except Exception as error:  # noqa: BLE001  (a fault with one worker must not end the checks of others)
            message = f"cannot be checked: {type(error).__name__}: {error}"
            seen = Observation(datetime.now(UTC), (self._clock() - began_at) * 1000, message)
        return seen if seen.error is None else replace(seen, error=_in_one_line(seen.error))

    async def _check(self, health: Health, settings: HealthCheckSettings) -> Observation:
        seen = await self._probe.ping(self._url, settings)
        if seen.error is not None:
            return await self._unless_busy(seen, seen.error)
        self._alive_at = self._clock()
        if not settings.deep:
            return seen
        # An unhealthy worker must run a job to become healthy again; a ping is not enough.
        must_work = self._has_failed_job or health is Health.UNHEALTHY
        if self._until_job > 0 and not must_work:
            self._until_job -= 1
            return seen
        return await self._check_by_job(seen, settings, must_work=must_work)

    async def _check_by_job(self, seen: Observation, settings: HealthCheckSettings, *, must_work: bool) -> Observation:
        try:
            reason = await self._job_probe.run(self._url, settings.timeout)
        except NoLease:  # the next check tries again
            return replace(seen, is_outvoted=must_work)
        except TimeoutError:
            error = f"answers pings and timed out on a job after {settings.timeout:g} s"
            seen = await self._unless_busy(seen, error)
            self._has_failed_job = not seen.is_outvoted
            return seen
        self._until_job = settings.deep_every - 1
        self._has_failed_job = reason is not None
        return seen if reason is None else replace(seen, error=f"answers pings, but failed a job: {reason}")

    async def _unless_busy(self, seen: Observation, error: str) -> Observation:
        """Return `seen` with `error`, outvoted if the worker has finished a job since the last sign of life.

        Each finished job outvotes one check only, so a worker that died while it ran jobs is taken out one check later
        than any other, at most.
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


def _in_one_line(message: str) -> str:
    r"""Return the text shortened, in one line and printable.

    >>> _in_one_line("returned 500:\n \x1b[1m\udcff")
    'returned 500: ?[1m?'
    """
    words = " ".join(message[:_SHOWN_CHARACTERS].split())
    return "".join(character if character.isprintable() else "?" for character in words)
