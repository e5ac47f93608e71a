"""gunicorn's master keeps serving through reloads, bad files and processes that cannot start."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.load import post_job, post_jobs, steady_load
from tests.support.programs import ROOT, Program, Router, System, children_of
from tests.support.worker import Gate, ScriptedWorker

NOT_TAKEN_OVER = "Configuration not taken over, the last good one stays in force"
KEY_HASH = "0" * 64

# By name: what spoils a folder with config.yaml, keys.txt and ca.pem, and words of the message about it.
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown key": (lambda folder: append(folder / "config.yaml", "\ntimout: 5\n"), "timout: unknown key"),
    "broken YAML": (lambda folder: append(folder / "config.yaml", "\nqueue: [1,"), "not valid YAML"),
    "deep YAML": (lambda folder: append(folder / "config.yaml", "\nqueue: " + "[" * 3000), "nested too deeply"),
    "no UTF-8": (lambda folder: (folder / "config.yaml").write_bytes(b"# \xe9"), "it is not UTF-8"),
    "no config.yaml": (lambda folder: (folder / "config.yaml").unlink(), "cannot be read: No such file"),
    "no key file": (lambda folder: (folder / "keys.txt").unlink(), "api_keys: "),
    "bad key file": (lambda folder: append(folder / "keys.txt", "\nsecret\n"), "keys.txt:3: expected a key's SHA-256"),
    "no CA": (lambda folder: (folder / "ca.pem").unlink(), "tls.ca: expected a file of PEM certificates"),
    "empty CA": (lambda folder: (folder / "ca.pem").write_text(""), "tls.ca: expected a file of PEM certificates"),
    "no token file": (lambda folder: (folder / "token").unlink(), "ADMIN_TOKEN_FILE: "),
}


def append(file: Path, text: str) -> None:
    """Append the text to the file."""
    file.write_text(file.read_text() + text)


def starts(router: Router) -> int:
    """Return how many router processes have started to serve so far."""
    return router.output.count("Application startup complete")


async def replaced(router: Router, before: list[int]) -> None:
    """Wait until none of the processes `before` runs, and as many new ones serve."""
    await eventually(
        lambda: len(now := set(router.children())) == router.processes and not now & set(before),
        30,
        "new processes",
    )


@pytest.fixture
def files(system: System) -> Path:
    """The configuration's folder, with a good file of each kind that it can name."""
    trustme.CA().cert_pem.write_to_path(str(system.folder / "ca.pem"))
    (system.folder / "token").write_text("t\n")
    system.env["ADMIN_TOKEN_FILE"] = str(system.folder / "token")
    return system.folder


async def test_reload_with_a_bad_file_keeps_the_last_good_configuration(
    system: System, workers: list[ScriptedWorker], files: Path
) -> None:
    """The same processes serve on, one line names the fault, and the next good reload takes effect."""
    named = {"tls": {"ca": str(files / "ca.pem")}}
    system.configure([worker.url for worker in workers], **named)
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        first = router.children()
        async with steady_load(router.url, 8) as answers:
            # The load sends no keys, so config.yaml names the file of keys only in the bad reloads.
            (files / "keys.txt").write_text(f"{KEY_HASH}\n")
            good = {name: (files / name).read_bytes() for name in ("config.yaml", "keys.txt", "ca.pem", "token")}
            for number, (spoil, told) in enumerate(BAD.values(), start=1):
                if "key" in told:
                    append(files / "config.yaml", f"\napi_keys: {files / 'keys.txt'}\n")
                spoil(files)
                router.send(signal.SIGHUP)
                await eventually(lambda n=number: router.output.count(NOT_TAKEN_OVER) == n, what=f"a line on {told}")  # type: ignore[misc]
                assert told in router.output.rpartition(NOT_TAKEN_OVER)[2]
                assert router.children() == first
                if number < len(BAD):
                    for name, content in good.items():
                        (files / name).write_bytes(content)
            for name in good:  # even without any file a dead process is replaced by an equal one
                (files / name).unlink(missing_ok=True)
        assert {answer.status for answer in answers} == {200}
        os.kill(first[0], signal.SIGKILL)
        await eventually(lambda: starts(router) == 3, what="another process")
        answers = await post_jobs(router.url, 40, 4, keep_alive=False)
        assert {answer.status for answer in answers} == {200}
        assert len(router.children()) == 2
        for name, content in good.items():
            (files / name).write_bytes(content)
        before = router.children()
        system.configure([worker.url for worker in workers], max_body_mb=0.001, **named)
        router.send(signal.SIGHUP)
        await replaced(router, before)
        assert (await post_job(router.url, code="x" * 2000)).status == 413
        assert "Traceback" not in router.output
        assert router.output.count(NOT_TAKEN_OVER) == len(BAD)


