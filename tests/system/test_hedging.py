"""Second runs on real processes: the answer comes from a faster worker, whatever is killed meanwhile."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest
from redis.asyncio import Redis

from router.fleet.redis_client import RedisClient
from router.fleet.sizes import FleetSizes, Lessons
from router.scheduling.messages import BEHIND
from tests.support.eventually import eventually
from tests.support.programs import Router, System, Valkey
from tests.support.scrape import scrape
from tests.support.worker import Gate, ScriptedWorker

# The slow worker's jobs stay until its gate opens; they are expected to take a second on the others.
SAID = {"x-router-expected-ms": "1000"}


@dataclass
class Doubled:
    """A router of two processes whose jobs run on a slow worker, and a second time on a fast one."""

    router: Router
    redis: Redis
    slow: Gate
    fast: Gate
    answers: list["asyncio.Task[tuple[int, dict[str, object]]]"]


@asynccontextmanager
async def doubled(
    system: System, workers: list[ScriptedWorker], valkey: Valkey, limit_s: int = 30
) -> AsyncIterator[Doubled]:
    """Have two jobs run on a slow worker, and their second runs on another one; a lease lasts for 3 * `limit_s`."""
    slow, fast, _ = workers
    slow.script, fast.script = Gate(), Gate()
    hedge = {"enabled": True, "percent": 100}
    system.configure([slow.url, fast.url], default_max_concurrency=2, hedge=hedge, job_grace=limit_s)
    async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=2)
        await _learn_speeds(redis, slow.url, fast.url)
        # The fast worker is full at first, so both jobs run on the slow one.
        first = [asyncio.create_task(_send(router.url, number, limit_s)) for number in range(2)]
        await eventually(lambda: fast.running == 2, what="a full fast worker")
        answers = [asyncio.create_task(_send(router.url, number, limit_s)) for number in range(2, 4)]
        await eventually(lambda: slow.running == 2, what="jobs on the slow worker")
        gate, fast.script = fast.script, Gate()
        gate.open()
        await asyncio.gather(*first)
        await eventually(lambda: fast.running == 2, what="second runs")
        assert isinstance(slow.script, Gate)
        assert isinstance(fast.script, Gate)
        try:
            yield Doubled(router, redis, slow.script, fast.script, answers)
        finally:
            slow.script.open()
            fast.script.open()
            await asyncio.gather(*answers, return_exceptions=True)


async def _learn_speeds(redis: Redis, slow: str, fast: str) -> None:
    """Tell what jobs have taken on two workers, and wait until the plan has the slow one after the other."""
    ratios = [(slow, 230.0, 529.0, 100.0), (fast, 0.0, 0.0, 100.0)]
    await FleetSizes(RedisClient(redis, "sfr", timeout_s=5), most=10).learn(Lessons([], ratios))

    async def is_last() -> bool:
        found = str(await redis.hget("sfr:plan", slow) or "0 0 0")
        return int(found.split()[2].split(",", maxsplit=1)[0]) >= BEHIND

    await eventually(is_last, what="a plan with a slow worker")


async def _send(url: str, number: int, limit_s: int = 30) -> tuple[int, dict[str, object]]:
    limits = {"compile_timeout": limit_s, "run_timeout": limit_s}
    body = {"code": f"print({number})", "language": "python", **limits}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/run_code", json=body, headers=SAID) as answer:
        told = (await answer.json()).get("router_metadata", {})
        return answer.status, told


async def leases(redis: Redis) -> int:
    """Return how many leases Redis holds."""
    return sum([await redis.zcard(key) for key in await redis.keys("sfr:leases:*")])


async def test_answer_comes_from_the_faster_worker(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """The slow worker's leases end when it has answered, and the budget's counters and metrics tell of it."""
    async with doubled(system, workers, valkey) as made:
        slow, fast, _ = workers
        made.fast.open()
        told = await asyncio.gather(*made.answers)
        seen = [(status, said.get("worker_url"), said.get("hedged")) for status, said in told]
        assert seen == [(200, fast.url, True)] * 2
        await eventually(lambda: _are_left(made.redis, 2), what="the end of the fast worker's leases")
        made.slow.open()
        await eventually(lambda: _are_left(made.redis, 0), what="the end of the slow worker's leases")
        assert not await made.redis.exists(f"sfr:breaker:{slow.url}")

        async def are_counted() -> bool:
            page = await scrape(made.router.url)
            return (page.total("sfr_hedges_total"), page.total("sfr_hedges_counted_total")) == (2, 2)

        await eventually(are_counted, what="two second runs in the metrics")


async def _are_left(redis: Redis, count: int) -> bool:
    return await leases(redis) == count


@pytest.mark.parametrize("which", ["slow", "fast"])
async def test_worker_that_dies_costs_no_answer(
    system: System, workers: list[ScriptedWorker], valkey: Valkey, which: str
) -> None:
    """The other run's answer comes, without a third run."""
    async with doubled(system, workers, valkey) as made:
        slow, fast, _ = workers
        await (slow if which == "slow" else fast).die()
        (made.fast if which == "slow" else made.slow).open()
        told = await asyncio.gather(*made.answers)
        left = fast if which == "slow" else slow
        assert [(status, said["worker_url"]) for status, said in told] == [(200, left.url)] * 2


async def test_redis_that_dies_costs_no_answer(system: System, workers: list[ScriptedWorker], valkey: Valkey) -> None:
    """Both runs end, the answers come, and when Redis is back nothing is left there."""
    async with doubled(system, workers, valkey) as made:
        valkey.send(signal.SIGKILL)
        await valkey.ended()
        made.fast.open()
        assert [status for status, _ in await asyncio.gather(*made.answers)] == [200, 200]
        made.slow.open()
        await valkey.start()
        await made.router.sees_redis("available")
        assert (await _send(made.router.url, 9))[0] == 200


async def test_router_processes_that_die_leave_no_slot_taken(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Their clients' connections end without an answer. Both runs' leases lapse, and the next jobs get the slots."""
    async with doubled(system, workers, valkey, limit_s=3) as made:
        for pid in made.router.children():
            os.kill(pid, signal.SIGKILL)
        ended = await asyncio.gather(*made.answers, return_exceptions=True)
        assert [isinstance(each, aiohttp.ClientError) for each in ended] == [True, True]
        made.slow.open()
        made.fast.open()
        await made.router.sees(healthy=2)
        told = await asyncio.gather(*(_send(made.router.url, number) for number in range(9, 13)))
        assert [status for status, _ in told] == [200] * 4
        await eventually(lambda: _are_left(made.redis, 0), what="the end of all leases")
