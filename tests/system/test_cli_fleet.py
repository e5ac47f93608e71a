"""The fleet's commands as an operator types them, against a real gunicorn, sidecar and Valkey."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from router.cli.main import app
from tests.support.eventually import eventually
from tests.support.load import post_jobs, steady_load
from tests.support.programs import ROOT, System, Valkey
from tests.support.worker import Gate, ScriptedWorker

TOKEN = "a-token"


@dataclass
class Terminal:
    """Runs one command after the other with these environment variables."""

    env: dict[str, str | None]

    async def types(self, *words: str) -> tuple[int, str, str]:
        """Run `sfr` with these words; return its status, stdout and stderr."""
        # In a thread, so that this loop still reads the programs' output and serves the scripted workers.
        done = await asyncio.to_thread(CliRunner().invoke, app, words, env=self.env, prog_name="sfr")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    async def does(self, *words: str) -> str:
        """Return the stdout of a command that must succeed."""
        status, out, err = await self.types(*words)
        assert (status, err) == (0, "")
        return out


async def test_operator_sees_and_steers_the_fleet(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Every command works by the router and by Redis, and reports what is wrong."""
    first, second, third = workers
    system.env["ADMIN_TOKEN"] = TOKEN
    system.configure([{"url": first.url, "max_concurrency": 4}, second.url], admin={"allowed_workers": ["127.0.0.1"]})
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=2)
        sfr = Terminal({"SFR_URL": router.url, "ADMIN_TOKEN": TOKEN})
        redis = ("--redis", valkey.url)

        for way in ((), redis):
            table = await sfr.does("status", *way)
            assert "are routed" in table
            assert "2 of 2 healthy" in table
            report = json.loads(await sfr.does("status", "--json", *way))
            assert (report["status"], report["redis"], len(report["workers"])) == ("healthy", "available", 2)
            assert report["sidecar"]["leader"]
            assert {each["url"] for each in json.loads(await sfr.does("workers", "list", "--json", *way))} == {
                first.url,
                second.url,
            }
            row = next(line for line in (await sfr.does("workers", "list", *way)).splitlines() if first.url in line)
            assert row.split()[-3:] == ["0/4", "1", "config"]

            assert await sfr.does("workers", "drain", f"{first.url}/", *way) == (
                f"{first.url}: draining, weight 1, 0 of 4 running\n"
            )
            assert "1 of 2 healthy, 1 draining" in await sfr.does("status", *redis)
            before = len(first.jobs)
            await post_jobs(router.url, 10, 5)
            assert len(first.jobs) == before
            assert (await sfr.does("workers", "resume", first.url, *way)).startswith(f"{first.url}: healthy")
            listed = json.loads(await sfr.does("workers", "list", "--health", "draining", "--json", *way))
            assert listed == []
            gone = await sfr.types("workers", "drain", "http://127.0.0.1:1", *way)
            assert gone == (1, "", "http://127.0.0.1:1 is not in the fleet\n")

        await _waits_for_jobs(sfr, router.url, [first, second])
        async with steady_load(router.url, 2):
            for way in ((), redis):
                await eventually(lambda way=way: _shows_rates(sfr, way, first), what="a rate")  # type: ignore[misc]

        added = await sfr.does("workers", "add", third.url, "--weight", "2", "--max-concurrency", "3", "--ttl", "60")
        assert added.endswith("weight 2, 0 of 3 running\n")
        await router.sees(healthy=3)
        assert "expires in" in await sfr.does("workers", "list")
        labels = "--label", "ib", "--label", "gpu", "--language", "python", "--memory-mb", "64000"
        await sfr.does("workers", "add", third.url, "--weight", "2", "--max-concurrency", "3", "--ttl", "60", *labels)
        await eventually(lambda: _shows(sfr, third, "gpu, ib; python only; 64000 MB"), what="the labels")
        weighed = await sfr.does("workers", "weigh", third.url, "5", "--max-concurrency", "1")
        assert weighed == f"{third.url}: weight 5, max_concurrency 1\n"
        await eventually(lambda: _shows(sfr, third, " 0/1 "), what="the new cap")
        assert await sfr.does("workers", "weigh", third.url, "default") == f"{third.url}: weight as it came\n"
        assert await sfr.does("workers", "remove", third.url) == f"{third.url}: removed\n"
        await _is_refused(sfr, router.url, first)
        await _completes(sfr, router.url, first, second)
        await _watches(router.url)

        await valkey.kill()
        await router.sees_redis("unavailable")
        await eventually(lambda: _is_without_redis(sfr), what="each process to notice")
        status, _, told = await sfr.types("workers", "list")
        assert (status, told.startswith("Redis is unavailable")) == (3, True)


async def _waits_for_jobs(sfr: Terminal, url: str, fleet: list[ScriptedWorker]) -> None:
    """`drain --wait` ends when the drained workers' running jobs have ended, or fails when its time is over."""
    gate = Gate()
    for each in fleet:
        each.script = gate
    job = asyncio.create_task(post_jobs(url, 1, 1))
    await eventually(lambda: any(each.running for each in fleet), what="a running job")
    late = await sfr.types("workers", "drain", "--all", "--wait", "--timeout", "0.1")
    assert (late[0], late[2].startswith("jobs still run after 0.1 s: 1 on http")) == (1, True)
    await sfr.does("workers", "resume", "--all")
    # A process of its own, because the commands of this one share stdout.
    drain = [sys.executable, "-m", "router.cli", "workers", "drain", *(each.url for each in fleet), "--wait"]
    env = {**os.environ, "SFR_URL": url, "ADMIN_TOKEN": TOKEN}
    waiting = await asyncio.create_subprocess_exec(*drain, env=env, cwd=ROOT, stdout=subprocess.PIPE)
    await eventually(lambda: _counts(sfr, "draining", 2), what="the drain")
    assert waiting.returncode is None
    gate.open()
    said, _ = await waiting.communicate()
    assert said.decode().endswith("No job runs there any more\n")
    assert await waiting.wait() == 0
    await job
    await sfr.does("workers", "resume", "--health", "draining")


