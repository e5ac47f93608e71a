"""Jobs for workers that are full, or away for a moment, wait; no worker is blamed."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.support.eventually import eventually
from tests.support.faults import echo
from tests.support.load import Answered, post_job, post_jobs
from tests.support.programs import Router, System, Valkey
from tests.support.worker import Exchange, Gate, ScriptedWorker, always, takes

JOBS, SLOTS = 200, 4


def statuses(answers: list[Answered]) -> set[int]:
    """Return the set of the answers' statuses."""
    return {answer.status for answer in answers}


class Slots:
    """A script that runs SLOTS jobs at once and gives all others one refusal."""

    def __init__(self, status: int, *headers: str) -> None:
        self.turned_away = 0
        self._status = status
        self._headers = headers
        self._running = 0

    async def __call__(self, exchange: Exchange) -> None:
        """Run the job, or turn it away."""
        if self._running >= SLOTS:
            self.turned_away += 1
            await exchange.answer(self._status, {"detail": "busy"}, *self._headers)
            return
        self._running += 1
        await asyncio.sleep(0.02)
        self._running -= 1
        await exchange.answer()


FULL = {
    "429": (429, ()),
    "429 for 1 s": (429, ("Retry-After: 1",)),
    "503 for 1 s": (503, ("Retry-After: 1",)),
    "503 for ever": (503, ("Retry-After: 1e308",)),
    "503 till long ago": (503, ("Retry-After: Sat, 28 Nov 1026 10:00:00 GMT",)),
}


@pytest.mark.parametrize("cap", [None, 3 * SLOTS], ids=["uncapped", "cap too high"])
@pytest.mark.parametrize("answer", FULL)
async def test_worker_without_room_costs_no_job(
    system: System, workers: list[ScriptedWorker], valkey: Valkey, answer: str, cap: int | None
) -> None:
    """200 jobs for 4 slots all complete at their first attempt, and few are sent in vain after the first burst."""
    status, headers = FULL[answer]
    worker, slots = workers[0], Slots(status, *headers)
    worker.script = slots
    system.configure([worker.url], default_max_concurrency=cap)
    async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=1)
        answers = await post_jobs(router.url, JOBS, JOBS)
        assert statuses(answers) == {200}
        assert {answer.body["router_metadata"]["attempt"] for answer in answers} == {1}
        # Each job is turned away at most once in the first burst; after that, attempts are paced by the clock.
        assert slots.turned_away <= 2 * JOBS
        assert not await redis.exists(f"sfr:breaker:{worker.url}")
        assert router.output.count("it has no room") <= router.processes


async def test_worker_without_room_costs_no_job_without_redis_either(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """Without Redis each process learns by itself how much a worker takes."""
    workers[0].script = Slots(429)
    system.configure([workers[0].url])
    system.env["REDIS_URL"] = "redis://127.0.0.1:1/0"
    async with system.router(2) as router:
        assert statuses(await post_jobs(router.url, JOBS, JOBS)) == {200}


async def test_jobs_of_a_full_worker_keep_their_places(system: System, workers: list[ScriptedWorker]) -> None:
    """A job that was turned away runs before all jobs that came after it."""
    worker, gate = workers[0], Gate()

    # Longer than this test: otherwise a pending job could be on its way, to be turned away, when there is room.
    rest = "Retry-After: 10"

    async def one_at_a_time(exchange: Exchange) -> None:
        await (gate(exchange) if worker.running == 1 else exchange.answer(429, {"detail": "busy"}, rest))

    worker.script = one_at_a_time
    system.configure([worker.url])
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=1)
        first = asyncio.create_task(post_job(router.url))
        await eventually(lambda: worker.running, what="a job on the worker")
        jobs = []
        for number in range(5):
            jobs.append(asyncio.create_task(post_job(router.url, code=f"{number}")))
            turned_away = 2 + number if number == 0 else 0
            await eventually(lambda least=turned_away: len(worker.jobs) >= least, what="the job, turned away")  # type: ignore[misc]
            await eventually(lambda count=number + 1: _waits(router, count), what="the pending job")  # type: ignore[misc]
        worker.jobs.clear()
        worker.script = takes(0.01)
        gate.open()
        await asyncio.gather(first, *jobs)
    codes = [re.search(rb'"code": "(\d)"', job.body) for job in worker.jobs]
    assert [code and code[1] for code in codes] == [b"0", b"1", b"2", b"3", b"4"]


async def _waits(router: Router, count: int) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"{router.url}/metrics") as response:
        return f"sfr_jobs_waiting {count}.0" in await response.text()


async def test_worker_that_never_has_room_makes_a_job_wait_and_not_fail(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """A worker that always refuses leaves its job pending until queue.timeout."""
    workers[0].script = always(503, {"detail": "busy"}, "Retry-After: 0")
    system.configure([workers[0].url], queue={"timeout": 1})
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=1)
        answer = await post_job(router.url)
    assert (answer.status, answer.body["detail"]) == (504, "No worker had room within 1 s")


