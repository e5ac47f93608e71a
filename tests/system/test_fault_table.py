"""One row per fault: if one of four workers fails, every job is answered right, once, and no lease is left."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.support.eventually import eventually
from tests.support.faults import FAULTS, echo
from tests.support.programs import Router, System, Valkey
from tests.support.worker import ScriptedWorker, always

pytestmark = pytest.mark.asyncio(loop_scope="module")

CutOff = Callable[[ScriptedWorker], AbstractAsyncContextManager[None]]

JOBS, AT_ONCE = 200, 16
# Short limits, so that a worker that hangs costs under a second: 0.4 s of limits and 0.4 s of grace.
LIMITS = {"compile_timeout": 0.2, "run_timeout": 0.2}
GRACE_S = 0.4
BUDGET_PERCENT, BUDGET_A_SECOND = 20, 10


@dataclass
class Pool:
    """A router before four workers, shared by all rows."""

    router: Router
    workers: list[ScriptedWorker]
    redis: Redis

    async def make_well(self) -> None:
        """Let all workers do well, and clear everything that the router has recorded of them."""
        for worker in self.workers:
            worker.script = echo
            worker.jobs.clear()
        await eventually(self.no_lease, what="the last row's leases to end")
        remembered = ["sfr:ejected", "sfr:rests", "sfr:quarantine", "sfr:budget"]
        for key in await self.redis.keys("sfr:breaker:*") + remembered:
            await self.redis.delete(key)
        await self.redis.hset("sfr:plan:head", "stale", "1")

    async def no_lease(self) -> bool:
        """Whether Redis has neither leases nor pending jobs."""
        keys = await self.redis.keys("sfr:leases:*")
        return not any([await self.redis.zcard(key) for key in keys]) and not await self.redis.zcard("sfr:queue")

    @property
    def attempts(self) -> int:
        """How many jobs the workers have received."""
        return sum(len(worker.jobs) for worker in self.workers)


@asynccontextmanager
async def pool_of_four(folder: Path, strategy: str = "round_robin") -> AsyncIterator[Pool]:
    """Start a pool whose pings always succeed, so that only jobs can find a fault."""
    async with AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(Valkey(folder))
        workers = [await stack.enter_async_context(ScriptedWorker(echo)) for _ in range(4)]
        system = System(folder, valkey.url)
        system.configure(
            [worker.url for worker in workers],
            routing_strategy=strategy,
            job_grace=GRACE_S,
            health_check={"fall": 1000},
            queue={"timeout": 3, "without_workers": 1},
            retry={"budget_percent": BUDGET_PERCENT, "budget_per_second": BUDGET_A_SECOND},
        )
        await stack.enter_async_context(system.sidecar())
        router = await stack.enter_async_context(system.router(2))
        await router.sees(healthy=4)
        yield Pool(router, workers, await stack.enter_async_context(valkey.client()))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    """One pool for all rows."""
    async with pool_of_four(tmp_path_factory.mktemp("pool")) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def pool(shared_pool: Pool) -> Pool:
    """The pool, cleared of the last row's fault."""
    await shared_pool.make_well()
    return shared_pool


async def answers_to(url: str, at_once: int = AT_ONCE) -> list[tuple[int, int, dict[str, object]]]:
    """Send JOBS jobs, each with its own code; return number, status and body of each answer."""
    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(number: int) -> tuple[int, int, dict[str, object]]:
            job = {"code": f"job-{number}", "language": "python", **LIMITS}
            async with session.post(f"{url}/run_code", json=job) as response:
                return number, response.status, json.loads(await response.read())

        return await asyncio.gather(*(one(number) for number in range(JOBS)))


def wrong(answers: list[tuple[int, int, dict[str, object]]]) -> list[tuple[int, int, dict[str, object]]]:
    """Return the answers that are not their job's result."""

    def is_right(number: int, status: int, body: dict[str, object]) -> bool:
        result = body.get("run_result")
        return status == 200 and isinstance(result, dict) and result["stdout"] == f"job-{number}"

    return [answer for answer in answers if not is_right(*answer)]