async def _counts(sfr: Terminal, health: str, wanted: int) -> bool:
    return len(json.loads(await sfr.does("workers", "list", "--health", health, "--json"))) == wanted


async def _is_without_redis(sfr: Terminal) -> bool:
    # Each process finds out for itself.
    tables = [await sfr.does("status") for _ in range(3)]
    return all("unavailable" in table and "unknown without Redis" in table for table in tables)


async def _shows(sfr: Terminal, worker: ScriptedWorker, text: str) -> bool:
    return any(worker.url in line and text in line for line in (await sfr.does("workers", "list")).splitlines())


async def _completes(sfr: Terminal, url: str, first: ScriptedWorker, second: ScriptedWorker) -> None:
    """Each shell completes the workers that a command can act on."""
    await sfr.does("workers", "drain", first.url)
    script = """eval "$(sfr --show-completion)"; COMP_WORDS=(sfr workers "$1" ""); COMP_CWORD=3; _sfr_completion sfr
    printf '%s,' "${COMPREPLY[@]}" """
    env = {**os.environ, "SFR_URL": url, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command, offered in (("drain", second.url), ("resume", first.url), ("remove", "")):
        bash = await asyncio.create_subprocess_exec(
            "bash", "-c", script, "bash", command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert (await bash.communicate())[0].decode() == f"{offered},"
    typed = {"_TYPER_COMPLETE_ARGS": "sfr workers resume h", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    for shell in ("zsh", "fish"):
        completing = Terminal({**sfr.env, **typed, "_SFR_COMPLETE": f"complete_{shell}"})
        _, out, err = await completing.types()
        assert first.url in out.replace("\\\\:", ":")
        assert (second.url.rpartition(":")[2] in out, err) == (False, "")
    await sfr.does("workers", "resume", first.url)


async def _watches(url: str) -> None:
    """`sfr status --watch` and `sfr top` show the fleet on a terminal until Ctrl-C or q ends them."""
    async with _on_terminal("status", "--watch", "--url", url) as (process, ours, seen):
        await eventually(lambda: b"are routed" in seen() and b"healthy" in seen(), what="the table")
        process.send_signal(signal.SIGINT)
        # The output is still read: a full terminal would block the process.
        await eventually(lambda: seen() and process.poll() is not None, what="the end of the watch")
        assert process.returncode == 0

    async with _on_terminal("top", "--interval", "1", "--url", url) as (process, ours, seen):
        await eventually(lambda: b"jobs/s" in seen() and b" errors/s" in seen(), what="rates")
        os.write(ours, b"xq")
        await eventually(lambda: seen() and process.poll() is not None, what="the end of top")
        assert process.returncode == 0


@asynccontextmanager
async def _on_terminal(*words: str) -> AsyncIterator[tuple[subprocess.Popen[bytes], int, Callable[[], bytearray]]]:
    """Run `sfr` on a new terminal; yield the process, the terminal's other side, and what it has shown so far."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "router.cli", *words],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    shown = bytearray()

    def seen() -> bytearray:
        with suppress(OSError):
            shown.extend(os.read(ours, 2**16))
        return shown

    try:
        yield process, ours, seen
    finally:
        process.kill()
        process.wait()
        os.close(ours)


async def _shows_rates(sfr: Terminal, way: tuple[str, ...], worker: ScriptedWorker) -> bool:
    """`sfr top` in a pipe shows one interval. Return False if that interval has no counted job."""
    table = await sfr.does("top", "--once", "--interval", "1", "--sort", "jobs", *way)
    (jobs,) = re.findall(r"^jobs +([\d.]+)/s, 0 errors/s", table, re.MULTILINE)
    row = next(line for line in table.splitlines() if worker.url in line)
    assert re.search(r"healthy +[\d.]+ +0 .* [0-4]/4 ", row)
    return float(jobs) > 0


async def _is_refused(sfr: Terminal, url: str, worker: ScriptedWorker) -> None:
    """The command prints the router's reason for a refusal, also for a wrong or missing token."""
    status, _, told = await sfr.types("workers", "remove", worker.url)
    assert (status, "stands in config.yaml" in told) == (1, True)
    status, _, told = await sfr.types("workers", "add", "http://10.0.0.1:1")
    assert (status, "admin.allowed_workers" in told) == (1, True)
    status, _, told = await sfr.types("workers", "weigh", worker.url, "101")
    assert (status, told.startswith("weight: ")) == (1, True)
    status, _, told = await sfr.types("workers", "add", worker.url, "--label", "gpu", "--label", "a b")
    assert (status, told) == (1, "labels[1]: expected 1 to 64 letters, digits and ._-\n")

    wrong = Terminal({"SFR_URL": url, "ADMIN_TOKEN": "another"})
    status, _, told = await wrong.types("workers", "drain", worker.url)
    assert (status, told) == (4, f"{url} takes another admin token than ADMIN_TOKEN or ADMIN_TOKEN_FILE\n")
    status, _, told = await Terminal({"SFR_URL": url}).types("workers", "drain", worker.url)
    assert (status, told) == (4, f"{url} wants its admin token, in ADMIN_TOKEN or ADMIN_TOKEN_FILE\n")
