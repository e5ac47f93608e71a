"""What the router knows of a job: its time limit, whether it breaks workers, and whether its client still waits."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis
from sandbox_fusion import RunCodeRequest, RunStatus, run_code, run_concurrent

from tests.support.eventually import eventually
from tests.support.faults import FAULTS, close_at_once, echo
from tests.support.load import JOB
from tests.support.programs import Router, System, Valkey
from tests.support.worker import Exchange, Gate, ScriptedWorker, hang

POISON, GOOD = {**JOB, "code": "poison"}, {**JOB, "code": "good"}


async def post(url: str, job: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any], float]:
    """Send one job over a new connection; return status, body and seconds."""
    start = asyncio.get_running_loop().time()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/run_code", json=job, headers=named) as response,
    ):
        return response.status, await response.json(), asyncio.get_running_loop().time() - start


async def breaks_by_poison(exchange: Exchange) -> None:
    """Die when the poison job arrives; complete all others."""
    is_poison = json.loads(exchange.request.body)["code"] == "poison"
    await (close_at_once if is_poison else echo)(exchange)


async def test_job_that_breaks_workers_is_quarantined_on_all_hosts(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """After breaking two workers a job gets 422 on every host until its quarantine ends; other jobs still run."""
    for worker in workers:
        worker.script = breaks_by_poison
    system.configure([worker.url for worker in workers], quarantine_seconds=3)
    async with system.sidecar(), system.router(1) as host, system.router(1) as other, valkey.client() as redis:
        await host.sees(healthy=3)
        await other.sees(healthy=3)
        status, body, _ = await post(host.url, POISON)
        assert (status, body["detail"]) == (422, "Workers broke down while they ran this job; it is refused for 3 s")
        sent = sum(len(worker.jobs) for worker in workers)
        assert sent == 2
        await eventually(lambda: _knows(host), what="the quarantine on this host")
        await eventually(lambda: _knows(other), what="the quarantine on the other host")
        for url in (host.url, other.url):
            assert (await post(url, POISON))[0] == 422
            assert (await post(url, GOOD))[0] == 200
        assert sum(len(worker.jobs) for worker in workers) == sent + 2
        await eventually(lambda: _is_forgotten(redis), what="the quarantine's end")
        for worker in workers:
            worker.script = echo
        await eventually(lambda: _runs(host.url), what="the job's return")


async def _knows(host: Router) -> bool:
    return (await host.health())["quarantined_jobs"] == 1


async def _runs(url: str) -> bool:
    return (await post(url, POISON))[0] == 200


async def _is_forgotten(redis: Redis) -> bool:
    return not await redis.exists("sfr:quarantine")


async def test_job_of_a_broken_worker_is_not_quarantined(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """A job that one broken worker fails and others complete is never quarantined, however often it comes."""
    workers[0].script = close_at_once
    system.configure([worker.url for worker in workers], breaker={"failures": 1000})
    async with system.sidecar(), system.router(1) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        for _ in range(15):
            assert (await post(router.url, GOOD))[0] == 200
        assert len(workers[0].jobs) == 5
        assert not await redis.exists("sfr:quarantine")


@pytest.fixture
async def stuck(system: System, workers: list[ScriptedWorker]) -> AsyncIterator[Router]:
    """A router with `client_budget: job` whose workers never answer."""
    for worker in workers:
        worker.script = hang
    system.configure([worker.url for worker in workers], client_budget="job", job_grace=0.5)
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=3)
        yield router


async def test_answer_comes_before_the_client_gives_up(stuck: Router, workers: list[ScriptedWorker]) -> None:
    """A client that sends its deadline gets a 504 half a second before it, even if no worker has answered."""
    status, body, seconds = await post(stuck.url, JOB, x_router_deadline_ms="1500")
    assert (status, body["detail"]) == (504, "No result within 1 s")
    assert seconds >= 1
    assert sum(worker.running for worker in workers) == 1
    status, body, _ = await post(stuck.url, JOB, x_router_deadline_ms="soon")
    assert (status, body["detail"]) == (400, "x-router-deadline-ms: expected a whole number of milliseconds above 0")
    assert sum(len(worker.jobs) for worker in workers) == 1
    assert "x-router-deadline-ms" not in next(job.headers for worker in workers for job in worker.jobs)


async def test_lease_lasts_until_the_worker_answers_after_a_504(
    stuck: Router, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """After a 504 the worker still runs the job, so its lease lasts until the worker answers."""
    gate = Gate()
    for worker in workers:
        worker.script = gate
    async with valkey.client() as redis:
        status, _, _ = await post(stuck.url, JOB, x_router_deadline_ms="700")
        assert status == 504
        assert await _leases(redis) == 1
        gate.open()
        await eventually(lambda: _none(redis), what="the lease's end")
        assert not await redis.keys("sfr:breaker:*")


async def test_client_that_leaves_has_its_job_read_to_its_end(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """After its client left, a job keeps its lease, blames no worker and is not retried."""
    is_over = asyncio.Event()

    async def fails_at_last(exchange: Exchange) -> None:
        await is_over.wait()
        await exchange.answer(503)

    for worker in workers:
        worker.script = fails_at_last
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(1) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        job = asyncio.create_task(post(router.url, JOB))
        await eventually(lambda: sum(worker.running for worker in workers), what="the job")
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        assert await _leases(redis) == 1
        is_over.set()
        await eventually(lambda: _none(redis), what="the lease's end")
        assert sum(len(worker.jobs) for worker in workers) == 1


async def _leases(redis: Redis) -> int:
    return sum([await redis.zcard(key) for key in await redis.keys("sfr:leases:*")])


async def _none(redis: Redis) -> bool:
    return await _leases(redis) == 0


BAD_POOL = ("hang before headers", "reset in mid-answer", "HTML", "SandboxError at first")
SHORT = {"compile_timeout": 0.2, "run_timeout": 0.2}


@pytest.fixture
async def bad_pool(system: System) -> AsyncIterator[str]:
    """A router configured for verl, before two good workers and four that each fail in their own way."""
    async with ScriptedWorker(echo) as first, ScriptedWorker(echo) as second, _Bad() as bad:
        system.configure(
            [worker.url for worker in (first, second, *bad)],
            job_grace=0.4,
            client_budget="job",
            error_status=dict.fromkeys(("no_workers", "all_failed", "queue_full", "queue_timeout"), 504),
        )
        async with system.sidecar(), system.router(2) as router:
            await router.sees(healthy=6)
            yield router.url


class _Bad:
    """Four workers that fail."""

    async def __aenter__(self) -> list[ScriptedWorker]:
        self._workers = [ScriptedWorker(FAULTS[name][0]()) for name in BAD_POOL]
        for worker in self._workers:
            await worker.__aenter__()
        return self._workers

    async def __aexit__(self, *_: object) -> None:
        for worker in self._workers:
            await worker.die()


async def as_verl(url: str, code: str) -> object:
    """Call as verl's reward code does: compile + run + 10 s per try, up to three tries on 504; -1 is a lost sample."""
    job = {"code": code, "language": "python", **SHORT}
    for attempt in range(3):
        timeout = aiohttp.ClientTimeout(total=sum(SHORT.values()) + 10)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), timeout=timeout) as session,
            session.post(f"{url}/run_code", json=job) as response,
        ):
            if response.status == 200:
                return (await response.json())["run_result"]["stdout"]
            if response.status != 504:
                return -1
        await asyncio.sleep(0.1 * (attempt + 1))
    return -1


async def test_verl_loses_no_sample_to_bad_workers(bad_pool: str) -> None:
    """200 samples, 64 at once, each on a new connection, all get their result."""
    at_once = asyncio.Semaphore(64)

    async def sample(number: int) -> object:
        async with at_once:
            return await as_verl(bad_pool, f"sample-{number}")

    results = await asyncio.gather(*(sample(number) for number in range(200)))
    assert results == [f"sample-{number}" for number in range(200)]


async def test_sdk_loses_no_sample_to_bad_workers(bad_pool: str) -> None:
    """100 calls by the threads of the users' SDK all get their result."""
    requests = [RunCodeRequest(code=f"sample-{number}", language="python", **SHORT) for number in range(100)]
    jobs = [[request] for request in requests]
    results = await asyncio.to_thread(run_concurrent, run_code, args=jobs, kwargs=[{"endpoint": bad_pool}] * 100)
    assert [result.status for result in results] == [RunStatus.Success] * 100
    assert [result.run_result.stdout for result in results] == [f"sample-{number}" for number in range(100)]
