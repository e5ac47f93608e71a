"""gunicorn, uvicorn and the sidecar as an operator starts them, also with a bad configuration."""

import asyncio
import json
import os
import signal
import sys
from datetime import datetime
from pathlib import Path

import pytest

from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.load import post_jobs
from tests.support.programs import Program, System
from tests.support.worker import ScriptedWorker

GUNICORN = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
UVICORN = [sys.executable, "-m", "uvicorn", "router:app", "--http", "router.downstream:ClientConnection"]
SIDECAR = [sys.executable, "-m", "sidecar"]


@pytest.mark.parametrize("processes", [1, 3])
async def test_uvicorn_serves_without_gunicorn(
    system: System, workers: list[ScriptedWorker], tmp_path: Path, processes: int
) -> None:
    """`uvicorn router:app` runs jobs, announces the workers once, and ends in order."""
    system.configure([worker.url for worker in workers])
    port = free_port()
    argv = [*UVICORN, "--port", str(port), "--workers", str(processes)]
    async with Program(argv, tmp_path / "uvicorn.log", system.env) as server:
        await eventually(lambda: server.output.count("startup complete") == processes, 30, "uvicorn's start")
        await eventually(lambda: "Uvicorn running" in server.output, what="its socket")
        answers = await post_jobs(f"http://127.0.0.1:{port}", 30, 5)
        assert {answer.status for answer in answers} == {200}
        assert server.output.count("Router started with 3 workers:") == 1


async def test_gunicorn_announces_the_workers_once_per_start(system: System, workers: list[ScriptedWorker]) -> None:
    """Four processes make one announcement, on lines with a level and a time with its zone."""
    system.configure([worker.url for worker in workers])
    async with system.router(4) as router:
        lines = router.output.splitlines()
    (place,) = [place for place, line in enumerate(lines) if line.endswith("INFO Router started with 3 workers:")]
    assert [line.split()[-1] for line in lines[place + 1 : place + 4]] == [worker.url for worker in workers]
    assert datetime.fromisoformat(lines[place].split()[0]).tzinfo


async def test_log_format_json_gives_json_lines(system: System, workers: list[ScriptedWorker]) -> None:
    """Every line of router and sidecar is a JSON object with time, level, logger and message."""
    system.configure([worker.url for worker in workers])
    system.env["LOG_FORMAT"] = "json"
    async with system.sidecar() as sidecar, system.router(1) as router:
        await router.sees(healthy=3)
        lines = [json.loads(line) for line in (router.output + sidecar.output).splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in lines)
    assert any(line["message"] == f"Worker {workers[0].url} is healthy" for line in lines)


@pytest.mark.parametrize("argv", [GUNICORN, UVICORN, [*UVICORN, "--workers", "2"], SIDECAR], ids=lambda argv: argv[2])
async def test_bad_configuration_ends_with_one_message_and_status_2(tmp_path: Path, argv: list[str]) -> None:
    """Each program names the file, the key and the expected value, without a traceback."""
    config = tmp_path / "bad.yaml"
    config.write_text("timeout: never")
    async with Program(argv, tmp_path / "log", {"ROUTER_CONFIG": str(config), "PORT": "0"}) as program:
        status = await program.ended(30)
    assert f"configuration error: {config}: timeout: expected a valid number, got 'never'" in program.output
    assert "Traceback" not in program.output
    # uvicorn's supervisor ends with its own status when its workers cannot start.
    assert status == 2 or "--workers" in argv


async def test_gunicorn_conf_binds_all_addresses_and_covers_the_longest_job(system: System) -> None:
    """The defaults are those in the docs; `-b` and WEB_CONCURRENCY override them."""
    system.configure([], timeout=7)
    checked = await asyncio.create_subprocess_exec(
        *GUNICORN, "--print-config", env={**system.env, "WEB_CONCURRENCY": "3"}, stdout=asyncio.subprocess.PIPE
    )
    output = (await checked.communicate())[0].decode()
    shown = dict(line.split("=", 1) for line in output.replace(" ", "").splitlines() if "=" in line)
    assert shown["bind"] == "['0.0.0.0:8000']"
    assert (shown["workers"], shown["wsgi_app"]) == ("3", "router:app")
    assert int(shown["graceful_timeout"]) > 7


async def test_router_process_does_not_outlive_a_killed_master(system: System) -> None:
    """SIGKILL to gunicorn's master also ends its router processes."""
    system.configure([])
    async with system.router(2) as router:
        children = router.children()
        os.kill(router.pid, signal.SIGKILL)
        await router.ended()
        await eventually(lambda: not any(Path(f"/proc/{child}").exists() for child in children), what="their end")