@asynccontextmanager
async def away(workers: list[ScriptedWorker]) -> AsyncIterator[None]:
    """Kill all workers with what they run; start them again at the block's end."""
    for worker in workers:
        await worker.die()
    try:
        yield
    finally:
        for worker in workers:
            await worker.listen()


async def post_each(router: Router, count: int, code: str) -> list[tuple[int, Any]]:
    """Send `count` jobs at once."""
    connector = aiohttp.TCPConnector(limit=count)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(number: int) -> tuple[int, Any]:
            job = {"code": code.format(number), "language": "python"}
            async with session.post(f"{router.url}/run_code", json=job) as response:
                return response.status, await response.json()

        return await asyncio.gather(*(one(number) for number in range(count)))


async def _in_line(router: Router, least: int) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"{router.url}/metrics") as response:
        found = re.search(r"^sfr_jobs_waiting (\d+)", await response.text(), re.MULTILINE)
        return found is not None and int(found[1]) >= least


@pytest.mark.parametrize("interval", [0.3, 60], ids=["noticed", "unnoticed"])
@pytest.mark.parametrize("cap", [None, 4])
async def test_restart_of_all_workers_costs_no_job(
    system: System, workers: list[ScriptedWorker], interval: float, cap: int | None
) -> None:
    """Jobs that arrive while all workers are away complete when these are back, even if the sidecar did not notice."""
    for worker in workers:
        worker.script = takes(0.01)
    system.configure([worker.url for worker in workers], default_max_concurrency=cap, health_check_interval=interval)
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        async with away(workers):
            jobs = asyncio.create_task(post_each(router, 400, "job {}"))
            await eventually(lambda: _in_line(router, 380), what="the pending jobs")
        assert {status for status, _ in await jobs} == {200}


@pytest.mark.parametrize("code", ["job {}", "alike"])
async def test_restart_of_all_workers_costs_no_job_that_runs(
    system: System, workers: list[ScriptedWorker], valkey: Valkey, code: str
) -> None:
    """Jobs that ran on workers that died together run again, and equal jobs are not quarantined for it."""
    for worker in workers:
        worker.script = takes(0.2)
    system.configure([worker.url for worker in workers], default_max_concurrency=2, health_check_interval=60)
    async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        jobs = asyncio.create_task(post_each(router, 60, code))
        await eventually(lambda: sum(worker.running for worker in workers) == 6, what="full workers")
        async with away(workers):
            await eventually(lambda: _in_line(router, 50), what="the pending jobs")
        assert {status for status, _ in await jobs} == {200}
        assert not await redis.exists("sfr:quarantine")


async def test_restart_of_all_workers_costs_no_job_without_redis_and_sidecar(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """Without Redis and sidecar the process notices by itself that its workers are back."""
    system.configure([worker.url for worker in workers])
    system.env["REDIS_URL"] = "redis://127.0.0.1:1/0"
    async with system.router(1) as router:
        async with away(workers):
            jobs = asyncio.create_task(post_each(router, 100, "job {}"))
            await eventually(lambda: _in_line(router, 90), what="the pending jobs")
        assert {status for status, _ in await jobs} == {200}


@pytest.mark.parametrize("interval", [0.3, 60], ids=["noticed", "unnoticed"])
@pytest.mark.parametrize("seconds", [0, 1])
async def test_jobs_are_refused_if_no_worker_returns(
    system: System, workers: list[ScriptedWorker], interval: float, seconds: int
) -> None:
    """Jobs are refused after queue.without_workers seconds, or at once if that is 0."""
    queue = {"without_workers": seconds}
    system.configure([worker.url for worker in workers], health_check_interval=interval, queue=queue)
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=3)
        async with away(workers):
            answer = await post_job(router.url)
    assert (answer.status, answer.body["detail"]) == (503, "No healthy workers available")
    assert answer.seconds >= seconds


async def test_worker_that_registers_gets_the_pending_jobs(system: System, workers: list[ScriptedWorker]) -> None:
    """Jobs of an empty fleet wait for its first worker."""
    system.configure([])
    async with system.sidecar(), system.router(1) as router:
        job = asyncio.create_task(post_job(router.url))
        await eventually(lambda: _in_line(router, 1), what="the pending job")
        system.configure([workers[0].url])
        assert (await job).status == 200


async def test_one_worker_that_is_away_gets_few_jobs(system: System, workers: list[ScriptedWorker]) -> None:
    """Jobs of a worker that is away go to other workers and still count as first attempts."""
    for worker in workers:
        worker.script = echo
    system.configure([worker.url for worker in workers], health_check_interval=60)
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=3)
        async with away(workers[:1]):
            answers = await post_each(router, 100, "job {}")
        assert {(status, body["router_metadata"]["attempt"]) for status, body in answers} == {(200, 1)}
