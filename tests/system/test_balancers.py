"""nginx and HAProxy before two routers, with the files in deploy/: stopping one router loses no job."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

import aiohttp
import pytest

from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.load import post_job, post_jobs
from tests.support.programs import ROOT, Program, System, get_json, program
from tests.support.worker import Gate, ScriptedWorker


@dataclass(frozen=True)
class Balancer:
    """A program, its file in deploy/, and the command that runs it in the foreground with that file and a folder."""

    name: str
    file: str
    listens: str
    argv: Callable[[Path, Path], Sequence[str]]


NGINX = Balancer(
    "nginx",
    "nginx/nginx.conf",
    "listen {port} ",
    lambda file, folder: ("-p", str(folder), "-c", str(file), "-e", "stderr", "-g", f"daemon off; pid {folder}/pid;"),
)
HAPROXY = Balancer("haproxy", "haproxy/haproxy.cfg", "bind :{port}", lambda file, _: ("-db", "-f", str(file)))


def _configured(balancer: Balancer, folder: Path, port: int, routers: Sequence[int]) -> Path:
    """Write the file from deploy/ with this test's ports in place of its own."""
    text = (ROOT / "deploy" / balancer.file).read_text()
    changes = {balancer.listens.format(port=8000): balancer.listens.format(port=port)}
    changes |= {f"192.0.2.1{number}:8000": f"127.0.0.1:{router}" for number, router in enumerate(routers, start=1)}
    for before, after in changes.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    file = folder / Path(balancer.file).name
    file.write_text(text)
    return file


@pytest.mark.parametrize("balancer", [NGINX, HAPROXY], ids=lambda balancer: balancer.name)
async def test_stopping_one_router_loses_no_job(system: System, balancer: Balancer) -> None:
    """Jobs that run when one router is told to stop are answered, and all later jobs go to the other router."""
    path, port, gate = program(balancer.name), free_port(), Gate()
    url = f"http://127.0.0.1:{port}"
    async with ScriptedWorker(gate) as worker:
        system.configure([worker.url])
        async with system.sidecar(), system.router(1) as stays, system.router(1) as goes:
            await goes.sees(healthy=1)
            file = _configured(balancer, system.folder, port, (stays.port, goes.port))
            argv = [path, *balancer.argv(file, system.folder)]
            async with Program(argv, system.folder / "balancer.log") as running:
                await eventually(lambda: _answers(url, running), what="the balancer's answer")
                jobs = asyncio.gather(*(post_job(url) for _ in range(8)))
                await eventually(lambda: worker.running == 8, what="eight jobs on the worker")
                goes.send(SIGTERM)
                await eventually(lambda: "Handling signal: term" in goes.output, what="the start of its stop")
                assert goes.status is None
                gate.open()
                assert [answer.status for answer in await jobs] == [200] * 8
                assert await goes.ended() == 0
                assert [answer.status for answer in await post_jobs(url, 20, at_once=4)] == [200] * 20


async def _answers(url: str, balancer: Program) -> bool:
    assert balancer.status is None, balancer.output
    try:
        return (await get_json(f"{url}/health"))["status"] == "healthy"
    except aiohttp.ClientError:
        return False
