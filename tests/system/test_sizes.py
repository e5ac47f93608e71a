"""Sizes are learned from jobs, and tell how fast workers are, everywhere that workers are shown."""

import asyncio
import json

import aiohttp

from tests.support.eventually import eventually
from tests.support.load import post_job, post_jobs
from tests.support.programs import System, Valkey
from tests.support.scrape import scrape
from tests.support.worker import ScriptedWorker, takes

# What one client keeps under way.
AT_ONCE = 8
FAST_S, SLOW_S = 0.02, 0.4


async def test_a_slow_worker_is_known_by_its_jobs(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Jobs of one size, run by two processes, end in its speed."""
    slow, *fast = workers
    slow.script = takes(SLOW_S)
    for worker in fast:
        worker.script = takes(FAST_S)
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(processes=2) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        clients = [asyncio.create_task(_send_for_ever(router.url, number)) for number in range(AT_ONCE)]
        try:

            async def is_shown() -> bool:
                shown = (await scrape(router.url)).by_worker("sfr_worker_speed")
                return shown[slow.url] < 0.7 < min(shown[worker.url] for worker in fast)

            await eventually(is_shown, what="a slow worker's speed")
            assert float(await redis.hget(f"sfr:worker:{slow.url}", "speed") or 1) < 0.7
            async with aiohttp.ClientSession() as session, session.get(router.url) as response:
                told = {worker["url"]: worker["speed"] for worker in (await response.json())["workers"]}
            assert min(told, key=lambda url: told[url]) == slow.url
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def test_sizes_are_learned_where_the_longest_go_first(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Jobs with the same input share a size over processes, whatever their code; other tenants' jobs leave none."""
    for worker in workers:
        worker.script = takes(FAST_S)
    system.configure([worker.url for worker in workers], tenants={"run-7": {"order": "longest_first"}})
    async with system.sidecar(), system.router(processes=2) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        await post_jobs(f"{router.url}/t/run-8", 4, 4)
        for number in range(8):
            code, stdin = f"print({number})", "1" * 200_000 * (number % 2)
            assert (await post_job(f"{router.url}/t/run-7", code=code, stdin=stdin)).status == 200

        async def counted() -> list[int]:
            held = await redis.hvals("sfr:sizes")
            return sorted(int(str(value).split()[1]) for value in held)

        async def are_learned() -> bool:
            return await counted() == [4, 4, 8]  # two inputs, and the tenant's median

        await eventually(are_learned, what="the sizes of two inputs")
        for value in await redis.hvals("sfr:sizes"):
            assert float(str(value).split()[0]) > 900 * FAST_S


async def _send_for_ever(url: str, number: int) -> None:
    async with aiohttp.ClientSession(headers={"x-router-size-key": f"case-{number % 2}"}) as session:
        while True:
            body = json.dumps({"code": f"print({number})", "stdin": "1 2"})
            async with session.post(f"{url}/run_code", data=body) as response:
                assert response.status == 200
