"""A fleet of unlike workers: real code runs where it can, and one pool's loss is no other's."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.load import JOB, post_job
from tests.support.programs import Program, Router, System, Valkey
from tests.support.worker import Gate, ScriptedWorker

PRINT = {"python": "print(6 * 7)", "bash": "echo $((6 * 7))"}


@asynccontextmanager
async def local_worker(system: System) -> AsyncIterator[str]:
    """Run a worker that runs real code; yield its URL."""
    port = free_port()
    argv = [sys.executable, "-m", "router.cli", "local-worker", "--port", str(port)]
    async with Program(argv, system._log("worker")):
        yield f"http://127.0.0.1:{port}"


async def post(url: str, labels: str = "", **more: Any) -> tuple[int, Any]:
    """Send one job; return status and body of its answer."""
    headers = {"x-router-labels": labels} if labels else {}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/run_code", json={**JOB, **more}, headers=headers) as response,
    ):
        return response.status, await response.json()


async def test_code_runs_on_workers_of_its_language_labels_and_size(system: System) -> None:
    """Jobs one by one, in a batch and with labels; what no worker can run is named at once."""
    async with local_worker(system) as first, local_worker(system) as second:
        system.configure(
            [
                {"url": first, "languages": ["python"], "labels": ["a"], "memory_mb": 2000},
                {"url": second, "languages": ["bash", "cpp"], "labels": ["a", "b"], "memory_mb": 4000},
            ],
            default_job_memory_mb=1000,
            default_max_concurrency=4,
        )
        async with system.sidecar(), system.router(2) as router:
            await router.sees(healthy=2)
            for language, worker in (("python", first), ("bash", second)):
                answers = [await post_job(router.url, language=language, code=PRINT[language]) for _ in range(4)]
                assert {answer.worker_url for answer in answers} == {worker}
                assert {answer.body["run_result"]["stdout"] for answer in answers} == {"42\n"}
            await _batch_is_spread(router, {"python": first, "bash": second})
            assert (await post(router.url, "b", language="bash"))[1]["router_metadata"]["worker_url"] == second


async def test_job_that_no_worker_can_run_is_named_at_once(system: System, workers: list[ScriptedWorker]) -> None:
    """A label, a language or both that no worker has; more memory than the largest worker; labels that are no names."""
    first, second, _ = workers
    system.configure(
        [
            {"url": first.url, "languages": ["python"], "labels": ["a"], "memory_mb": 2000},
            {"url": second.url, "languages": ["bash", "cpp"], "labels": ["a", "b"], "memory_mb": 4000},
        ],
        queue={"without_workers": 300},
    )
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=2)
        for _ in range(2):  # by both processes
            refused = [
                await post(router.url, language="scala"),
                await post(router.url, "b", language="python"),
                await post(router.url, "tpu"),
                await post(router.url, memory_limit_MB=2001),
                await post(router.url, "a,,b"),
            ]
            assert [(status, body["detail"]) for status, body in refused] == [
                (503, "No worker runs the language scala"),
                (503, "No worker has the label b and runs the language python"),
                (503, "No worker has the label tpu"),
                (422, "The job takes 2001 MB of memory; the largest worker that could run it has 2000 MB"),
                (400, "x-router-labels: expected names with commas between, such as gpu,ib; got ''"),
            ]
    assert not any(worker.jobs for worker in workers)


async def _batch_is_spread(router: Router, worker_of: dict[str, str]) -> None:
    """Each line of a batch goes by its own language."""
    jobs = [{"language": language, "code": code} for language, code in PRINT.items()] * 5
    body = "".join(f"{json.dumps(job)}\n" for job in jobs)
    async with aiohttp.ClientSession() as session, session.post(f"{router.url}/run_code/batch", data=body) as response:
        lines = [json.loads(line) for line in (await response.read()).splitlines()]
    told = {line["index"]: line["body"]["router_metadata"]["worker_url"] for line in lines}
    assert [told[index] for index in range(len(jobs))] == [worker_of[job["language"]] for job in jobs]


async def test_pool_without_workers_refuses_its_jobs_while_others_go_on(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """The jobs wait for queue.without_workers; when the worker is back, they run again."""
    plain, gpu, _ = workers
    system.configure(
        [plain.url, {"url": gpu.url, "labels": ["gpu"]}],
        queue={"without_workers": 0.2},
        health_check_interval=0.2,
        health_check={"fall": 1},
    )
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=2)
        assert (await post(router.url, "gpu"))[0] == 200
        await gpu.die()
        await router.sees(healthy=1)
        for _ in range(4):  # by both processes
            assert (await post(router.url, "gpu")) == (503, {"detail": "No healthy workers available"})
            assert (await post(router.url))[0] == 200
        await gpu.listen()
        await router.sees(healthy=2)

        async def runs_again() -> bool:
            return (await post(router.url, "gpu"))[0] == 200

        await eventually(runs_again, what="a job on the worker that is back")


async def test_pending_jobs_follow_a_change_of_what_workers_run(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """A worker that is limited to another language while Python jobs wait gets none of these."""
    first, second, _ = workers
    first.script = second.script = gate = Gate()
    system.configure([first.url, second.url], default_max_concurrency=1)
    async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=2)
        sent = [asyncio.create_task(post(router.url)) for _ in range(2)]
        await eventually(lambda: first.running == second.running == 1, what="a job on each worker")
        sent += [asyncio.create_task(post(router.url)) for _ in range(6)]
        await eventually(lambda: redis.zcard("sfr:queue"), what="pending jobs")
        system.configure([first.url, {"url": second.url, "languages": ["cpp"]}], default_max_concurrency=1)

        async def have_moved() -> bool:
            return await redis.zcard("sfr:queue") == 0 and await redis.zcard("sfr:queue:;python/default") == 6

        await eventually(have_moved, what="all pending jobs in the line for Python")
        gate.open()
        assert [status for status, _ in await asyncio.gather(*sent)] == [200] * 8
        assert (len(first.jobs), len(second.jobs)) == (7, 1)
