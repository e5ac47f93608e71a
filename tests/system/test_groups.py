"""A group that stops on failure, over two processes of gunicorn and one Redis."""

import asyncio
import json
from collections import Counter
from typing import Any

import aiohttp

from tests.support.eventually import eventually
from tests.support.programs import System, Valkey
from tests.support.worker import RESULT, Exchange, ScriptedWorker

FAILED = {"status": "Failed", "compile_result": {"status": "Error", "return_code": 1}}
STOPS = {"x-router-group": "solution-1", "x-router-stop-on": "failure"}


async def post(url: str, code: str) -> tuple[int, dict[str, Any]]:
    """Send one job of the group over a connection of its own."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/run_code", json={"code": code}, headers=STOPS) as response,
    ):
        return response.status, await response.json()


async def test_group_stops_in_all_processes(system: System, worker: ScriptedWorker, valkey: Valkey) -> None:
    """Jobs that are pending in either process are skipped. A process that does not read notes gets none."""
    gates = {"bad": asyncio.Event(), "good": asyncio.Event()}

    async def script(exchange: Exchange) -> None:
        code = json.loads(exchange.request.body)["code"]
        await gates[code].wait()
        await exchange.answer(200, FAILED if code == "bad" else RESULT)

    worker.script = script
    system.configure([worker.url], default_max_concurrency=1)
    async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=1)

        async def waits() -> list[int]:
            return [int(await redis.hget(key, "waiting") or 0) async for key in redis.scan_iter("sfr:process:*")]

        failing = asyncio.create_task(post(router.url, "bad"))
        await eventually(lambda: worker.running == 1, what="the job that will fail")
        pending = [asyncio.create_task(post(router.url, "good")) for _ in range(16)]

        async def are_pending() -> bool:
            counts = await waits()
            return len(counts) == 2 and min(counts) > 0 and sum(counts) == len(pending)

        await eventually(are_pending, what="jobs that are pending in both processes")
        now_ms = (await redis.time())[0] * 1000
        await redis.zadd("sfr:processes", {"old": now_ms + 60_000})
        await redis.hset("sfr:process:old", "heartbeat", now_ms // 1000)
        gates["bad"].set()
        assert (await failing)[1]["status"] == "Failed"
        # One of them may have got the slot before its process has heard of the failure.
        await eventually(lambda: sum(job.done() for job in pending) >= 15, what="the jobs that are skipped")
        gates["good"].set()
        told = [await job for job in pending]
        assert Counter(status for status, _ in told)[424] >= 15
        skipped = next(body for status, body in told if status == 424)
        assert skipped["router_metadata"] == {"skipped": True, "group": "solution-1"}
        assert [await post(router.url, "good") for _ in range(8)] == [(424, skipped)] * 8

        async def counted() -> bool:
            return int(await redis.hget("sfr:stats", "jobs") or 0) == 25

        await eventually(counted, what="the counts of both processes")
        assert await redis.hget("sfr:stats", "errors") is None
        assert not await redis.exists("sfr:grants:old")
    assert len(worker.jobs) <= 2
    assert " 424 " not in router.output
