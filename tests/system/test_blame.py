"""Blame for a failure goes to the worker, the job, this host, or nobody."""

import asyncio
import resource
from collections.abc import Callable

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.support.eventually import eventually
from tests.support.faults import close_at_once, echo
from tests.support.load import post_batch, post_job, post_jobs
from tests.support.programs import Router, System, Valkey
from tests.support.worker import Exchange, ScriptedWorker, always, hang, takes, well

WORKERS = 4


async def post(router: Router, path: str, *jobs: dict[str, str]) -> list[int]:
    """Send these jobs at once and return the statuses of their answers."""
    async with aiohttp.ClientSession() as session:

        async def one(job: dict[str, str]) -> int:
            async with session.post(f"{router.url}{path}", json=job) as response:
                await response.read()
                return response.status

        return await asyncio.gather(*(one(job) for job in jobs))


async def no_blame(redis: Redis) -> bool:
    """Whether no worker has a failure recorded."""
    return not await redis.keys("sfr:breaker:*") and not await redis.exists("sfr:ejected")


async def unknown_id(exchange: Exchange) -> None:
    """Answer like the real worker does for an unknown id."""
    await exchange.answer(500, {"detail": "KeyError", "traceback": []})


async def sandbox_error(exchange: Exchange) -> None:
    """Fail the job like a sandbox that lacks what the job needs."""
    await exchange.answer(200, {"status": "SandboxError", "message": "no object"})


@pytest.mark.parametrize("at_once", [1, 60])
@pytest.mark.parametrize(
    ("path", "script", "status"), [("/get_prompt_by_id", unknown_id, 500), ("/run_code", sandbox_error, 200)]
)
async def test_jobs_that_fail_on_every_worker_eject_nobody(
    system: System,
    workers: list[ScriptedWorker],
    valkey: Valkey,
    path: str,
    script: Callable[..., object],
    status: int,
    at_once: int,
) -> None:
    """Sixty different jobs that fail with the same error on each worker leave every worker in the fleet."""
    for worker in workers:
        worker.script = script  # type: ignore[assignment]
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        jobs = [{"dataset": "x", "id": f"unknown {number}", "code": f"{number}"} for number in range(60)]
        for first in range(0, 60, at_once):
            assert set(await post(router, path, *jobs[first : first + at_once])) == {status}
        await post_jobs(router.url, 1, 1)
        assert await no_blame(redis)
        assert await redis.zcard("sfr:ejected") == 0


@pytest.mark.parametrize("script", [unknown_id, sandbox_error])
async def test_worker_that_fails_jobs_others_complete_is_ejected(
    system: System, workers: list[ScriptedWorker], valkey: Valkey, script: Callable[..., object]
) -> None:
    """Five jobs in a row that fail here and succeed on another worker eject this worker."""
    sick, *others = workers
    sick.script = script  # type: ignore[assignment]
    for worker in others:
        worker.script = echo
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(1) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        for number in range(15):
            assert (await post_job(router.url, code=f"{number}")).status == 200
        await eventually(lambda: redis.zscore("sfr:ejected", sick.url), what="its ejection")
        assert len(sick.jobs) == 5


