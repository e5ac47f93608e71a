"""The lease of a deep check, on a real Valkey; the worker is scripted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis

from router.config.settings import RedisSettings
from router.fleet.leadership import Leadership
from router.fleet.model import Health, Worker, WorkerRecord
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient
from router.scheduling.messages import Rules
from sidecar.job_probe import GRACE_S, JobProbe, NoLease
from tests.support.programs import Valkey

A, B = "http://a:1", "http://b:1"


class Probe:
    """Runs jobs by `job`."""

    def __init__(self) -> None:
        self.job: Callable[[], Awaitable[str | None]]

    async def run_job(self, worker_url: str, timeout_s: float) -> str | None:
        """Run one job."""
        assert (worker_url, timeout_s) in ((A, 5), (B, 5))
        return await self.job()


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator["Redis"]:
    """The test's own client of Redis."""
    async with valkey.client() as client:
        yield client


@pytest.fixture
async def fleet(valkey: Valkey, redis: "Redis") -> AsyncIterator[RedisClient]:
    """A Redis with two workers of one slot each, in which the scheduler has settled."""
    fleet = RedisClient.connect(RedisSettings(url=valkey.url), timeout_s=1)
    term = await Leadership(fleet).lead("me", 60)
    assert term is not None
    workers = [WorkerRecord(Worker(url, max_concurrency=1), Health.HEALTHY) for url in (A, B)]
    assert await Records(fleet).record(term, datetime.now(UTC), workers, [], changed=False)
    with pytest.raises(NoLease):  # a new scheduler does not know which jobs run
        await checks(fleet, Probe()).run(A, 5)
    await redis.hset("sfr:plan:head", "settles_at", "1")
    yield fleet
    await fleet.close()


def checks(redis: RedisClient, probe: Probe) -> JobProbe:
    """Return a JobProbe with a fake Probe, whose `job` is the worker's answer."""
    asked: Any = probe
    return JobProbe("me", Rules(), redis, asked)


@pytest.mark.parametrize("reason", [None, "Failed, and printed '' instead of '1\\n'"])
async def test_check_holds_a_slot_while_it_runs(fleet: RedisClient, redis: "Redis", reason: str | None) -> None:
    """The lease would expire after the job's time and a grace, and the result does not reach the breaker."""
    probe = Probe()
    job_probe = checks(fleet, probe)

    async def job() -> str | None:
        until_ms = float(await redis.zscore(f"sfr:leases:{A}", "me:1") or 0)
        second, micros = (float(part) for part in await redis.time())
        assert GRACE_S < until_ms / 1000 - (second + micros / 1e6) <= 5 + GRACE_S
        with pytest.raises(NoLease):
            await job_probe.run(A, 5)
        return reason

    probe.job = job
    assert await job_probe.run(A, 5) == reason
    assert await redis.exists(f"sfr:leases:{A}", f"sfr:breaker:{A}") == 0


async def test_checks_of_two_workers_have_separate_leases(fleet: RedisClient, redis: "Redis") -> None:
    """Each check ends only its own lease."""
    probe, both, ends = Probe(), asyncio.Barrier(3), asyncio.Event()
    job_probe = checks(fleet, probe)

    async def job() -> str | None:
        await both.wait()
        await ends.wait()
        return None

    probe.job = job
    running = [asyncio.create_task(job_probe.run(url, 5)) for url in (A, B)]
    await asyncio.wait_for(both.wait(), 20)
    names = [name for url in (A, B) for name in await redis.zrange(f"sfr:leases:{url}", 0, -1)]
    assert sorted(names) == ["me:1", "me:2"]
    ends.set()
    await asyncio.gather(*running)
    assert await redis.exists(f"sfr:leases:{A}", f"sfr:leases:{B}") == 0


async def test_lease_of_a_job_that_timed_out_stays(fleet: RedisClient, redis: "Redis") -> None:
    """The worker may still run the job."""
    probe = Probe()

    async def job() -> str | None:
        raise TimeoutError

    probe.job = job
    with pytest.raises(TimeoutError):
        await checks(fleet, probe).run(A, 5)
    assert await redis.zcard(f"sfr:leases:{A}") == 1


async def test_outage_of_redis_gives_no_lease_and_loses_no_result(fleet: RedisClient, valkey: Valkey) -> None:
    """A check that has started still returns the worker's result."""
    probe = Probe()
    job_probe = checks(fleet, probe)

    async def job() -> str | None:
        await valkey.kill()
        return "no space"

    probe.job = job
    assert await job_probe.run(A, 5) == "no space"
    with pytest.raises(NoLease):
        await job_probe.run(A, 5)
