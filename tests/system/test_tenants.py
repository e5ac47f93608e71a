"""Many runs on one fleet: each gets its share, no run holds up another, and jobs reach workers that can run them."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.support.eventually import eventually
from tests.support.load import JOB, Answered, post_job
from tests.support.programs import Router, System, Valkey, get_json
from tests.support.worker import Exchange, Gate, ScriptedWorker, takes

SLOTS = 8


class Turns:
    """A script that runs each job until its turn is called, and notes the tenants in the order in which jobs came."""

    def __init__(self) -> None:
        self.tenants: list[str] = []
        self.running: Counter[str] = Counter()
        self._gates: list[Gate] = []

    async def __call__(self, exchange: Exchange) -> None:
        """Run one job. Its code names its tenant."""
        tenant, gate = json.loads(exchange.request.body)["code"], Gate()
        self.tenants.append(tenant)
        self.running[tenant] += 1
        self._gates.append(gate)
        await gate(exchange)
        self.running[tenant] -= 1

    async def have_come(self, count: int) -> None:
        """Return when so many jobs have come: a lease is given before its job is sent."""
        await eventually(lambda: len(self.tenants) == count, what=f"{count} jobs on the worker")

    def end_oldest(self) -> None:
        """End the job that has run the longest."""
        self._gates.pop(0).open()

    def end_all(self) -> None:
        """End all jobs that run."""
        while self._gates:
            self.end_oldest()


@asynccontextmanager
async def sending(router: Router, tenant: str, count: int, **more: Any) -> AsyncIterator[list[asyncio.Task[Answered]]]:
    """Send `count` jobs of a tenant at once, over connections of their own."""
    url = f"{router.url}/t/{tenant}" if tenant else router.url
    jobs = [asyncio.create_task(post_job(url, code=tenant, **more)) for _ in range(count)]
    try:
        yield jobs
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


async def waiting(router: Router) -> int:
    """Return how many jobs wait in the queue of the fleet."""
    stats = await get_json(f"{router.url}/admin/stats")
    return int(str(stats["waiting"]))


async def all_wait(router: Router, count: int) -> None:
    """Return when so many jobs wait."""

    async def do_so_many() -> bool:
        return await waiting(router) == count

    await eventually(do_so_many, what=f"{count} waiting jobs")


@pytest.fixture
async def turns(worker: ScriptedWorker) -> AsyncIterator[Turns]:
    """The script of the worker, under which each job runs until its turn is called."""
    script = Turns()
    worker.script = script
    yield script
    script.end_all()


async def test_single_job_does_not_wait_behind_a_flood(system: System, worker: ScriptedWorker, turns: Turns) -> None:
    """The first slot that becomes free goes to the tenant that runs nothing, whatever waits before its job."""
    system.configure([{"url": worker.url, "max_concurrency": 2}])
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=1)
        async with sending(router, "flood", 40):
            await all_wait(router, 38)
            await turns.have_come(2)
            async with sending(router, "note", 1) as (note,):
                await all_wait(router, 39)
                turns.end_oldest()
                await eventually(lambda: turns.running["note"] == 1, what="the single job on the worker")
                assert turns.tenants == ["flood", "flood", "note"]
                turns.end_all()
                assert (await note).status == 200


async def test_slots_are_shared_by_weight(system: System, worker: ScriptedWorker, turns: Turns) -> None:
    """With weights 3 : 1 and jobs of both waiting, eight slots are held six to two."""
    tenants = {"train": {"weight": 3}, "probe": {"weight": 1}}
    system.configure([{"url": worker.url, "max_concurrency": SLOTS}], tenants=tenants)
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=1)
        async with sending(router, "probe", 40), sending(router, "train", 40):
            await all_wait(router, 80 - SLOTS)
            for done in range(2 * SLOTS):  # by then each slot has been given anew
                await turns.have_come(SLOTS + done)
                turns.end_oldest()
            await turns.have_come(3 * SLOTS)
            assert turns.running == {"train": 6, "probe": 2}


async def test_higher_priority_goes_first(system: System, worker: ScriptedWorker, turns: Turns) -> None:
    """Jobs of the higher priority get every slot that becomes free, as long as any of them waits."""
    tenants = {"exam": {"priority": 1}, "train": {"weight": 100}}
    system.configure([{"url": worker.url, "max_concurrency": 4}], tenants=tenants)
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=1)
        async with sending(router, "train", 30):
            await all_wait(router, 26)
            async with sending(router, "exam", 6):
                await all_wait(router, 32)
                for done in range(8):
                    await turns.have_come(4 + done)
                    turns.end_oldest()
                await turns.have_come(12)
    assert turns.tenants[4:12] == ["exam"] * 6 + ["train"] * 2


async def test_waiting_long_goes_before_priority(system: System, worker: ScriptedWorker, turns: Turns) -> None:
    """A job that has waited longer than `queue.aging` gets its turn although jobs of higher priority wait."""
    system.configure(
        [{"url": worker.url, "max_concurrency": 1}], tenants={"exam": {"priority": 1}}, queue={"aging": 0.2}
    )
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=1)
        async with sending(router, "exam", 1):
            await eventually(lambda: turns.running["exam"] == 1, what="the running job")
            async with sending(router, "train", 1):
                await all_wait(router, 1)
                async with sending(router, "exam", 20):
                    await all_wait(router, 21)
                    for done in range(1, 22):
                        turns.end_oldest()
                        await eventually(lambda count=done: len(turns.tenants) == count + 1, what="the next job")  # type: ignore[misc]
                        if "train" in turns.tenants:
                            break
                        await asyncio.sleep(0.05)  # its age
    assert turns.tenants.index("train") < 20


async def test_most_that_runs_of_a_tenant_holds_over_processes(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """max_running is exact over all processes and workers, and leaves the rest of the fleet to others."""
    for each in workers:
        each.script = takes(0.02)
    system.configure([each.url for each in workers], tenants={"small": {"max_running": 3}})
    most = 0
    async with system.sidecar(), system.router(3) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        async with sending(router, "small", 60) as jobs, sending(router, "", 10) as others:
            while not all(job.done() for job in jobs):
                most = max(most, await redis.zcard("sfr:running:small"))
                assert sum(worker.running for worker in workers) <= 3 + 10
            assert {answer.status for answer in await asyncio.gather(*jobs, *others)} == {200}
    assert most == 3


async def test_full_line_refuses_one_tenant_alone(system: System, worker: ScriptedWorker, turns: Turns) -> None:
    """Beyond max_waiting a tenant's job gets 503 with its name, at once; jobs of other tenants wait."""
    system.configure(
        [{"url": worker.url, "max_concurrency": 1}],
        tenants={"default": {"max_waiting": 5}, "big": {"max_waiting": 100}},
    )
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=1)
        async with sending(router, "flood", 1):
            await eventually(lambda: turns.running["flood"] == 1, what="the running job")
            async with sending(router, "flood", 5):
                await all_wait(router, 5)
                answer = await post_job(f"{router.url}/t/flood")
                assert answer.status == 503
                assert "flood" in answer.body["detail"]
                async with sending(router, "big", 20):
                    await all_wait(router, 25)