async def check_row(pool: Pool, *, is_sound: bool, is_reached: bool = True) -> None:
    """Every job comes back right within the retry budget, and no lease is left."""
    start = asyncio.get_running_loop().time()
    answers = await answers_to(pool.router.url)
    seconds = asyncio.get_running_loop().time() - start
    assert not wrong(answers)
    assert len(answers) == JOBS
    retries = pool.attempts - JOBS
    # The budget starts with its first second's retries.
    assert 0 <= retries <= JOBS * BUDGET_PERCENT / 100 + BUDGET_A_SECOND * (seconds + 1)
    bad_url = pool.workers[0].url
    # A worker that cannot be reached rests at once; it is ejected after enough attempts.
    rests = not is_reached and await pool.redis.hexists("sfr:rests", bad_url)
    is_out = rests or await pool.redis.zscore("sfr:ejected", bad_url) is not None
    assert is_out is not is_sound
    assert await pool.redis.zcard("sfr:ejected") <= 1
    await eventually(pool.no_lease, what="the last lease's end")


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_bad_worker_costs_no_job(pool: Pool, fault: str) -> None:
    """All 200 jobs get the right answer; the faulty worker is ejected unless it completed some jobs."""
    make_script, is_sound = FAULTS[fault]
    pool.workers[0].script = make_script()
    await check_row(pool, is_sound=is_sound)


@asynccontextmanager
async def refusing(worker: ScriptedWorker) -> AsyncIterator[None]:
    """Nothing listens at the worker's port, and the sidecar has not noticed."""
    await worker.die()
    try:
        yield
    finally:
        await worker.listen()


@asynccontextmanager
async def answering_no_syn(worker: ScriptedWorker) -> AsyncIterator[None]:
    """Connecting never ends, as to a host that is off: the queue of connections is full."""
    async with refusing(worker):
        with socket.socket() as full, socket.socket() as first, socket.socket() as second:
            full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            full.bind(("127.0.0.1", worker.port))
            full.listen(0)
            for filler in (first, second):
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            yield


@pytest.mark.parametrize("cut_off", [refusing, answering_no_syn])
async def test_one_worker_that_cannot_be_reached_costs_no_job(pool: Pool, cut_off: CutOff) -> None:
    """The worker's machine or program has just gone: all jobs still get the right answer."""
    async with cut_off(pool.workers[0]):
        await check_row(pool, is_sound=False, is_reached=False)


@pytest.mark.parametrize("cut_off", [refusing, answering_no_syn])
async def test_jobs_are_refused_if_no_worker_can_be_reached(pool: Pool, cut_off: CutOff) -> None:
    """Each job gets 503 after its wait without being sent, and no worker is ejected."""
    async with AsyncExitStack() as stack:
        for worker in pool.workers:
            await stack.enter_async_context(cut_off(worker))
        answers = await answers_to(pool.router.url, at_once=JOBS)
    assert {(status, str(body)) for _, status, body in answers} == {(503, "{'detail': 'No healthy workers available'}")}
    assert pool.attempts == 0
    assert not await pool.redis.exists("sfr:ejected")
    await eventually(pool.no_lease, what="the last lease's end")


async def test_422_is_the_job_s_own_error(pool: Pool) -> None:
    """A 422 goes to the client as it is, after one attempt, and does not count against the worker."""
    pool.workers[0].script = always(422, {"detail": [{"msg": "bad"}]})
    answers = await answers_to(pool.router.url)
    assert sorted({status for _, status, _ in answers}) == [200, 422]
    assert sum(status == 422 for _, status, _ in answers) == len(pool.workers[0].jobs) == JOBS // 4
    assert pool.attempts == JOBS
    assert not await pool.redis.exists(f"sfr:breaker:{pool.workers[0].url}")


@pytest.mark.parametrize("fault", [*(fault for fault, (_, is_sound) in FAULTS.items() if not is_sound), "429"])
async def test_retries_keep_to_the_budget_if_all_workers_fail(pool: Pool, fault: str) -> None:
    """Attempts are at most 1.2 times the jobs plus 10 a second, and each client gets one answer with the cause."""
    make_script, _ = FAULTS[fault]
    for worker in pool.workers:
        worker.script = make_script()
    start = asyncio.get_running_loop().time()
    answers = await answers_to(pool.router.url, at_once=JOBS)  # with 16 at once, hanging would take half a minute
    seconds = asyncio.get_running_loop().time() - start
    own = {"500": 500, "SandboxError always": 200, "429": 504}  # the job's own error, or no room
    assert {status for _, status, _ in answers} == {own.get(fault, 503)}
    assert pool.attempts <= JOBS * (1 + BUDGET_PERCENT / 100) + BUDGET_A_SECOND * (seconds + 1)
    await eventually(pool.no_lease, what="the last lease's end")


async def test_worker_that_fails_fast_attracts_no_load(tmp_path: Path) -> None:
    """With least_loaded, a worker that fails at once always looks idle, but gets only a few jobs."""
    async with pool_of_four(tmp_path, "least_loaded") as pool:
        pool.workers[0].script = always(503)
        await check_row(pool, is_sound=False)
        assert len(pool.workers[0].jobs) <= 5 + AT_ONCE
