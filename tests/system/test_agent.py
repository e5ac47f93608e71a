"""`sfr agent` as Slurm runs it: real gunicorn, sidecar, Valkey, workers that run real code, and signals."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.programs import Program, Router, System, Valkey, children_of

TOKEN = "a-token"
LOCAL = {"allowed_workers": ["127.0.0.1"]}
# A worker that answers pings, and ends with status 7 at GET /end.
PONG = """
import http.server, os, sys
class Pong(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end":
            os._exit(7)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"pong")
print("token:", os.environ.get("ADMIN_TOKEN"), flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Pong).serve_forever()
"""


class Agent(Program):
    """An agent and a worker's command on a free port; `{port}` in the command stands for that port."""

    def __init__(
        self,
        system: System,
        routers: Sequence[str],
        command: Sequence[str],
        *options: str,
        port: int | None = None,
        token: str = TOKEN,
    ) -> None:
        self.port = port or free_port()
        self.worker = f"http://127.0.0.1:{self.port}"
        argv = [sys.executable, "-m", "router.cli", "agent", "--url", self.worker, *options]
        argv += [word for url in routers for word in ("--router", url)]
        argv += ["--", *(word.replace("{port}", str(self.port)) for word in command)]
        super().__init__(argv, system._log("agent"), {**system.env, "ADMIN_TOKEN": token})


LOCAL_WORKER = (sys.executable, "-m", "router.cli", "local-worker", "--port", "{port}")
PONG_WORKER = (sys.executable, "-c", PONG, "{port}")


class Client:
    """Sends jobs without a pause until it is told to stop; each job expects a different answer."""

    def __init__(self) -> None:
        self.wrong: list[object] = []
        self.by: list[str] = []
        self.attempts: set[int] = set()

    async def send(self, session: aiohttp.ClientSession, router: Router, number: int, seconds: float = 0.2) -> None:
        """Send one job that takes `seconds`, and check its answer."""
        code = f"import time; time.sleep({seconds}); print({number} * 3)"
        async with session.post(f"{router.url}/run_code", json={"code": code, "language": "python"}) as response:
            body = await response.json()
        if response.status != 200 or body["run_result"]["stdout"] != f"{number * 3}\n":
            self.wrong.append(body)
        else:
            self.by.append(body["router_metadata"]["worker_url"])
            self.attempts.add(body["router_metadata"]["attempt"])


@asynccontextmanager
async def load(router: Router, at_once: int) -> AsyncIterator[Client]:
    """Keep `at_once` jobs under way; when the block is left, every job has its answer."""
    client, is_over = Client(), asyncio.Event()

    async def go(session: aiohttp.ClientSession, first: int) -> None:
        number = first
        while not is_over.is_set():
            await client.send(session, router, number)
            number += at_once

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for first in range(at_once):
            tasks.create_task(go(session, first))
        try:
            yield client
        finally:
            is_over.set()


async def fleet(router: Router) -> dict[str, dict[str, object]]:
    """Return the workers that the router's admin API shows, by URL."""
    async with aiohttp.ClientSession() as session, session.get(f"{router.url}/admin/workers") as response:
        return {worker["url"]: worker for worker in await response.json()}


async def test_agent_stopped_under_load_loses_no_job_and_can_return(system: System) -> None:
    """Every job gets the right answer at its first attempt; the worker leaves, and returns without its drain."""
    system.configure([], admin=LOCAL)
    system.env["ADMIN_TOKEN"] = TOKEN
    async with system.sidecar(), system.router(2) as router:
        labels = "--label", "ib", "--label", "gpu", "--language", "python", "--memory-mb", "64000"
        first = Agent(system, [router.url], LOCAL_WORKER, "--max-concurrency", "2", "--weight", "2", *labels)
        second = Agent(system, [router.url, router.url + "/"], LOCAL_WORKER, "--max-concurrency", "auto")
        async with first, second:
            await router.sees(healthy=2)
            shown = (await fleet(router))[first.worker]
            assert (shown["source"], shown["weight"], shown["max_concurrency"]) == ("registered", 2, 2)
            assert (shown["labels"], shown["languages"], shown["memory_mb"]) == (["gpu", "ib"], ["python"], 64_000)
            assert re.search(r"--max-concurrency auto: (\d+) jobs at once \(CPUs: ", second.output)
            async with load(router, 8) as client:
                await eventually(lambda: client.by.count(first.worker) > 5, what="jobs on the first worker")
                first.send(signal.SIGTERM)
                # uvicorn ends itself by the signal that stopped it.
                assert await first.ended() == 128 + signal.SIGTERM
                assert first.worker not in await fleet(router)
                seen = len(client.by)
                await eventually(lambda: len(client.by) > seen + 10, what="jobs on the other worker")
                assert set(client.by[seen + 8 :]) == {second.worker}
                await first.start()
                await eventually(lambda: first.worker in client.by[seen + 8 :], what="jobs on the returned worker")
            assert (client.wrong, client.attempts) == ([], {1})
            assert re.search(r"is drained by .*, [12] running", first.output)
            assert second.output.count("is registered with") == 1  # both URLs name the same router
            assert TOKEN not in first.output