async def test_trial_job_that_fails_everywhere_earns_its_worker_another_trial(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """A trial job that also fails on other workers neither closes nor reopens the breaker."""
    sick, other, _ = workers
    system.configure([sick.url, other.url], breaker={"failures": 1, "base_seconds": 0.5, "max_seconds": 0.5})
    async with system.sidecar(), system.router(1) as router, valkey.client() as redis:
        await router.sees(healthy=2)

        async def fails(exchange: Exchange) -> None:
            await exchange.answer(502)

        sick.script = fails
        await post_jobs(router.url, 2, 1)
        await eventually(lambda: redis.zscore("sfr:ejected", sick.url), what="its ejection")
        sick.script = other.script = sandbox_error
        await eventually(lambda: _is_tried(redis, sick.url), what="the open trial")
        before = len(sick.jobs)
        await post(router, "/run_code", *({"code": f"bad {number}"} for number in range(2)))
        assert len(sick.jobs) > before
        sick.script = other.script = well
        await eventually(lambda: _is_back(router, redis, sick.url), what="its return")
        assert await redis.hget(f"sfr:breaker:{sick.url}", "times") is None


async def _is_tried(redis: Redis, url: str) -> bool:
    return await redis.hget(f"sfr:breaker:{url}", "trial") == "open"


async def _is_back(router: Router, redis: Redis, url: str) -> bool:
    await post_jobs(router.url, 2, 1)
    return not await redis.exists(f"sfr:breaker:{url}")


async def test_equal_jobs_on_workers_that_end_together_are_not_quarantined(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Four workers end at one moment, as at a Slurm time limit, and each ran the same job: it is not quarantined."""
    async with ScriptedWorker(hang) as first, ScriptedWorker(hang) as second, ScriptedWorker(hang) as third:
        ending = [first, second, third, workers[0]]
        workers[0].script = hang
        system.configure([worker.url for worker in ending], default_max_concurrency=1, health_check_interval=0.5)
        async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
            await router.sees(healthy=4)
            jobs = asyncio.create_task(post_jobs(router.url, 4, 4))
            await eventually(lambda: all(worker.running for worker in ending), what="the job on each worker")
            everyone = [worker.url for worker in (*ending, *workers[1:])]
            system.configure(everyone, default_max_concurrency=1, health_check_interval=0.5)
            await router.sees(healthy=6)
            for worker in ending:
                await worker.die()
            assert {answer.status for answer in await jobs} == {200}
            assert not await redis.exists("sfr:quarantine")
            assert (await post_job(router.url)).status == 200


@pytest.mark.parametrize("is_removed", [False, True], ids=["drained", "removed"])
async def test_job_on_workers_taken_out_before_they_died_is_not_quarantined(
    system: System, workers: list[ScriptedWorker], valkey: Valkey, *, is_removed: bool
) -> None:
    """A worker that dies after its drain or removal does not count against the job that it ran."""
    for worker in workers:
        worker.script = hang
    system.configure([worker.url for worker in workers], default_max_concurrency=1)
    async with system.sidecar(), system.router(1) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        job, staying = asyncio.create_task(post_job(router.url)), list(workers)
        for left in (2, 1):
            await eventually(lambda: any(worker.running for worker in workers), what="the job on a worker")
            (worker,) = (worker for worker in workers if worker.running)
            if is_removed:
                staying.remove(worker)
                system.configure([other.url for other in staying], default_max_concurrency=1)
            else:
                await redis.sadd("sfr:drain", worker.url)
            await router.sees(healthy=left)
            await worker.die()
            await eventually(lambda worker=worker: not worker.running, what="its job's end")  # type: ignore[misc]
        await eventually(lambda: any(worker.running for worker in workers), what="the job on the last worker")
        assert not await redis.exists("sfr:quarantine")
        job.cancel()


async def test_job_with_a_large_answer_is_cleared_of_suspicion(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """A job whose worker died is no suspect any more once another worker streams its large answer."""
    workers[0].script = close_at_once
    workers[1].script = workers[2].script = always(200, {"status": "Success", "message": "x" * 2**21})
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(1) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        answers = await post_jobs(router.url, 3, 1)
        assert [answer.status for answer in answers] == [200] * 3
        assert len(workers[0].jobs) == 1
        await eventually(lambda: _no_suspect(redis), what="no suspected job")


async def _no_suspect(redis: Redis) -> bool:
    return not await redis.keys("sfr:suspect:*")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_router_out_of_file_handles_blames_no_worker(
    system: System, workers: list[ScriptedWorker], valkey: Valkey, host: str
) -> None:
    """A batch that needs more connections than file handles completes, and the log says once what is short."""
    for worker in workers:
        worker.script = takes(0.05)
    many_at_once = {"health_check_interval": 60, "batch": {"max_in_flight": 200}}
    system.configure([worker.url.replace("127.0.0.1", host) for worker in workers], **many_at_once)
    async with system.sidecar(), system.router(1) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        (process,) = router.children()
        resource.prlimit(process, resource.RLIMIT_NOFILE, (100, 100))
        lines = await post_batch(router.url, 600)
        assert {line["status"] for line in lines} == {200}
        assert {line["body"]["router_metadata"]["attempt"] for line in lines} == {1}
        assert await no_blame(redis)
        assert router.output.count("no file handle left") == 1
