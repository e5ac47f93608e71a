"""The order of jobs, and how many a worker gets that comes back. Real gunicorn, sidecar, Valkey."""

import asyncio
import json
import math
from collections.abc import Awaitable

import aiohttp

from tests.support.eventually import eventually
from tests.support.load import post_jobs
from tests.support.programs import System, Valkey
from tests.support.worker import Exchange, Gate, ScriptedWorker, hang

SIZES = (40, 9_000, 300, 70_000, 2)
CAP, SLOW_START_S = 8, 2


async def test_longest_job_of_a_tenant_goes_first(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Over all processes of the router, by what their clients say."""
    worker, gate = workers[0], Gate()
    ran: list[str] = []

    async def script(exchange: Exchange) -> None:
        ran.append(json.loads(exchange.request.body)["code"])
        await gate(exchange)

    worker.script = script
    system.configure([worker.url], default_max_concurrency=1, tenants={"run-7": {"order": "longest_first"}})
    async with (
        system.sidecar(),
        system.router(2) as router,
        valkey.client() as redis,
        aiohttp.ClientSession() as session,
    ):
        await router.sees(healthy=1)

        async def post(expected_ms: int) -> int:
            job, headers = {"code": str(expected_ms), "language": "python"}, {"x-router-expected-ms": str(expected_ms)}
            async with session.post(f"{router.url}/t/run-7/run_code", json=job, headers=headers) as response:
                return response.status

        first = asyncio.create_task(post(1))
        await eventually(lambda: bool(ran), what="a job that takes the only slot")
        others = asyncio.gather(*map(post, SIZES))
        await eventually(lambda: _is(redis.zcard("sfr:order:run-7/"), len(SIZES)), what="jobs that wait")
        gate.open()
        assert {await first, *await others} == {200}
    assert ran[1:] == [str(size) for size in sorted(SIZES, reverse=True)]


async def test_worker_that_comes_back_gets_its_slots_over_time(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """The jobs that wait get each slot when it is due, without another event."""
    worker = workers[0]
    worker.script = hang
    system.configure([worker.url], default_max_concurrency=CAP, slow_start=SLOW_START_S)
    async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=1)
        await worker.die()
        await router.sees(healthy=0)
        jobs = asyncio.create_task(post_jobs(router.url, CAP, CAP))
        try:
            await eventually(lambda: _is(redis.zcard("sfr:queue"), CAP), what="jobs that wait")
            await worker.listen()
            running = {0}
            while max(running) < CAP:
                async with redis.pipeline(transaction=True) as both:
                    both.time()
                    both.hget("sfr:starts", worker.url)
                    both.zcard(f"sfr:leases:{worker.url}")
                    (seconds, us), start, count = await both.execute()
                running.add(count)
                if start not in (None, "out"):
                    elapsed_s = seconds + us / 1e6 - int(start.split()[0]) / 1000
                    assert count <= max(1, math.ceil(CAP * elapsed_s / SLOW_START_S))
                await asyncio.sleep(0.01)
        finally:
            jobs.cancel()
            await asyncio.gather(jobs, return_exceptions=True)
    assert CAP in running
    assert len(running) > 2  # it had some of its slots before it had all


async def _is(answer: Awaitable[int], wanted: int) -> bool:
    return await answer == wanted
