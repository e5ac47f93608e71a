"""Checks of one worker in simulated time; Redis and the worker are scripted."""

import asyncio
from typing import Any

from router.config.settings import HealthCheckSettings
from router.fleet.model import Health, Observation
from sidecar.checker import Checker
from sidecar.job_probe import NoLease
from tests.support.timeless import timeless
from tests.unit.sidecar.test_controller import A, Memory, Workers, now


def test_check_that_raises_has_its_error_and_time() -> None:
    """The observation has the error and the time in milliseconds."""

    async def main() -> None:
        await asyncio.sleep(100)
        memory, workers = Memory(), Workers()
        checker, check = await no_sign(memory, workers)

        async def ping(url: str, settings: HealthCheckSettings) -> Observation:
            del url, settings
            await asyncio.sleep(2)
            raise LookupError("odd")

        workers.ping = ping  # type: ignore[method-assign]
        seen = await checker.check(Health.HEALTHY, check)
        assert (seen.error, seen.latency_ms) == ("cannot be checked: LookupError: odd", 2000)

    timeless(main())


async def no_sign(memory: Memory, workers: Workers, **check: Any) -> tuple[Checker, HealthCheckSettings]:
    """Return a checker of a worker that has shown no sign of life, and its settings."""
    parts: tuple[Any, ...] = (memory, workers, workers)
    return Checker(A, *parts), HealthCheckSettings.model_validate(check)


def test_finished_job_outvotes_one_failed_ping() -> None:
    """The job must have ended after the last sign of life, and without Redis no job counts."""

    async def main() -> None:
        memory, workers = Memory(), Workers()
        checker, check = await no_sign(memory, workers)

        async def look() -> Observation:
            await asyncio.sleep(10)
            return await checker.check(Health.HEALTHY, check)

        workers.errors[A] = "timed out after 5 s"
        memory.finished[A] = -5  # before the sidecar's start
        assert (await look()).is_outvoted is False
        memory.finished[A] = now() + 4
        seen = await look()
        assert (seen.is_outvoted, seen.error) == (True, "timed out after 5 s, but it finished a job 6.0 s ago")
        seen = await look()
        assert (seen.is_outvoted, seen.error) == (False, "timed out after 5 s")
        workers.errors[A] = None
        memory.finished[A] = now() + 10
        assert (await look()).error is None
        workers.errors[A] = "timed out"
        assert (await look()).is_outvoted is False  # the job ended before the pong
        memory.finished[A] = now() + 5
        memory.is_there = False
        seen = await look()
        assert (seen.is_outvoted, seen.error) == (False, "timed out")
        memory.is_there = True
        memory.finished.clear()
        assert (await look()).is_outvoted is False

    timeless(main())


def test_every_nth_good_ping_is_followed_by_a_job() -> None:
    """The first ping is one of them; with deep checks off, or after a failed ping, there is no job."""

    async def main() -> None:
        memory, workers = Memory(), Workers()
        checker, check = await no_sign(memory, workers, deep=True, deep_every=3)
        ran = []
        for number in range(8):
            workers.errors[A] = "refused" if number == 1 else None
            before = len(workers.deep)
            await checker.check(Health.HEALTHY, check)
            ran.append(len(workers.deep) - before)
        assert ran == [1, 0, 0, 0, 1, 0, 0, 1]
        checker, check = await no_sign(memory, workers, deep=False)
        before = len(workers.deep)
        await checker.check(Health.UNHEALTHY, check)
        assert len(workers.deep) == before

    timeless(main())


def test_worker_that_fails_its_job_is_unhealthy_until_it_runs_one() -> None:
    """Pings alone make no unhealthy worker healthy again while deep checks are on."""

    async def main() -> None:
        memory, workers = Memory(), Workers()
        checker, check = await no_sign(memory, workers, deep=True, deep_every=100)
        workers.job = lambda: "SandboxError: no space"
        for _ in range(3):
            seen = await checker.check(Health.HEALTHY, check)
            assert seen.error == "answers pings, but failed a job: SandboxError: no space"
            assert not seen.is_outvoted
        workers.job = lambda: None
        assert (await checker.check(Health.HEALTHY, check)).error is None
        assert len(workers.deep) == 4
        assert (await checker.check(Health.HEALTHY, check)).error is None
        assert len(workers.deep) == 4
        await checker.check(Health.UNHEALTHY, check)
        assert len(workers.deep) == 5

    timeless(main())


def test_full_worker_gets_its_job_at_the_next_check() -> None:
    """Until then a ping is enough for a healthy worker, but not for an unhealthy one."""

    async def main() -> None:
        memory, workers = Memory(), Workers()
        checker, check = await no_sign(memory, workers, deep=True, deep_every=5)

        def full() -> str | None:
            raise NoLease

        workers.job = full
        for health, is_outvoted in ((Health.HEALTHY, False), (Health.UNHEALTHY, True), (Health.HEALTHY, False)):
            seen = await checker.check(health, check)
            assert (seen.error, seen.is_outvoted) == (None, is_outvoted)
        assert len(workers.deep) == 3

    timeless(main())


def test_check_s_timeout_is_outvoted_by_other_jobs() -> None:
    """If other jobs end, the worker is busy; otherwise it hangs, and must run a job to become healthy."""

    async def main() -> None:
        memory, workers = Memory(), Workers()
        checker, check = await no_sign(memory, workers, deep=True, deep_every=100)

        def late() -> str | None:
            memory.finished |= finished
            raise TimeoutError

        workers.job = late
        finished: dict[str, float] = {}
        seen = await checker.check(Health.HEALTHY, check)
        assert (seen.error, seen.is_outvoted) == ("answers pings and timed out on a job after 5 s", False)
        await asyncio.sleep(10)
        finished = {A: now() + 1}
        seen = await checker.check(Health.HEALTHY, check)
        assert seen.is_outvoted
        workers.job = lambda: None
        for _ in range(2):
            await checker.check(Health.HEALTHY, check)
            assert len(workers.deep) == 3  # still due since the first check, because no job has completed
        for finished_by_then, must_work in (({}, 1), ({A: now() + 31}, 0)):
            await asyncio.sleep(15)
            finished = finished_by_then
            workers.job = late
            await checker.check(Health.UNHEALTHY, check)
            workers.job = lambda: None
            before = len(workers.deep)
            await checker.check(Health.HEALTHY, check)
            assert len(workers.deep) - before == must_work

    timeless(main())