async def test_processes_that_cannot_start_replace_none(
    system: System, workers: list[ScriptedWorker], tmp_path: Path
) -> None:
    """The old processes serve until new ones do, and failing starts do not end the master."""
    system.configure([worker.url for worker in workers])
    broken = tmp_path / "broken"
    conf = tmp_path / "conf.py"
    conf.write_text(
        f"exec(open({str(ROOT / 'gunicorn.conf.py')!r}).read())\n"
        f"wsgi_app = 'nowhere:app' if os.path.exists({str(broken)!r}) else wsgi_app\n"
    )
    async with system.sidecar(), Router(tmp_path / "log", system.env, 2, conf=str(conf)) as router:
        await router.sees(healthy=3)
        first = router.children()
        async with steady_load(router.url, 4) as answers:
            broken.touch()
            router.send(signal.SIGHUP)
            await eventually(lambda: router.output.count("No module named 'nowhere'") > 4, 30, "failed starts")
            assert set(first) <= set(router.children())
        assert {answer.status for answer in answers} == {200}
        broken.unlink()
        router.send(signal.SIGHUP)
        await replaced(router, first)
        conf.write_text("no Python")
        after = router.children()
        router.send(signal.SIGHUP)
        await eventually(lambda: NOT_TAKEN_OVER in router.output, what="its refusal")
        assert router.children() == after
        router.send(signal.SIGTERM)
        assert await router.ended() == 0


async def test_processes_that_cannot_be_forked_are_tried_again(
    system: System, workers: list[ScriptedWorker], tmp_path: Path
) -> None:
    """If no process can be forked, at a reload or after a death, the master keeps those it has and tries again."""
    system.configure([worker.url for worker in workers])
    place = tmp_path / "place"
    place.mkdir()
    conf = tmp_path / "conf.py"
    conf.write_text(f"exec(open({str(ROOT / 'gunicorn.conf.py')!r}).read())\nworker_tmp_dir = {str(place)!r}\n")
    async with system.sidecar(), Router(tmp_path / "log", system.env, 2, conf=str(conf)) as router:
        await router.sees(healthy=3)
        first = router.children()
        place.rmdir()
        os.kill(first[0], signal.SIGKILL)
        await eventually(lambda: router.output.count("No router process can be started") == 1, what="one line")
        async with steady_load(router.url, 4) as answers:
            router.send(signal.SIGHUP)
            await eventually(lambda: len(answers) > 200, what="answers of the process that is left")
        assert {answer.status for answer in answers} == {200}
        assert router.children() == first[1:]
        place.mkdir()
        await replaced(router, first)
        assert router.output.count("No router process can be started") == 1
        assert "Router processes can be started again" in router.output


async def test_sigterm_ends_the_master_while_a_reload_waits_for_a_job(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """An old process with a running job delays neither another process' replacement nor the end."""
    gate = Gate()
    for worker in workers:
        worker.script = gate
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=3)
        job = asyncio.create_task(post_job(router.url))
        await eventually(lambda: sum(worker.running for worker in workers) == 1, what="a job")
        (first,) = router.children()
        router.send(signal.SIGHUP)
        await eventually(lambda: router.output.count("Shutting down") == 1, 30, "the old process' stop")
        (second,) = set(router.children()) - {first}
        os.kill(second, signal.SIGKILL)
        await eventually(lambda: starts(router) == 3, 30, "another process")
        router.send(signal.SIGTERM)
        await eventually(lambda: router.output.count("Shutting down") == 2, what="the last process' stop")
        gate.open()
        assert (await job).status == 200
        assert await router.ended() == 0


