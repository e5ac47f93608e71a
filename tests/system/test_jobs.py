"""What the router knows of a job: how long it may take, whether it breaks workers, who still waits for it."""

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
    """Send one job over a connection of its own; return status, body and how long it took."""
    start = asyncio.get_running_loop().time()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/run_code", json=job, headers=named) as response,
    ):
        return response.status, await response.json(), asyncio.get_running_loop().time() - start


async def breaks_by_poison(exchange: Exchange) -> None:
    """Die when the poisonous job comes; do all others well."""
    is_poison = json.loads(exchange.request.body)["code"] == "poison"
    await (close_at_once if is_poison else echo)(exchange)


async def test_job_that_breaks_workers_is_refused_by_all_hosts(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """After two workers 422 with a plain message, on another host, too, until its quarantine ends; others go on."""
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
        await eventually(lambda: _knows(host), what="the job's name here")
        await eventually(lambda: _knows(other), what="the job's name there")
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


async def test_job_of_a_broken_worker_is_no_poison(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """The same job many times, one of three workers dies under each: all are done, none is suspected for long."""
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
    """A router whose workers never answer, for clients that budget by the job."""
    for worker in workers:
        worker.script = hang
    system.configure([worker.url for worker in workers], client_budget="job", job_grace=0.5)
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=3)
        yield router


async def test_answer_comes_before_the_client_gives_up(stuck: Router, workers: list[ScriptedWorker]) -> None:
    """A client that says how long it waits has a 504 half a second before, though no worker has answered."""
    status, body, seconds = await post(stuck.url, JOB, x_router_deadline_ms="1500")
    assert (status, body["detail"]) == (504, "No result within 1 s")
    assert seconds >= 1
    assert sum(worker.running for worker in workers) == 1
    status, body, _ = await post(stuck.url, JOB, x_router_deadline_ms="soon")
    assert (status, body["detail"]) == (400, "x-router-deadline-ms: expected a whole number of milliseconds above 0")
    assert sum(len(worker.jobs) for worker in workers) == 1
    assert "x-router-deadline-ms" not in next(job.headers for worker in workers for job in worker.jobs)


async def test_attempt_whose_client_was_told_goes_on_and_ends_its_lease(
    stuck: Router, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """The worker still runs the job: its lease stays until it answers."""
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
    """The lease stays while the worker runs, nothing is held against it, and a failure is not tried elsewhere."""
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
    """A router set up for verl before four workers that fail, each in its way, and two that do well."""
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
    """Call as verl's reward code does: compile + run + 10 s, only 504 is tried again, 3 times in all; -1 is a loss."""
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
    """200 samples, 64 at once, each over a connection of its own."""
    at_once = asyncio.Semaphore(64)

    async def sample(number: int) -> object:
        async with at_once:
            return await as_verl(bad_pool, f"sample-{number}")

    results = await asyncio.gather(*(sample(number) for number in range(200)))
    assert results == [f"sample-{number}" for number in range(200)]


async def test_sdk_loses_no_sample_to_bad_workers(bad_pool: str) -> None:
    """100 calls of the users' own SDK, by its threads."""
    requests = [RunCodeRequest(code=f"sample-{number}", language="python", **SHORT) for number in range(100)]
    jobs = [[request] for request in requests]
    results = await asyncio.to_thread(run_concurrent, run_code, args=jobs, kwargs=[{"endpoint": bad_pool}] * 100)
    assert [result.status for result in results] == [RunStatus.Success] * 100
    assert [result.run_result.stdout for result in results] == [f"sample-{number}" for number in range(100)]