async def test_labels_lead_to_workers_that_have_them(system: System, workers: list[ScriptedWorker]) -> None:
    """A tenant's labels and those of a request choose the workers; a label that none has gets 503 with its name."""
    plain, gpu, fast = workers
    system.configure(
        [plain.url, {"url": gpu.url, "labels": ["gpu"]}, {"url": fast.url, "labels": ["gpu", "fast"]}],
        tenants={"render": {"labels": ["gpu"]}},
    )
    async with system.sidecar(), system.router(2) as router, aiohttp.ClientSession() as session:
        await router.sees(healthy=3)
        answers = [await post_job(f"{router.url}/t/render") for _ in range(8)]
        assert {answer.worker_url for answer in answers} == {gpu.url, fast.url}

        async def labelled(url: str, labels: str) -> tuple[int, Any]:
            headers = {"x-router-labels": labels}
            async with session.post(f"{url}/run_code", json=JOB, headers=headers) as response:
                return response.status, await response.json()

        for url in (router.url, f"{router.url}/t/render"):
            _, body = await labelled(url, "fast")
            assert body["router_metadata"]["worker_url"] == fast.url
        status, body = await labelled(router.url, "tpu")
        assert status == 503
        assert "tpu" in body["detail"]


async def test_full_pool_holds_up_no_other(system: System, workers: list[ScriptedWorker]) -> None:
    """While jobs wait for workers with a label, other jobs run."""
    plain, gpu, _ = workers
    gate = Gate()
    gpu.script = gate
    system.configure(
        [plain.url, {"url": gpu.url, "labels": ["gpu"], "max_concurrency": 1}],
        default_max_concurrency=2,
        tenants={"render": {"labels": ["gpu"]}},
    )
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=2)
        async with sending(router, "render", 10) as jobs:
            await all_wait(router, 9)
            answers = [await post_job(router.url) for _ in range(5)]
            assert {(answer.status, answer.worker_url) for answer in answers} == {(200, plain.url)}
            gate.open()
            gpu.script = takes(0.001)
            assert {answer.worker_url for answer in await asyncio.gather(*jobs)} == {gpu.url}