async def test_stopping_logs_no_error(system: System, workers: list[ScriptedWorker]) -> None:
    """SIGTERM, SIGINT and SIGQUIT end all processes with status 0, and no line looks like an error."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        system.configure([worker.url for worker in workers])
        async with system.router(2) as router:
            started = len(router.output)
            router.send(number)
            assert await router.ended() == 0
        said = router.output[started:]
        assert not [words for words in ("was sent", "Error", "ERROR", "exited with") if words in said], said


async def test_signal_during_a_start_is_not_lost(system: System, workers: list[ScriptedWorker]) -> None:
    """SIGTERM ends processes that have no signal handlers of their own so far, without waiting for `timeout`."""
    system.configure([worker.url for worker in workers], timeout=300)
    for number in (signal.SIGHUP, signal.SIGTTIN):
        async with system.router(4) as router:
            started = len(router.output)
            router.send(number)
            router.send(signal.SIGTERM)
            assert await router.ended(60) == 0
        assert "was sent" not in router.output[started:]


async def test_every_other_signal_under_load_costs_no_job(system: System, workers: list[ScriptedWorker]) -> None:
    """SIGTTIN adds a process, SIGTTOU removes one, SIGUSR1 reopens log files, and no signal under load costs a job."""
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        async with steady_load(router.url, 4) as answers:
            router.send(signal.SIGTTIN)
            await eventually(lambda: starts(router) == 3, 30, "one more process")
            for number in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGCHLD, signal.SIGUSR1):
                known = len(answers)
                router.send(number)
                await eventually(lambda n=known: len(answers) > n + 50, what="answers")  # type: ignore[misc]
        assert {answer.status for answer in answers} == {200}
        assert len(router.children()) == 3
        for left in (2, 1, 1):
            router.send(signal.SIGTTOU)
            await eventually(lambda n=left: len(router.children()) == n, what=f"{left} processes")  # type: ignore[misc]
        assert {answer.status for answer in await post_jobs(router.url, 20, 4, keep_alive=False)} == {200}


async def test_second_master_that_cannot_start_does_not_affect_the_first(
    system: System, workers: list[ScriptedWorker], tmp_path: Path
) -> None:
    """A SIGUSR2 in a folder that no longer exists leaves the first master serving."""
    system.configure([worker.url for worker in workers])
    gone = tmp_path / "gone"
    gone.mkdir()
    system.env["PYTHONPATH"] = str(ROOT)
    conf = str(ROOT / "gunicorn.conf.py")
    async with system.sidecar(), Router(tmp_path / "log", system.env, 2, conf=conf, cwd=gone) as router:
        await router.sees(healthy=3)
        children = router.children()
        gone.rmdir()
        router.send(signal.SIGUSR2)
        await eventually(lambda: "No second master can be started" in router.output, what="a line")
        assert {answer.status for answer in await post_jobs(router.url, 20, 4, keep_alive=False)} == {200}
        assert set(children) <= set(router.children())


async def test_second_master_takes_over(system: System, workers: list[ScriptedWorker]) -> None:
    """After SIGUSR2, and SIGTERM to the first master, the second serves and reloads."""
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        router.send(signal.SIGUSR2)
        await eventually(lambda: starts(router) == 4, 30, "the second's processes")
        (second,) = [child for child in router.children() if children_of(child)]
        router.send(signal.SIGTERM)
        assert await router.ended() == 0
        assert {answer.status for answer in await post_jobs(router.url, 20, 4, keep_alive=False)} == {200}
        before = set(children_of(second))
        os.kill(second, signal.SIGHUP)
        await eventually(lambda: len(now := set(children_of(second))) == 2 and not now & before, 30, "new processes")
        assert {answer.status for answer in await post_jobs(router.url, 20, 4, keep_alive=False)} == {200}


async def test_zero_processes_are_a_configuration_error(system: System, tmp_path: Path) -> None:
    """With 0 processes gunicorn would listen without answering, so our settings refuse it."""
    system.configure([])
    argv = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "-b", "127.0.0.1:0"]
    for more, env in (([], {"WEB_CONCURRENCY": "0"}), (["-w", "0"], {})):
        async with Program([*argv, *more], tmp_path / "log", {**system.env, **env}) as gunicorn:
            assert await gunicorn.ended() == 2
        assert (
            "configuration error: expected 1 to 1000 processes (WEB_CONCURRENCY or --workers), got 0" in gunicorn.output
        )


async def test_sidecar_keeps_its_fleet_through_bad_configurations(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """Each bad config.yaml causes one line in the log, and the next good one takes effect."""
    system.configure([worker.url for worker in workers[:2]])
    good = system.config.read_bytes()
    async with system.sidecar() as sidecar, system.router(1) as router:
        await router.sees(healthy=2)
        spoiled: list[tuple[bytes, str]] = [
            (good + b"timout: 5\n", "timout: unknown key"),
            (b"workers: [", "not valid YAML"),
            (b"workers: " + b"[" * 3000, "nested too deeply"),
            (b"timeout: 2026-99-99", "timeout: expected a valid number, got '2026-99-99'"),
            (b"# \xe9", "it is not UTF-8"),
            (b"timeout: 5\0", "special characters are not allowed"),
        ]
        for number, (content, told) in enumerate(spoiled, start=1):
            system.config.write_bytes(content)
            await eventually(lambda n=number: sidecar.output.count(NOT_TAKEN_OVER) == n, what=f"a line on {told}")  # type: ignore[misc]
            assert told in sidecar.output.rpartition(NOT_TAKEN_OVER)[2]
        system.config.unlink()
        system.config.mkdir()
        await eventually(lambda: "Is a directory" in sidecar.output, what="a line on the directory")
        await router.sees(healthy=2)
        system.config.rmdir()
        system.configure([worker.url for worker in workers])
        await router.sees(healthy=3)
        assert "Traceback" not in sidecar.output


async def test_uvicorn_s_processes_take_the_last_good_configuration_from_one_another(
    system: System, workers: list[ScriptedWorker], tmp_path: Path
) -> None:
    """While config.yaml is bad, uvicorn's new processes start with the last good configuration of the others."""
    system.configure([worker.url for worker in workers], max_body_mb=0.001)
    port = free_port()
    argv = ["uvicorn", "router:app", "--http", "router.downstream:ClientConnection", "--port", str(port)]
    # Within five seconds, uvicorn's default, a process may not have started on a busy machine.
    argv += ["--workers", "2", "--timeout-worker-healthcheck", "60"]
    async with Program([sys.executable, "-m", *argv], tmp_path / "log", system.env) as server:
        await eventually(lambda: server.output.count("startup complete") == 2, 30, "its start")
        good = system.config.read_text()
        append(system.config, "timout: 5\n")
        ours = [pid for pid in server.children() if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(ours[0], signal.SIGKILL)
        await eventually(lambda: server.output.count("startup complete") == 3, 30, "another process")
        server.send(signal.SIGHUP)
        await eventually(lambda: server.output.count("startup complete") == 5, 30, "two more")
        assert server.output.count(NOT_TAKEN_OVER) == 3
        url = f"http://127.0.0.1:{port}"
        assert (await post_job(url, code="x" * 2000)).status == 413
        system.config.write_text(good.replace("max_body_mb: 0.001", "max_body_mb: 1"))
        server.send(signal.SIGHUP)
        await eventually(lambda: server.output.count("startup complete") == 7, 30, "two more")
        await eventually(lambda: _takes(url), what="the new limit")


async def _takes(url: str) -> bool:
    return {(await post_job(url, code="x" * 2000)).status for _ in range(10)} == {200}
