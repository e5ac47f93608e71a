"""Each program raises its limit of file handles, and logs when it has none left."""

import asyncio
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.load import post_batch, post_jobs
from tests.support.programs import Program, System, Valkey, children_of
from tests.support.strict import connected, outcome, strict_load
from tests.support.worker import Gate, ScriptedWorker, takes

WAITS = "Clients wait: this process has {}, as many as its file handles allow"
SHORT = "this process has used its {} file handles"


def limited(argv: list[str], limit: str) -> list[str]:
    """Return the command under a limit of file handles, as `ulimit` in a shell sets it."""
    return ["bash", "-c", f"ulimit {limit} && exec {shlex.join(argv)}"]


def limits(pid: int) -> tuple[str, str]:
    """Return a process' soft and hard limit of open files."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (words,) = (line.split() for line in lines if line.startswith("Max open files"))
    return words[3], words[4]


@pytest.mark.parametrize("program", ["gunicorn", "uvicorn", "sidecar"])
async def test_soft_limit_of_a_shell_is_raised_to_the_hard_one(system: System, tmp_path: Path, program: str) -> None:
    """Master and processes raise the soft limit of open files to the hard one."""
    system.configure([])
    port = str(free_port())
    uvicorn = ["router:app", "--http", "router.downstream:ClientConnection", "--port", port, "--workers", "2"]
    options = {"gunicorn": ["-c", "gunicorn.conf.py", "-b", f"127.0.0.1:{port}", "-w", "2"], "uvicorn": uvicorn}
    argv = [sys.executable, "-m", program, *options.get(program, [])]
    async with Program(limited(argv, "-Sn 200"), tmp_path / "log", system.env) as started:
        ready = "leads" if program == "sidecar" else "startup complete"
        count = 1 if program == "sidecar" else 2
        await eventually(lambda: started.output.count(ready) >= count, 30, f"its start\n{started.output}")
        children = children_of(started.pid)
        # Neither uvicorn's supervisor nor Python's resource tracker runs our code.
        ours = [pid for pid in children if "resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_text()]
        for pid in ours if program == "uvicorn" else [started.pid, *ours]:
            soft, hard = limits(pid)
            assert soft == hard != "200"


async def test_uvicorn_logs_once_that_handles_are_used_up_and_recovers(
    system: System, workers: list[ScriptedWorker], tmp_path: Path
) -> None:
    """Too many clients wait. Too many jobs on workers cause one line, and one more when the shortage is over."""
    system.configure([worker.url for worker in workers], batch={"max_in_flight": 100})
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "uvicorn", "router:app", "--http", "router.downstream:ClientConnection"]
    router = Program(limited([*argv, "--port", str(port)], "-n 90"), tmp_path / "log", system.env)
    async with system.sidecar(), router:
        await eventually(lambda: "Uvicorn running" in router.output, 30, "its start")
        with silent(port, 150):
            await eventually(lambda: WAITS.format(21) in router.output, what="clients that wait")
        for round_ in (1, 2):
            gate = Gate()
            for worker in workers:
                worker.script = gate
            batch = asyncio.create_task(post_batch(url, 100))
            await eventually(lambda n=round_: router.output.count(SHORT.format(90)) == n, what="one line")  # type: ignore[misc]
            gate.open()
            assert [line["status"] for line in await batch] == [200] * 100
            await eventually(lambda n=round_: router.output.count("file handles again") == n, what="its end")  # type: ignore[misc]
            assert router.output.count(SHORT.format(90)) == round_
        answers = await post_jobs(url, 40, 4, keep_alive=False)
        assert {answer.status for answer in answers} == {200}


@contextmanager
def silent(port: int, count: int) -> Iterator[None]:
    """Hold `count` connections that send nothing."""
    with ExitStack() as clients:
        for _ in range(count):
            clients.enter_context(socket.create_connection(("127.0.0.1", port)))
        yield


@pytest.mark.parametrize("keep_alive", [False, True], ids=["new connections", "kept connections"])
async def test_more_clients_than_file_handles_are_all_answered(
    system: System, workers: list[ScriptedWorker], valkey: Valkey, keep_alive: bool
) -> None:
    """More clients than file handles wait for their answers; no worker is blamed, and each process logs it once."""
    for worker in workers:
        worker.script = takes(0.05)
    system.configure([worker.url for worker in workers])
    router = system.router(2)
    router.limit_files(256)
    async with system.sidecar(), router, valkey.client() as redis:
        await router.sees(healthy=3)
        answers = await post_jobs(router.url, 1400, 700, keep_alive=keep_alive)
        assert {answer.status for answer in answers} == {200}
        assert {answer.body["router_metadata"]["attempt"] for answer in answers} == {1}
        assert not await redis.keys("sfr:breaker:*")
        assert not await redis.exists("sfr:ejected")
        assert router.output.count(WAITS.format(104)) == 2
        await eventually(lambda: router.output.count("wait no longer") == 2, what="the end of the wait")


async def test_kept_connections_are_closed_for_clients_that_wait(system: System, workers: list[ScriptedWorker]) -> None:
    """Busy connections close after their next answer and silent ones in time, but a running batch goes on."""
    gate = Gate()
    system.configure([worker.url for worker in workers], client_body_timeout=2)
    router = system.router(1)
    router.limit_files(90)
    async with system.sidecar(), router, strict_load(router.port, 15, keeps=True) as counts:
        await router.sees(healthy=3)
        for worker in workers:
            worker.script = gate
        batch = asyncio.create_task(post_batch(router.url, 6))
        await eventually(lambda: sum(len(worker.jobs) for worker in workers) > 0, what="jobs on workers")
        with silent(router.port, 60):
            gate.open()
            answers = await post_jobs(router.url, 60, 60)
        assert {answer.status for answer in answers} == {200}
        assert [line["status"] for line in await batch] == [200] * 6
    assert counts.last > 0
    assert counts.lost == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_clients_that_wait_for_handles_are_served_by_a_process_that_ends(
    system: System, workers: list[ScriptedWorker], number: signal.Signals
) -> None:
    """Clients that wait for a file handle of a stopping process are answered, not reset."""
    for worker in workers:
        worker.script = takes(0.5)
    system.configure([worker.url for worker in workers])
    router = system.router(1)
    router.limit_files(90)
    async with system.sidecar(), router:
        await router.sees(healthy=3)
        clients = [await connected(router.port) for _ in range(60)]
        told = [asyncio.create_task(outcome(client)) for client in clients]
        await eventually(lambda: any(worker.running for worker in workers), what="the first jobs")
        router.send(number)
        assert await asyncio.gather(*told) == ["answered"] * 60
        assert WAITS.format(21) in router.output
        await eventually(lambda: "Shutting down" in router.output, what="the stop")
        if number == signal.SIGTERM:
            assert await router.ended() == 0
