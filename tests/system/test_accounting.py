"""What each tenant has used, counted by several hosts' processes over real workers that fail, dawdle and break off."""

import asyncio
import random
from typing import Any

import aiohttp

from tests.support.eventually import eventually
from tests.support.load import JOB, post_batch, post_jobs
from tests.support.programs import Router, System, get_json
from tests.support.scrape import scrape
from tests.support.worker import RESULT, Exchange, ScriptedWorker

# How many jobs each tenant sends. Those of `late` and `cut` are in addition.
SENT = {"default": 80, "run-7": 160, "run-8": 60, "eval": 50}
LATE, CUT = 3, 2
TOLERANCE = 0.005
SLOW, BREAKS_OFF = "slow", "breaks off"
_MB = 10**6


async def fickle(exchange: Exchange) -> None:
    """Take a while. Turn away, fail or report a SandboxError now and then; break off a large answer if asked to."""
    body = exchange.request.body.decode()
    await asyncio.sleep(1.0 if SLOW in body else random.uniform(0.001, 0.03))
    if BREAKS_OFF in body:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n{" % (9 * _MB) + b" " * 3 * _MB)
        exchange.close()
    elif SLOW in body:
        await exchange.answer()
    else:
        status = random.choices([200, 503, 429], weights=[8, 1, 1])[0]
        await exchange.answer(status, random.choices([RESULT, {"status": "SandboxError"}], weights=[9, 1])[0])


async def test_worker_seconds_of_tenants_are_those_of_workers(system: System, workers: list[ScriptedWorker]) -> None:
    """This holds with retries, late attempts, answers that break off, batches, and two routers of two processes."""
    for worker in workers:
        worker.script = fickle
    system.configure(
        [worker.url for worker in workers],
        default_max_concurrency=2,
        breaker={"failures": 10_000},
        retry={"attempts": 4, "budget_percent": 100},
        admin={"allow_loopback": True},
    )
    async with system.sidecar(), system.router(2) as one, system.router(2) as other:
        await one.sees(healthy=3)
        await other.sees(healthy=3)
        # A new Redis gives no slots of capped workers for two seconds. This job waits for them; late ones would not.
        await post_jobs(f"{one.url}/t/run-8", 1, 1)
        late = [asyncio.create_task(too_late(f"{one.url}/t/late")) for _ in range(LATE)]
        await eventually(lambda: sum(worker.running for worker in workers) == LATE, what="attempts that will be late")
        await asyncio.gather(
            *late,
            post_jobs(one.url, SENT["default"] // 2, 4, keep_alive=False),
            post_jobs(f"{other.url}/t/default", SENT["default"] // 2, 4, keep_alive=False),
            post_jobs(f"{one.url}/t/run-7", SENT["run-7"] // 2, 8, keep_alive=False),
            post_jobs(f"{other.url}/t/run-7", SENT["run-7"] // 2, 8, keep_alive=False),
            post_jobs(f"{other.url}/t/run-8", SENT["run-8"] - 1, 4, keep_alive=False),
            post_batch(f"{one.url}/t/eval", SENT["eval"]),
            *(cut(f"{other.url}/t/cut") for _ in range(CUT)),
        )
        jobs = {**SENT, "late": LATE, "cut": CUT}
        await eventually(lambda: has_counted(one, jobs, workers), 30, "all jobs and attempts")
        counts = await stats(one)
        by_worker = sum(worker["busy_ms"] for worker in counts["workers"].values())
        by_tenant = sum(tenant["busy_ms"] for tenant in counts["tenants"].values())
        assert abs(by_tenant - by_worker) <= TOLERANCE * by_worker
        assert counts["fleet"]["retries"] > 0
        tenants = counts["tenants"]
        assert tenants["late"]["failures"] == LATE
        assert tenants["late"]["busy_ms"] >= 1000 * LATE  # whole attempts, which have outlived their jobs
        assert tenants["cut"]["failures"] == CUT
        assert sum(tenant["failures"] for tenant in tenants.values()) >= counts["fleet"].get("errors", 0)
        assert tenants["run-7"]["queue_ms"] > 0
        assert all((tenant["running"], tenant["waiting"]) == (0, 0) for tenant in tenants.values())
        for router in (one, other):
            seen = await scrape(router.url)
            assert {name: count for (name,), count in seen.values("sfr_tenant_jobs_total").items()} == jobs
            assert round(1000 * seen.total("sfr_tenant_busy_seconds_total")) == by_tenant


async def too_late(url: str) -> None:
    """Send a job whose client does not wait for its worker."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{url}/run_code", json={**JOB, "code": SLOW}, headers={"x-router-deadline-ms": "600"}
        ) as response,
    ):
        assert response.status == 504


async def cut(url: str) -> None:
    """Send a job whose large answer breaks off."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(f"{url}/run_code", json={**JOB, "code": BREAKS_OFF}) as response:
                await response.read()
        except aiohttp.ClientPayloadError:
            return
    raise AssertionError("the answer is whole")


async def stats(router: Router) -> Any:
    """Return what `GET /admin/stats` tells."""
    return await get_json(f"{router.url}/admin/stats")


async def has_counted(router: Router, jobs: dict[str, int], workers: list[ScriptedWorker]) -> bool:
    """Whether all jobs are counted, and all attempts on the workers."""
    counts = await stats(router)
    counted = {name: tenant["jobs"] for name, tenant in counts["tenants"].items()}
    attempts = {url: worker["jobs"] for url, worker in counts["workers"].items()}
    return counted == jobs and attempts == {worker.url: len(worker.jobs) for worker in workers}
