"""How fast workers are shows from jobs of one size, and everywhere that workers are shown."""

import asyncio
import json

import aiohttp

from tests.support.eventually import eventually
from tests.support.programs import System, Valkey
from tests.support.scrape import scrape
from tests.support.worker import ScriptedWorker, takes

# What one client keeps under way.
AT_ONCE = 8
FAST_S, SLOW_S = 0.02, 0.12


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

            async def speed() -> float:
                return float(await redis.hget(f"sfr:worker:{slow.url}", "speed") or 1)

            async def is_slow() -> bool:
                return await speed() < 0.5

            await eventually(is_slow, what="a slow worker's speed")
            assert [await redis.hget(f"sfr:worker:{worker.url}", "speed") for worker in fast] == ["1", "1"]
            shown = (await scrape(router.url)).by_worker("sfr_worker_speed")
            assert shown[slow.url] < 0.5
            async with aiohttp.ClientSession() as session, session.get(router.url) as response:
                told = {worker["url"]: worker["speed"] for worker in (await response.json())["workers"]}
            assert told[slow.url] < 0.5
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def _send_for_ever(url: str, number: int) -> None:
    async with aiohttp.ClientSession(headers={"x-router-size-key": f"case-{number % 2}"}) as session:
        while True:
            body = json.dumps({"code": f"print({number})", "stdin": "1 2"})
            async with session.post(f"{url}/run_code", data=body) as response:
                assert response.status == 200
