"""What a job leaves behind whose client has gone is the next identical job's, on whichever process or host."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import aiohttp

from tests.support.eventually import eventually
from tests.support.programs import Router, System, Valkey
from tests.support.worker import Exchange, ScriptedWorker

# The client gets 504 this long after it has asked.
SHORT = {"x-router-deadline-ms": "2500"}


async def post(
    router: Router, code: str, headers: Mapping[str, str] | None = None, path: str = "/run_code"
) -> tuple[int, dict[str, Any]]:
    """Send a job over a new connection, so that any process of the router may take it; return status and body."""
    async with aiohttp.ClientSession() as session:
        job = {"code": code, "language": "python"}
        async with session.post(f"{router.url}{path}", json=job, headers=headers) as response:
            return response.status, await response.json()


class Gates:
    """A script that holds each code's job until its gate is opened, and answers with the code."""

    def __init__(self) -> None:
        self.by_code: dict[bytes, asyncio.Event] = {}

    def __getitem__(self, code: str) -> asyncio.Event:
        """Return the gate of this code; setting it opens the gate."""
        return self.by_code.setdefault(code.encode(), asyncio.Event())

    async def __call__(self, exchange: Exchange) -> None:
        """Hold the job, then say which one it is."""
        for code, gate in self.by_code.items():
            if b'"%s"' % code in exchange.request.body:
                await gate.wait()
                await exchange.answer(200, {"status": "Success", "code": code.decode()})


def is_adopted(answer: tuple[int, dict[str, Any]], code: str) -> bool:
    """Return whether this is the result of this code, from what another job has left behind."""
    status, body = answer
    assert (status, body["code"]) == (200, code)
    return bool(body["router_metadata"].get("adopted"))


async def test_a_place_a_run_and_an_answer_are_taken_over(system: System, workers: list[ScriptedWorker]) -> None:
    """Each runs once, and its next client gets it from another process, or another host."""
    gates, worker = Gates(), workers[0]
    worker.script = gates
    system.configure([{"url": worker.url, "max_concurrency": 2}], admin={"allow_loopback": True})
    for code in ("runs", "ends", "waits"):
        gates[code]
    async with system.sidecar(), system.router(2) as one, system.router(2) as other:
        await one.sees(healthy=1)
        await other.sees(healthy=1)
        first = [asyncio.create_task(post(one, code, SHORT)) for code in ("runs", "ends")]
        await eventually(lambda: worker.running == 2, what="two runs")
        first.append(asyncio.create_task(post(one, "waits", SHORT)))
        assert [status for status, _ in await asyncio.gather(*first)] == [504, 504, 504]
        gates["ends"].set()
        await eventually(lambda: worker.running == 1, what="an answer without a client")
        assert is_adopted(await post(other, "ends"), "ends")
        gates["waits"].set()
        assert is_adopted(await post(other, "waits"), "waits")
        assert (await post(other, "runs", SHORT))[0] == 504  # its second client goes, too
        again = asyncio.create_task(post(one, "runs"))
        await asyncio.sleep(0.2)
        gates["runs"].set()
        assert is_adopted(await again, "runs")
        assert len(worker.jobs) == 3


async def test_a_run_whose_client_hangs_up_is_taken_over(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """A job that comes whole, a large one that comes by ASGI, and one of a batch go on for their next clients."""
    gates, worker = Gates(), workers[0]
    worker.script = gates
    system.configure([worker.url])
    codes = ("whole", "x" * 100_000, "of a batch")
    for code in codes:
        gates[code]
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=1)
        whole, large = (asyncio.create_task(post(router, code)) for code in codes[:2])
        batch = asyncio.create_task(post(router, codes[2], path="/run_code/batch"))
        await eventually(lambda: worker.running == 3, what="three runs")
        for client in (whole, large, batch):
            client.cancel()
        await asyncio.gather(whole, large, batch, return_exceptions=True)
        async with valkey.client() as redis:

            async def are_left() -> bool:
                return len(await redis.keys("sfr:orphans:*")) == 3

            await eventually(are_left, what="three runs without clients")
        await asyncio.sleep(1)  # a heartbeat of each process
        again = [asyncio.create_task(post(router, code)) for code in codes]
        await asyncio.sleep(0.2)
        for code in codes:
            gates[code].set()
        assert [is_adopted(await answer, code) for answer, code in zip(again, codes, strict=True)] == [True] * 3
        assert len(worker.jobs) == 3


async def test_nobody_waits_for_a_run_that_is_lost(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """If its worker, its router process or Redis ends in mid-adoption, the job runs by itself."""
    gates = Gates()
    codes = ("the worker ends", "the router ends", "Redis ends")
    for worker in workers:
        worker.script = gates
    for code in codes:
        gates[code]
    system.configure([worker.url for worker in workers], breaker={"failures": 1000})
    async with system.sidecar(), system.router(1) as other:
        await other.sees(healthy=3)
        for code, healthy in zip(codes, (3, 2, 2), strict=True):
            async with system.router(1) as owner:
                await owner.sees(healthy=healthy)
                assert (await post(owner, code, SHORT))[0] == 504
                again = asyncio.create_task(post(other, code))
                await asyncio.sleep(0.5)  # it waits for the run
                await eventually(lambda: sum(worker.running for worker in workers) == 1, what="one run")
                (runs_there,) = [worker for worker in workers if worker.running]
                if code == codes[0]:
                    await runs_there.die()
                elif code == codes[1]:
                    await owner.kill()
                else:
                    await valkey.kill()
                await eventually(partial(ran_twice, workers, code), what="a run of its own")
                gates[code].set()
                assert not is_adopted(await again, code)


def ran_twice(workers: list[ScriptedWorker], code: str) -> bool:
    """Return whether workers have begun to run this code for the second time."""
    return sum(b'"%s"' % code.encode() in job.body for worker in workers for job in worker.jobs) == 2
