"""One row per fault: whatever one of four workers does, every job is answered right, once, and no lease is left."""

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
# Short limits, so that a worker that hangs costs a second: 0.4 s of the job's own and 0.4 s of grace.
LIMITS = {"compile_timeout": 0.2, "run_timeout": 0.2}
GRACE_S = 0.4
BUDGET_PERCENT, BUDGET_A_SECOND = 20, 10


@dataclass
class Pool:
    """A router before four workers, kept up from row to row."""

    router: Router
    workers: list[ScriptedWorker]
    redis: Redis

    async def make_well(self) -> None:
        """Let all workers do well, and nobody remember what was."""
        for worker in self.workers:
            worker.script = echo
            worker.jobs.clear()
        await eventually(self.no_lease, what="the last row's leases to end")
        remembered = ["sfr:ejected", "sfr:rests", "sfr:quarantine", "sfr:budget"]
        for key in await self.redis.keys("sfr:breaker:*") + remembered:
            await self.redis.delete(key)
        await self.redis.hset("sfr:plan:head", "stale", "1")

    async def no_lease(self) -> bool:
        """Whether nothing runs by what Redis knows."""
        keys = await self.redis.keys("sfr:leases:*")
        return not any([await self.redis.zcard(key) for key in keys]) and not await self.redis.zcard("sfr:queue")

    @property
    def attempts(self) -> int:
        """How many jobs the workers have been sent."""
        return sum(len(worker.jobs) for worker in self.workers)


@asynccontextmanager
async def pool_of_four(folder: Path, strategy: str = "round_robin") -> AsyncIterator[Pool]:
    """Start a pool whose pings are always well: what a fault costs, jobs alone have to find out."""
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
    """The pool, well again."""
    await shared_pool.make_well()
    return shared_pool


async def answers_to(url: str, at_once: int = AT_ONCE) -> list[tuple[int, int, dict[str, object]]]:
    """Send all jobs, each with a code of its own; return number, status and body of each answer."""
    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(number: int) -> tuple[int, int, dict[str, object]]:
            job = {"code": f"job-{number}", "language": "python", **LIMITS}
            async with session.post(f"{url}/run_code", json=job) as response:
                return number, response.status, json.loads(await response.read())

        return await asyncio.gather(*(one(number) for number in range(JOBS)))


def wrong(answers: list[tuple[int, int, dict[str, object]]]) -> list[tuple[int, int, dict[str, object]]]:
    """Return the answers that are not their jobs' results."""

    def is_right(number: int, status: int, body: dict[str, object]) -> bool:
        result = body.get("run_result")
        return status == 200 and isinstance(result, dict) and result["stdout"] == f"job-{number}"

    return [answer for answer in answers if not is_right(*answer)]


async def check_row(pool: Pool, *, is_sound: bool, is_reached: bool = True) -> None:
    """Send the jobs; all come back right, for no more retries than the budget has, and nothing stays behind."""
    start = asyncio.get_running_loop().time()
    answers = await answers_to(pool.router.url)
    seconds = asyncio.get_running_loop().time() - start
    assert not wrong(answers)
    assert len(answers) == JOBS
    retries = pool.attempts - JOBS
    # The first second's is there from the start.
    assert 0 <= retries <= JOBS * BUDGET_PERCENT / 100 + BUDGET_A_SECOND * (seconds + 1)
    bad_url = pool.workers[0].url
    # One that cannot be reached rests at once, and is ejected when it has been asked often enough.
    rests = not is_reached and await pool.redis.hexists("sfr:rests", bad_url)
    is_out = rests or await pool.redis.zscore("sfr:ejected", bad_url) is not None
    assert is_out is not is_sound
    assert await pool.redis.zcard("sfr:ejected") <= 1
    await eventually(pool.no_lease, what="the last lease's end")


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_bad_worker_costs_no_job(pool: Pool, fault: str) -> None:
    """200 jobs, 16 at once, one worker of four at fault: 200 right answers; it is ejected unless it did some well."""
    make_script, is_sound = FAULTS[fault]
    pool.workers[0].script = make_script()
    await check_row(pool, is_sound=is_sound)


@asynccontextmanager
async def refusing(worker: ScriptedWorker) -> AsyncIterator[None]:
    """Nothing listens there any more, and the sidecar has not noticed yet."""
    await worker.die()
    try:
        yield
    finally:
        await worker.listen()


@asynccontextmanager
async def answering_no_syn(worker: ScriptedWorker) -> AsyncIterator[None]:
    """Connecting takes for ever, as to a host that is off: its queue of connections is full."""
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
    """As where its machine or its program has just gone."""
    async with cut_off(pool.workers[0]):
        await check_row(pool, is_sound=False, is_reached=False)


@pytest.mark.parametrize("cut_off", [refusing, answering_no_syn])
async def test_when_none_can_be_reached_jobs_are_refused(pool: Pool, cut_off: CutOff) -> None:
    """No job is sent; each client has its 503, when it has waited; and no worker is ejected for it."""
    async with AsyncExitStack() as stack:
        for worker in pool.workers:
            await stack.enter_async_context(cut_off(worker))
        answers = await answers_to(pool.router.url, at_once=JOBS)
    assert {(status, str(body)) for _, status, body in answers} == {(503, "{'detail': 'No healthy workers available'}")}
    assert pool.attempts == 0
    assert not await pool.redis.exists("sfr:ejected")
    await eventually(pool.no_lease, what="the last lease's end")


async def test_422_is_the_job_s_own(pool: Pool) -> None:
    """It goes to the client as it is, once, and says nothing of the worker."""
    pool.workers[0].script = always(422, {"detail": [{"msg": "bad"}]})
    answers = await answers_to(pool.router.url)
    assert sorted({status for _, status, _ in answers}) == [200, 422]
    assert sum(status == 422 for _, status, _ in answers) == len(pool.workers[0].jobs) == JOBS // 4
    assert pool.attempts == JOBS
    assert not await pool.redis.exists(f"sfr:breaker:{pool.workers[0].url}")


@pytest.mark.parametrize("fault", [*(fault for fault, (_, is_sound) in FAULTS.items() if not is_sound), "429"])
async def test_when_all_fail_retries_keep_to_the_budget(pool: Pool, fault: str) -> None:
    """Attempts are 1.2 times the jobs and 10 a second at most; each client has one answer, and it says what was."""
    make_script, _ = FAULTS[fault]
    for worker in pool.workers:
        worker.script = make_script()
    start = asyncio.get_running_loop().time()
    answers = await answers_to(pool.router.url, at_once=JOBS)  # at 16 at once, those that hang would take half a minute
    seconds = asyncio.get_running_loop().time() - start
    own = {"500": 500, "SandboxError always": 200, "429": 504}  # what the workers say may be the job's own; or no room
    assert {status for _, status, _ in answers} == {own.get(fault, 503)}
    assert pool.attempts <= JOBS * (1 + BUDGET_PERCENT / 100) + BUDGET_A_SECOND * (seconds + 1)
    await eventually(pool.no_lease, what="the last lease's end")


async def test_worker_that_fails_fast_attracts_no_load(tmp_path: Path) -> None:
    """With least_loaded, the one that fails at once is always the least loaded; it gets no more than a few jobs."""
    async with pool_of_four(tmp_path, "least_loaded") as pool:
        pool.workers[0].script = always(503)
        await check_row(pool, is_sound=False)
        assert len(pool.workers[0].jobs) <= 5 + AT_ONCE
