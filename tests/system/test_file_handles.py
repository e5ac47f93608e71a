"""File handles: each program takes as many as it may have, and says so where they run out."""

import shlex
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.load import post_jobs
from tests.support.programs import Program, Router, System, children_of
from tests.support.worker import ScriptedWorker

SHORT = "this process has used its {} file handles"


def limited(argv: list[str], limit: str) -> list[str]:
    """Return the command with a limit of file handles, as `ulimit` in a shell sets it."""
    return ["bash", "-c", f"ulimit {limit} && exec {shlex.join(argv)}"]


def limits(pid: int) -> tuple[str, str]:
    """Return how many files a process may open: as it stands, and at most."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (words,) = (line.split() for line in lines if line.startswith("Max open files"))
    return words[3], words[4]


@pytest.mark.parametrize("program", ["gunicorn", "uvicorn", "sidecar"])
async def test_soft_limit_of_a_shell_is_raised_to_the_hard_one(system: System, tmp_path: Path, program: str) -> None:
    """1024 handles would be 500 jobs; those who may have more take them, the master and its processes."""
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
        # uvicorn's own supervisor runs no code of ours; nor does the process that counts Python's shared resources.
        ours = [pid for pid in children if "resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_text()]
        for pid in ours if program == "uvicorn" else [started.pid, *ours]:
            soft, hard = limits(pid)
            assert soft == hard != "200"


async def test_clients_without_a_handle_are_said_once_and_served_when_there_are_some(
    system: System, workers: list[ScriptedWorker], tmp_path: Path
) -> None:
    """More connections than handles: one line with the limit, one when it is over, and all goes on."""
    system.configure([worker.url for worker in workers])
    router = Router(tmp_path / "log", system.env, 1)
    router.limit_files(90)
    async with system.sidecar(), router:
        await router.sees(healthy=3)
        for round_ in (1, 2):
            with ExitStack() as clients:
                for _ in range(150):
                    clients.enter_context(socket.create_connection(("127.0.0.1", router.port)))
                await eventually(lambda n=round_: router.output.count(SHORT.format(90)) == n, what="a line on it")  # type: ignore[misc]
            await eventually(lambda n=round_: router.output.count("file handles again") == n, what="its end")  # type: ignore[misc]
            assert router.output.count(SHORT.format(90)) == round_
        answers = await post_jobs(router.url, 40, 4, keep_alive=False)
        assert {answer.status for answer in answers} == {200}
