"""Workers that come and go with the load, as an autoscaler starts and ends their pods."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from router.processes import free_port
from tests.project.test_autoscale import OPTIONS, SANDBOX
from tests.support.eventually import eventually
from tests.support.programs import Program, Router, System
from tests.support.scrape import scrape
from tests.system.test_agent import LOCAL, LOCAL_WORKER, TOKEN, fleet, load

SLOTS = 2


class Pod:
    """A worker's pod: its two containers, which share a folder, and the preStop hook of the manifest."""

    def __init__(self, system: System, router: Router, folder: Path) -> None:
        port = free_port()
        self.worker = f"http://127.0.0.1:{port}"
        mark = folder / f"in-fleet-{port}"
        self._hook = [
            word.replace(OPTIONS["mark"], str(mark)) for word in SANDBOX["lifecycle"]["preStop"]["exec"]["command"]
        ]
        agent = [sys.executable, "-m", "router.cli", "agent", "--url", self.worker, "--router", router.url]
        agent += ["--mark", str(mark), "--max-concurrency", str(SLOTS)]
        self.agent = Program(agent, system._log("agent"), {**system.env, "ADMIN_TOKEN": TOKEN})
        self._sandbox = Program([word.replace("{port}", str(port)) for word in LOCAL_WORKER], system._log("sandbox"))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run both containers."""
        async with self.agent, self._sandbox:
            yield

    async def delete(self) -> None:
        """End the pod as Kubernetes does: all containers are told at once, one with a preStop hook after that."""
        hook = await asyncio.create_subprocess_exec(*self._hook, stdin=subprocess.DEVNULL)
        self.agent.send(signal.SIGTERM)
        assert await hook.wait() == 0
        self._sandbox.send(signal.SIGTERM)
        await self._sandbox.ended()
        assert await self.agent.ended() == 0


async def scaling(router: Router) -> dict[str, float]:
    """Return what the router says that the fleet needs."""
    async with aiohttp.ClientSession() as session, session.get(f"{router.url}/admin/scaling") as response:
        needs: dict[str, float] = await response.json()
        return needs


async def test_pods_that_come_and_go_under_load_lose_no_job(system: System, tmp_path: Path) -> None:
    """Each job gets its answer at its first attempt; the wanted slots grow with what waits, and fall again."""
    system.configure([], admin=LOCAL, scaling={"target_wait": 0.1})
    system.env["ADMIN_TOKEN"] = TOKEN
    async with system.sidecar(), system.router(2) as router, AsyncExitStack() as pods:

        async def new_pod() -> Pod:
            pod = Pod(system, router, tmp_path)
            await pods.enter_async_context(pod.running())
            await eventually(lambda: _is_in(router, pod, "healthy"), what="a healthy worker")
            return pod

        old = await new_pod()
        assert (await scaling(router))["wanted_slots"] == 0
        async with load(router, 4 * SLOTS) as client:
            await eventually(lambda: _wants(router, at_least=2 * SLOTS), what="more slots than there are")
            assert (await scaling(router))["slots"] == SLOTS
            gauges = (await scrape(router.url)).values("sfr_scaling_wanted_slots")
            assert list(gauges) == [("",)]
            assert gauges["",] > SLOTS
            new = await new_pod()
            await eventually(lambda: new.worker in client.by, what="jobs on the new worker")
            await old.delete()
            assert old.worker not in await fleet(router)
            seen = len(client.by)
            await eventually(lambda: len(client.by) > seen + 4 * SLOTS, what="jobs without the old worker")
        assert (client.wrong, client.attempts) == ([], {1})
        await eventually(lambda: _wants(router, at_most=0), what="an idle fleet")


async def _is_in(router: Router, pod: Pod, health: str) -> bool:
    return (await fleet(router)).get(pod.worker, {}).get("health") == health


async def _wants(router: Router, at_least: float = 0, at_most: float = float("inf")) -> bool:
    return at_least <= (await scaling(router))["wanted_slots"] <= at_most
