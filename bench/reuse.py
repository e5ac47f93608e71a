"""Measures what identical jobs save when they share runs, and what a job costs that finds none.

1. ROLL's habit: each case is sent twice, here to two router processes at 64 calls at once. How many runs there are, and
   in what time all answers are in.
2. Of a job without an identical one: Redis' CPU for its arrival and its end, with and without reuse, and the router's
   CPU for its key and for keeping its answer.

`python -m bench.reuse`
"""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import msgspec
from redis import Redis

from bench.support.report import show
from router.fleet.model import Health, Member, Worker
from router.http.headers import read_worker_head
from router.http.response import Response
from router.jobs.job import JobRun
from router.jobs.options import JobOptions
from router.jobs.sooner.reuse import Reuse
from router.policy.verdict import Blame
from router.scheduling.messages import Arrival, Beat, Call, Ended, Rules, RunOver, Wish
from router.scheduling.pending import Lease
from tests.support.jobs import made_job
from tests.support.load import post_job
from tests.support.lua_scheduler import LuaScheduler
from tests.support.programs import System, Valkey
from tests.support.worker import RESULT, ScriptedWorker, takes

CASES, AT_ONCE, JOB_S, SLOTS = 400, 64, 0.05, 4
CALLS, JOBS_A_CALL, KEPT_S = 3000, 8, 60
BODY = json.dumps({"code": "x" * 600, "language": "python", "run_timeout": 5}).encode()
ANSWER = json.dumps({**RESULT, "message": "y" * 300}).encode()


async def doubled(reuse_s: int) -> tuple[object, ...]:
    """Send each case twice; return how many runs there were, and the time for all."""
    with TemporaryDirectory() as name:
        async with (
            Valkey(Path(name)) as valkey,
            ScriptedWorker(takes(JOB_S)) as one,
            ScriptedWorker(takes(JOB_S)) as two,
        ):
            system = System(Path(name), valkey.url)
            rules = {"default": {"reuse": {"seconds": reuse_s}}}
            system.configure([one.url, two.url], default_max_concurrency=SLOTS, tenants=rules)
            async with system.sidecar(), system.router(2) as router:
                await router.sees(healthy=2)
                gate = asyncio.Semaphore(AT_ONCE)

                async def send(number: int) -> bool:
                    async with gate:
                        answer = await post_job(router.url, code=f"print({number})")
                        return "reused" in answer.body["router_metadata"]

                since = time.monotonic()
                reused = await asyncio.gather(*(send(number // 2) for number in range(2 * CASES)))
                took_s = time.monotonic() - since
    runs = len(one.jobs) + len(two.jobs)
    return f"{reuse_s} s", 2 * CASES, runs, sum(reused), took_s


async def redis_us(reuses: Sequence[bool]) -> dict[bool, float]:
    """Return Redis' CPU (µs) for one job's arrival and end, for jobs that reuse answers and for others; all miss."""
    found: dict[bool, list[float]] = {}
    with TemporaryDirectory() as name:
        async with Valkey(Path(name)) as valkey:
            for does in reuses:
                with Redis.from_url(valkey.url, decode_responses=True) as redis:
                    redis.flushall()
                    found.setdefault(does, []).append(_redis_us(redis, does=does))
    return {does: min(times) for does, times in found.items()}


def _redis_us(redis: Any, *, does: bool) -> float:
    scheduler, text = LuaScheduler(redis, Rules()), "z" * (len(ANSWER) * 4 // 3)
    scheduler.set_fleet([Member(Worker(f"http://w{number}", 1, 64), Health.HEALTHY) for number in range(8)])
    now = int(time.time() * 1000)
    scheduler.step(Call("p", beat=Beat()), now)
    now += 5000
    redis.config_resetstat()
    number = 0
    ended: list[Ended] = []
    over: list[RunOver] = []
    for _ in range(CALLS):
        now += 1
        numbers = range(number, number := number + JOBS_A_CALL)
        arrived = tuple(Arrival(each, 20_000, 20_000) for each in numbers)
        wishes = tuple(Wish(each, key=f"{each:032x}", reuse_ms=KEPT_S * 1000) for each in numbers) if does else ()
        call = Call("p", arrived=arrived, wishes=wishes, ended=tuple(ended), runs_over=tuple(over))
        granted = scheduler.step(call, now).granted
        ended = [Ended(grant.url, grant.number, Blame.OK) for grant in granted]
        over = [RunOver(f"{each:032x}", KEPT_S * 1000, text) for each in numbers] if does else []
    stats = redis.info("commandstats")
    return float(stats["cmdstat_fcall"]["usec"]) / number


async def router_us(rounds: int) -> float:
    """Return the router's CPU (µs) for a job that finds nothing: its key, its run's mark, and its answer's keeping."""
    left_behind: Any = SimpleNamespace(end_shared=lambda _over: None)
    tenants: Any = SimpleNamespace(rule_of=lambda _name: None)
    nothing: Any = None
    reuse = Reuse(left_behind, tenants, nothing, nothing, nothing, nothing)
    head = read_worker_head(200, [(b"content-type", b"application/json"), (b"date", b"Mon, 01 Jan 2024 00:00:00 GMT")])
    response, options = Response(head, ANSWER), JobOptions(reuse_s=KEPT_S)
    runs = []
    for number in range(rounds):
        job: Any = made_job(BODY + b"%d" % number)
        lines = b"content-type: application/json\r\naccept: */*\r\nuser-agent: python\r\n"
        runs.append(JobRun(msgspec.structs.replace(job, options=options, lines=lines), 0.0, 0.0, lambda _answer: None))
    since = time.process_time()
    for run in runs:
        reuse.joins(run)
    for run in runs:
        run.lease = Lease(1, "http://w", 1, 0)
        reuse.bring(run, response, "http://w", 1.0)
    return (time.process_time() - since) / rounds * 1e6


async def main() -> None:
    """Print both tables."""
    show(("reuse", "jobs", "runs", "reused", "seconds"), [await doubled(0), await doubled(600)])
    redis = await redis_us([False, True] * 3)
    router = min([await router_us(20_000) for _ in range(3)])
    print()
    columns = ("a job that finds nothing", "without, µs", "with, µs", "more, µs")
    rows = [("Redis", redis[False], redis[True], redis[True] - redis[False]), ("router", "", "", router)]
    show(columns, rows)


if __name__ == "__main__":
    asyncio.run(main())
