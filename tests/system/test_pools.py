"""A fleet of unlike workers, on real processes."""

from typing import Any

import aiohttp

from tests.support.load import JOB
from tests.support.programs import System
from tests.support.worker import ScriptedWorker


async def post(url: str, labels: str = "", **more: Any) -> tuple[int, Any]:
    """Send one job; return status and body of its answer."""
    headers = {"x-router-labels": labels} if labels else {}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/run_code", json={**JOB, **more}, headers=headers) as response,
    ):
        return response.status, await response.json()


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
