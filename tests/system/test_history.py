"""The history of the fleet's rates from real programs, of which some are killed."""

import json
import os
import signal
from typing import Any

from redis.asyncio import Redis

from router.fleet.journal.points import HOUR
from tests.support.eventually import eventually
from tests.support.load import post_jobs
from tests.support.programs import System, Valkey, get_json
from tests.support.worker import ScriptedWorker

JOBS, STEP_MS = 40, HOUR.step_s * 1000


async def marked(redis: Redis) -> dict[str, Any]:
    """Return the reading with which the present step has begun, once there is one."""
    await eventually(lambda: redis.exists("sfr:history:mark"), what="the sidecar's first reading")
    mark: dict[str, Any] = json.loads(str(await redis.get("sfr:history:mark")))
    return mark


async def test_history_goes_on_when_programs_are_killed(system: System, worker: ScriptedWorker, valkey: Valkey) -> None:
    """A new sidecar finishes the step of the one that was killed. It has all jobs, also those of a killed router."""
    system.configure([worker.url])
    async with valkey.client() as redis, system.router(2) as router:
        async with system.sidecar():
            await router.sees(healthy=1)
            mark = await marked(redis)
        await post_jobs(router.url, JOBS, 8, keep_alive=False)
        await eventually(lambda: _are_counted(redis), what="the counts of both processes")
        os.kill(router.children()[0], signal.SIGKILL)
        # As if the step had begun with the first reading: then it is known, whenever it ends.
        mark["hour"]["at_ms"] = (await redis.time())[0] * 1000 // STEP_MS * STEP_MS
        await redis.set("sfr:history:mark", json.dumps(mark))
        await redis.delete("sfr:sidecar")  # the killed sidecar's lead, which would end by itself
        async with system.sidecar():
            await eventually(lambda: redis.llen("sfr:history:hour"), 25, "a step of ten seconds")
            seconds = ((await marked(redis))["hour"]["at_ms"] - mark["hour"]["at_ms"]) / 1000
            told: dict[str, Any] = await get_json(f"{router.url}/admin/history?range=5m")
    series = {name: values[-1] for name, values in told["series"].items()}
    assert round(series["throughput"] * seconds) == JOBS
    assert (series["errors"], series["retries"], series["waiting"]) == (0, 0, 0)
    assert 0 < series["p50_ms"] <= series["p99_ms"]
    assert 0 < series["queue_p50_ms"] <= series["queue_p99_ms"]
    assert told["series"]["throughput"][:-1] == [None] * 29
    assert list(told["tenants"]) == ["default"]


async def _are_counted(redis: Redis) -> bool:
    return await redis.hget("sfr:stats", "jobs") == str(JOBS)
