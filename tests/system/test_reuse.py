"""Identical jobs of two hosts, with two router processes each, share runs and answers; parts of the system die."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from router.fleet.keys import Keys
from tests.support.eventually import eventually
from tests.support.load import Answered, post_batch, post_job
from tests.support.programs import Router, System, Valkey, children_of
from tests.support.scrape import scrape
from tests.support.worker import RESULT, Exchange, Gate, ScriptedWorker, well

SECONDS = 600
TIME_LIMIT = {"status": "Failed", "message": "", "run_result": {"status": "TimeLimitExceeded"}}


@pytest.fixture
async def hosts(workers: list[ScriptedWorker], valkey: Valkey, tmp_path: Path) -> AsyncIterator[list[Router]]:
    """Two hosts whose clients let identical jobs share runs."""
    system = System(tmp_path, valkey.url)
    reuse = {"default": {"reuse": {"seconds": SECONDS}}}
    system.configure([worker.url for worker in workers], default_max_concurrency=8, tenants=reuse)
    async with AsyncExitStack() as running:
        await running.enter_async_context(system.sidecar())
        both = [await running.enter_async_context(system.router(2)) for _ in range(2)]
        for host in both:
            await host.sees(healthy=3)
        yield both


async def _post(hosts: list[Router], count: int, code: str) -> list[Answered]:
    return await asyncio.gather(*(post_job(hosts[number % 2].url, code=code) for number in range(count)))


def _ran(workers: list[ScriptedWorker], code: str = "") -> int:
    return sum(code.encode() in job.body for worker in workers for job in worker.jobs)


def _reused(answers: list[Answered]) -> int:
    return sum(answer.body["router_metadata"].get("reused", False) for answer in answers)


async def _starts(workers: list[ScriptedWorker], code: str) -> None:
    await eventually(lambda: _ran(workers, code), what="the first run")


async def test_identical_jobs_share_one_run_and_its_answer(
    workers: list[ScriptedWorker], hosts: list[Router], valkey: Valkey
) -> None:
    """While it runs, and afterwards until the time is over; another body runs, and so does a job that wants its own."""
    gate = Gate()
    for worker in workers:
        worker.script = gate
    together = asyncio.create_task(_post(hosts, 20, "shared"))
    await _starts(workers, "shared")
    gate.open()
    first = await together
    assert {answer.status for answer in first} == {200}
    assert (_ran(workers, "shared"), _reused(first)) == (1, 19)
    assert len({answer.headers["x-request-id"] for answer in first}) == 20
    assert len({answer.worker_url for answer in first}) == 1
    later = await _post(hosts, 6, "shared")
    lines = await post_batch(hosts[0].url, 100)
    assert (_ran(workers, "shared"), _reused(later)) == (1, 6)
    assert (len(lines), _ran(workers, "print(1)")) == (100, 1)
    await _post(hosts, 1, "another")
    assert _ran(workers, "another") == 1
    async with valkey.client() as redis:
        for key in await redis.keys(f"{Keys('sfr').lua_names()['REUSE_OF']}*"):
            text = str(await redis.get(key))
            await redis.set(key, f"1{text[text.index(' ') :]}")  # its time is over
    await _post(hosts, 1, "shared")
    assert _ran(workers, "shared") == 2
    await eventually(lambda: _counted(hosts[0], 25 + 99), what="the counts")
    # A time limit is no answer for others: those that wait run by themselves, and so do later ones.
    limit = asyncio.Event()

    async def limited(exchange: Exchange) -> None:
        await limit.wait()
        await exchange.answer(200, TIME_LIMIT)

    for worker in workers:
        worker.script = limited
    together = asyncio.create_task(_post(hosts, 6, "slow"))
    await _starts(workers, "slow")
    limit.set()
    answers = await together
    assert {answer.body["run_result"]["status"] for answer in answers} == {"TimeLimitExceeded"}
    assert (_ran(workers, "slow"), _reused(answers)) == (6, 0)
    await _post(hosts, 1, "slow")
    assert _ran(workers, "slow") == 7


async def _counted(host: Router, reused: int) -> bool:
    return (await scrape(host.url)).total("sfr_tenant_reused_total") == reused


async def test_nobody_waits_for_ever(workers: list[ScriptedWorker], hosts: list[Router], valkey: Valkey) -> None:
    """If the host that has the run loses its processes, or Redis is killed, the other host's jobs are answered."""
    for dies in ("the host's processes", "Redis"):
        gate = Gate()
        for worker in workers:
            worker.script = gate
        owners = asyncio.gather(*(post_job(hosts[0].url, code=dies) for _ in range(2)), return_exceptions=True)
        await _starts(workers, dies)
        others = asyncio.gather(*(post_job(hosts[1].url, code=dies) for _ in range(8)))
        await eventually(lambda: _somebody_waits(valkey), what="the others' wait")
        for worker in workers:
            worker.script = well
        ran = _ran(workers, dies)
        if dies == "Redis":
            await valkey.kill()
        else:
            for process in children_of(hosts[0].pid):
                os.kill(process, signal.SIGKILL)
        answers = await others
        assert {answer.status for answer in answers} == {200}
        assert all(answer.body["run_result"] == RESULT["run_result"] for answer in answers)
        # Without Redis each process has a run: two of the one host, and that of the other one that has had none.
        assert 1 <= _ran(workers, dies) - ran <= (3 if dies == "Redis" else 1)
        gate.open()
        await owners
        if dies != "Redis":
            await eventually(lambda: _serves(hosts[0]), what="new processes")


async def _serves(host: Router) -> bool:
    return len(children_of(host.pid)) == host.processes and (await host.health())["status"] == "healthy"


async def _somebody_waits(valkey: Valkey) -> bool:
    async with valkey.client() as redis:
        keys = await redis.keys(f"{Keys('sfr').lua_names()['REUSE_OF']}*")
        marks = [str(await redis.get(key)) for key in keys]
        return any(len(mark.split("@")[1].split()) > 1 for mark in marks if "@" in mark)