async def test_languages_count_where_workers_list_them(system: System, workers: list[ScriptedWorker]) -> None:
    """A job goes to a worker that lists its language, or that lists none at all."""
    python, cpp, _ = workers
    system.configure([{"url": python.url, "languages": ["python"]}, {"url": cpp.url, "languages": ["cpp", "go"]}])
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=2)
        for language, wanted in (("python", python), ("cpp", cpp), ("go", cpp)):
            answers = [await post_job(router.url, language=language) for _ in range(4)]
            assert {answer.worker_url for answer in answers} == {wanted.url}
        refused = await post_job(router.url, language="scala")
        assert refused.status == 503
        assert "scala" in refused.body["detail"]


async def test_memory_of_a_worker_is_never_passed(system: System, worker: ScriptedWorker) -> None:
    """The jobs on a worker never ask for more than its memory together; a job larger than all workers gets 422."""
    used = most = 0

    async def counted(exchange: Exchange) -> None:
        nonlocal used, most
        size = int(re.search(rb'"memory_limit_MB": (\d+)', exchange.request.body)[1])  # type: ignore[index]
        used += size
        most = max(most, used)
        await asyncio.sleep(0.02)
        used -= size
        await exchange.answer()

    worker.script = counted
    system.configure([{"url": worker.url, "max_concurrency": 16, "memory_mb": 1000}])
    async with system.sidecar(), system.router(3) as router:
        await router.sees(healthy=1)
        sizes: Sequence[int] = [100, 400, 900, 250] * 10
        answers = await asyncio.gather(*(post_job(router.url, memory_limit_MB=size) for size in sizes))
        assert {answer.status for answer in answers} == {200}
        assert 900 <= most <= 1000
        assert (await post_job(router.url, memory_limit_MB=1001)).status == 422


async def test_large_job_is_not_starved_by_small_ones(system: System, worker: ScriptedWorker, turns: Turns) -> None:
    """A job that waits for memory gets it although small jobs would always fit."""
    system.configure([{"url": worker.url, "max_concurrency": 8, "memory_mb": 1000}])
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=1)
        async with sending(router, "small", 30, memory_limit_MB=250):
            await all_wait(router, 26)
            async with sending(router, "large", 1, memory_limit_MB=900) as (large,):
                await all_wait(router, 27)
                turns.end_oldest()  # the oldest small one has waited for this memory already
                await eventually(lambda: len(turns.tenants) == 5, what="one more small job")
                for _ in range(4):
                    turns.end_oldest()
                await eventually(lambda: turns.running["large"] == 1, what="the large job on the worker")
                assert turns.tenants == ["small"] * 5 + ["large"]
                turns.end_all()
                assert (await large).status == 200
