"""Workers that want a key get it with jobs, pings and deep checks, and no other place ever shows it."""

import os
import signal

import aiohttp
from redis.asyncio import Redis

from router.fleet.schema import SCHEMA
from tests.support.eventually import eventually
from tests.support.load import JOB
from tests.support.programs import System, Valkey
from tests.support.worker import Exchange, ScriptedWorker, pong, well

FIRST, SECOND = "first-secret-of-all", "second-secret-of-all"


async def test_worker_key_goes_to_workers_only(system: System, workers: list[ScriptedWorker], valkey: Valkey) -> None:
    """A client's own key never replaces it; a changed file holds for checks at once and for jobs after a reload."""
    keys = {FIRST}

    async def guard_ping(exchange: Exchange) -> None:
        is_known = exchange.request.headers.get("authorization") in {f"Bearer {key}" for key in keys}
        await (pong(exchange) if is_known else exchange.answer(401, {"detail": exchange.request.headers}))

    async def guard_job(exchange: Exchange) -> None:
        is_known = exchange.request.headers.get("authorization") in {f"Bearer {key}" for key in keys}
        await (well(exchange) if is_known else exchange.answer(401, {"detail": "no"}))

    for worker in workers:
        worker.ping, worker.script = guard_ping, guard_job
    auth = system.folder / "auth"
    auth.write_text(f"Authorization: Bearer {FIRST}\n")
    health_check = {"timeout": 2, "deep": True, "deep_every": 1}
    system.configure(
        [worker.url for worker in workers], worker_auth=str(auth), health_check=health_check, health_check_interval=0.2
    )
    async with system.sidecar() as sidecar, system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        assert await job(router.url) == 200
        keys.add(SECOND)
        auth.write_text(f"authorization: Bearer {SECOND}\n")
        await eventually(
            lambda: f"{auth} read: the header authorization for workers" in sidecar.output, what="the file"
        )
        os.kill(router.pid, signal.SIGHUP)
        await eventually(lambda: router.output.count("Application startup complete") >= 4, what="the new processes")
        keys.remove(FIRST)
        await eventually(lambda: _runs(router.url), what="jobs with the new key")
        await router.sees(healthy=3)
        keys.clear()
        await router.sees(healthy=0)
        seen = [sidecar.output, router.output]
        async with aiohttp.ClientSession() as session:
            for path in ("/", "/health", "/metrics", "/admin/workers", "/admin/stats", "/openapi.json", "/dashboard"):
                async with session.get(router.url + path) as answer:
                    seen.append(await answer.text())
        held = [await _held(redis, str(key)) for key in await redis.keys("*")]
    assert len(held) > len(SCHEMA) / 3  # the others come with tenants, faults and waiting jobs
    assert not [text for text in (*seen, *held) if "secret-of-all" in text]
    assert not [worker for worker in workers for job in worker.jobs if "client" in job.head.lower()]


async def job(url: str) -> int:
    """Return the status of a job whose client sends its own authorization header."""
    headers = {"Authorization": "Bearer of-a-client"}
    async with aiohttp.ClientSession(headers=headers) as session, session.post(f"{url}/run_code", json=JOB) as answer:
        await answer.read()
        return answer.status


async def _runs(url: str) -> bool:
    return [await job(url) for _ in range(6)] == [200] * 6


async def _held(redis: Redis, key: str) -> str:
    """Return the whole content of a key."""
    match await redis.type(key):
        case "hash":
            return repr(await redis.hgetall(key))
        case "set":
            return repr(await redis.smembers(key))
        case "zset":
            return repr(await redis.zrange(key, 0, -1))
        case "list":
            return repr(await redis.lrange(key, 0, -1))
        case "stream":
            return repr(await redis.xrange(key))
        case _:
            return repr(await redis.get(key))
