"""Round robin is exact over all processes, because they share one counter and one ring."""

import asyncio
import os
import signal
from collections import Counter

import pytest

from tests.support.eventually import eventually
from tests.support.load import post_jobs
from tests.support.programs import System, Valkey
from tests.support.worker import ScriptedWorker


async def test_600_jobs_over_3_workers_land_200_each(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Four processes that share the counter give each worker exactly the same number of jobs."""
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(processes=4) as router:
        await router.sees(healthy=3)
        answers = await post_jobs(router.url, 600, 40)
    assert Counter(answer.status for answer in answers) == {200: 600}
    assert [len(worker.jobs) for worker in workers] == [200, 200, 200]
    assert Counter(answer.worker_url for answer in answers) == {worker.url: 200 for worker in workers}
    async with valkey.client() as redis:
        assert await redis.get("sfr:ticket") == "600"


async def test_weights_3_to_1_land_450_to_150(system: System, workers: list[ScriptedWorker]) -> None:
    """A worker of weight 3 gets three times the jobs of a worker of weight 1."""
    heavy, light, _ = workers
    system.configure([{"url": heavy.url, "weight": 3}, light.url])
    async with system.sidecar(), system.router(processes=4) as router:
        await router.sees(healthy=2)
        await post_jobs(router.url, 600, 40)
    assert (len(heavy.jobs), len(light.jobs)) == (450, 150)


async def test_two_hosts_share_one_counter(system: System, workers: list[ScriptedWorker]) -> None:
    """Two gunicorns, as on two hosts, spread jobs as evenly as one."""
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(2) as one, system.router(2) as other:
        await one.sees(healthy=3)
        await other.sees(healthy=3)
        await post_jobs(one.url, 200, 20)
        await post_jobs(other.url, 100, 20)
    assert [len(worker.jobs) for worker in workers] == [100, 100, 100]


@pytest.mark.parametrize("strategy", ["random", "least_loaded"])
async def test_other_strategies_reach_all_workers(system: System, workers: list[ScriptedWorker], strategy: str) -> None:
    """The other strategies use all workers, without round robin's exactness."""
    system.configure([worker.url for worker in workers], routing_strategy=strategy)
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        await post_jobs(router.url, 300, 20)
    counts = [len(worker.jobs) for worker in workers]
    assert sum(counts) == 300
    assert min(counts) > 50  # 100 are expected; 50 or fewer happen once in 10^9 runs


async def test_clients_of_two_processes_are_served_while_one_is_stopped(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """A stopped process delays new clients only for a moment, and a killed one is replaced."""
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        stopped, _ = router.children()
        os.kill(stopped, signal.SIGSTOP)
        # Jobs on connections that the stopped process had accepted get no answer; each job here has a new connection.
        answers = await asyncio.gather(*(post_jobs(router.url, 1, 1) for _ in range(60)))
        assert all(answer.status == 200 for (answer,) in answers)
        os.kill(stopped, signal.SIGKILL)
        await eventually(lambda: len(router.children()) == 2 and stopped not in router.children(), what="a new process")
        assert {answer.status for answer in await post_jobs(router.url, 100, 20)} == {200}