async def test_agent_outlives_an_absent_router_and_an_emptied_redis(system: System, valkey: Valkey) -> None:
    """The agent waits for its router, registers again in an emptied Redis, and its worker leaves when it is killed."""
    system.configure([], admin=LOCAL)
    system.env["ADMIN_TOKEN"] = TOKEN
    router = system.router(1)
    nowhere = f"http://127.0.0.1:{free_port()}"
    agent = Agent(system, [nowhere, router.url], PONG_WORKER, "--ttl", "2")
    async with agent:
        await eventually(lambda: f"{router.url} cannot be reached" in agent.output, what="a message on the router")
        assert agent.status is None
        async with router, system.sidecar() as sidecar:
            await router.sees(healthy=1)
            assert "token: None" in agent.output
            await sidecar.kill()
            async with valkey.client() as redis, system.sidecar():
                await redis.flushall()
                await eventually(lambda: redis.sismember("sfr:workers", agent.worker), what="the second registration")
                (command,) = agent.children()
                agent.send(signal.SIGKILL)
                await eventually(lambda: not Path(f"/proc/{command}").exists(), what="the command's end")
                await eventually(lambda: _is_gone(router, agent.worker), what="the worker's removal")


async def _is_gone(router: Router, worker: str) -> bool:
    return worker not in await fleet(router)


async def test_agent_ends_with_its_command_s_status(system: System, valkey: Valkey) -> None:
    """The agent's exit status is its command's, the worker leaves at once, and a successor starts without a drain."""
    system.configure([], admin=LOCAL)
    system.env["ADMIN_TOKEN"] = TOKEN
    async with system.sidecar(), system.router(1) as router:
        await _crashes(system, router)
        await _is_killed(system, router)
        await _does_not_wait_for_ever(system, router, valkey)
        for words, status in (
            (("bash", "-c", "kill -KILL $$"), 128 + signal.SIGKILL),
            (("/nowhere/worker",), 127),
            ((str(system.config),), 126),
        ):
            async with Agent(system, [router.url], words) as agent:
                assert await agent.ended() == status


async def _crashes(system: System, router: Router) -> None:
    """The command ends by itself and leaves a child in its process group."""
    command = ("bash", "-c", 'sleep 1000 & exec "$@"', "worker", *PONG_WORKER)
    async with Agent(system, [router.url], command) as agent:
        await router.sees(healthy=1)
        (worker,) = agent.children()
        (helper,) = children_of(worker)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"{agent.worker}/end")
        assert await agent.ended() == 7
        assert agent.worker not in await fleet(router)
        assert not Path(f"/proc/{helper}").exists()


async def _is_killed(system: System, router: Router) -> None:
    """Slurm kills agent and command during a drain; the successor's command ignores SIGTERM and is killed."""
    command = ("bash", "-c", 'trap "" TERM; exec "$@"', "worker", *PONG_WORKER)
    async with Agent(system, [router.url], command, "--kill-after", "1") as agent:
        await router.sees(healthy=1)
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {TOKEN}"}) as session:
            drained = await session.post(f"{router.url}/admin/workers/drain?url={agent.worker}")
            assert drained.status == 200
        (worker,) = agent.children()
        agent.send(signal.SIGKILL)
        await agent.ended()
        os.kill(worker, signal.SIGKILL)
        await agent.start()
        await eventually(lambda: agent.output.count("is registered with") == 2, what="its second registration")
        assert (await fleet(router))[agent.worker]["draining"] is False
        agent.send(signal.SIGINT)
        assert await agent.ended() == 128 + signal.SIGKILL
        assert "is killed" in agent.output


async def _does_not_wait_for_ever(system: System, router: Router, valkey: Valkey) -> None:
    """The agent waits for a job that does not end until the grace period is over or a second signal comes."""
    for grace, told in (("1", "Jobs still run after 1 s"), ("100", "SIGTERM again: running jobs are not waited for")):
        async with Agent(system, [router.url], PONG_WORKER, "--grace", grace) as agent, valkey.client() as redis:
            await eventually(lambda agent=agent: "is registered" in agent.output, what="its registration")  # type: ignore[misc]
            await redis.zadd(f"sfr:leases:{agent.worker}", {"somebody:1": 10**13})
            agent.send(signal.SIGTERM)
            await eventually(lambda agent=agent: ", 1 running" in agent.output, what="the drain")  # type: ignore[misc]
            if grace != "1":
                await eventually(lambda agent=agent, told=told: _is_told_again(agent, told), what="its hurry")  # type: ignore[misc]
            assert await agent.ended() == 128 + signal.SIGTERM
            assert told in agent.output


def _is_told_again(agent: Agent, told: str) -> bool:
    """Signal once more, unless the agent has understood that it is to hurry."""
    if told in agent.output:
        return True
    agent.send(signal.SIGTERM)
    return False


async def test_worker_that_no_router_accepts_is_stopped(system: System) -> None:
    """A refused worker, or one whose port is taken, ends with one message and frees its node."""
    system.configure([], admin={"allowed_workers": ["node*"]})
    system.env["ADMIN_TOKEN"] = TOKEN
    async with system.router(1) as router:
        async with Agent(system, [router.url], PONG_WORKER) as agent:
            assert await agent.ended() == 1
            told = f"{agent.worker}: admin.allowed_workers in config.yaml allows no 127.0.0.1"
            assert agent.output.endswith(f"{told}\n")
        async with Agent(system, [router.url], PONG_WORKER, token="another") as agent:
            assert await agent.ended() == 4
            told = f"{router.url} takes another admin token than ADMIN_TOKEN or ADMIN_TOKEN_FILE"
            assert agent.output.endswith(f"{told}\n")
    async with Agent(system, [router.url], PONG_WORKER) as holder:
        await eventually(lambda: "answers\n" in holder.output, what="the first worker's answer")
        async with Agent(system, [router.url], PONG_WORKER, port=holder.port) as second:
            assert await second.ended() == 1
            assert f"something answers at {holder.worker} already" in second.output
