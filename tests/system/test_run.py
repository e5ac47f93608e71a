"""`sfr run` as a person uses it: files, pipes, Ctrl-C, the same command again, and a router that goes away."""

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from router.auth.access import Access, ApiKeys
from router.composition import create_app
from router.config.load import parse
from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.faults import close_at_once
from tests.support.programs import ROOT, Program, System
from tests.support.serving import served
from tests.support.worker import RESULT, Exchange, Gate, ScriptedWorker, takes

RUN = [sys.executable, "-m", "router.cli", "run"]


@pytest.fixture
async def url(worker: ScriptedWorker) -> AsyncIterator[str]:
    """The URL of a router in this process, before the worker."""
    settings = {
        "workers": [worker.url],
        "redis": {"url": "redis://127.0.0.1:1/0"},
        "retry": {"attempts": 1},
        "batch": {"max_in_flight": 8},
    }
    async with served(create_app(parse(json.dumps(settings), "t"))) as address:
        yield address


def write_jobs(folder: Path, count: int) -> Path:
    """Write a file of `count` jobs with empty lines between them."""
    path = folder / "jobs.jsonl"
    path.write_text("\n\n".join(json.dumps({"code": str(number)}) for number in range(count)) + "\n")
    return path


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file that holds only complete lines."""
    text = path.read_text()
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


async def echo(exchange: Exchange) -> None:
    """Answer with the job's own code."""
    await exchange.answer(200, {**RESULT, "message": json.loads(exchange.request.body)["code"]})


def assert_each_once(results: list[dict[str, Any]], count: int) -> None:
    """Check that each job has exactly one result, its own."""
    assert sorted(result["index"] for result in results) == list(range(count))
    assert all(result["body"]["message"] == str(result["index"]) for result in results)


@asynccontextmanager
async def running(*options: object, url: str = "", stdin: int | bytes | None = None) -> AsyncIterator["Ran"]:
    """Run `sfr run` with these options; `stdin` is its input, or the pipe to read from."""
    process = await asyncio.create_subprocess_exec(
        *RUN,
        *map(str, options),
        env={**os.environ, "SFR_URL": url},
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE if isinstance(stdin, bytes) else stdin or asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    ran = Ran(process, asyncio.create_task(process.communicate(stdin if isinstance(stdin, bytes) else None)))
    try:
        yield ran
    finally:
        if process.returncode is None:
            process.kill()
        await ran.told()


class Ran:
    """One `sfr run`."""

    def __init__(self, process: asyncio.subprocess.Process, talk: asyncio.Task[tuple[bytes, bytes]]) -> None:
        self.process = process
        self._talk = talk

    async def told(self) -> tuple[int, bytes, str]:
        """Return status, stdout and stderr once it has ended."""
        out, err = await asyncio.wait_for(asyncio.shield(self._talk), 30)
        assert self.process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return self.process.returncode, out, err.decode()


async def run(*options: object, url: str = "", stdin: int | bytes | None = None) -> tuple[int, bytes, str]:
    """Run `sfr run` to its end; return status, stdout and stderr."""
    async with running(*options, url=url, stdin=stdin) as ran:
        return await ran.told()


async def test_each_result_is_one_line(worker: ScriptedWorker, url: str, tmp_path: Path) -> None:
    """Jobs come from a file or stdin, and results go to a file or stdout with their job's index and digest."""
    worker.script = echo
    jobs, output = write_jobs(tmp_path, 100), tmp_path / "results.jsonl"
    status, out, told = await run(jobs, "-o", output, url=url)
    assert (status, out) == (0, b"")
    assert told.startswith("100 jobs answered in ")
    assert told.endswith(" s: 100 done, 0 failed\n")
    results = read_results(output)
    assert_each_once(results, 100)
    assert results[0].keys() == {"index", "job", "status", "body"}
    status, out, _ = await run("-", url=url, stdin=jobs.read_bytes())
    assert status == 0
    assert {(line["index"], line["job"]) for line in map(json.loads, out.splitlines())} == {
        (line["index"], line["job"]) for line in results
    }


async def test_run_takes_the_url_of_a_tenant(worker: ScriptedWorker, url: str, tmp_path: Path) -> None:
    """With a slash at its end or without one, each job is that tenant's."""
    for tenant_url in (f"{url}/t/run-7", f"{url}/t/run-7/"):
        status, out, _ = await run(write_jobs(tmp_path, 3), url=tenant_url)
        assert status == 0
        lines = [json.loads(line) for line in out.splitlines()]
        assert [line["body"]["router_metadata"]["tenant"] for line in lines] == ["run-7"] * 3
    assert {job.target for job in worker.jobs} == {"/run_code"}


async def test_interrupted_run_resumes_with_one_result_per_job(
    worker: ScriptedWorker, url: str, tmp_path: Path
) -> None:
    """After SIGINT, SIGTERM, SIGKILL or a cut last line the same command completes the file without duplicates."""
    worker.script = slow_echo
    jobs, output = write_jobs(tmp_path, 400), tmp_path / "results.jsonl"
    so_far = 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        async with running(jobs, "-o", output, url=url) as ran:
            await eventually(lambda so_far=so_far: _lines(output) > so_far + 30, what="some results")  # type: ignore[misc]
            ran.process.send_signal(number)
            status, _, told = await ran.told()
        so_far = _lines(output)
        if number is not signal.SIGKILL:
            assert status == 128 + number
            assert told.splitlines()[-2:] == [
                f"the same command goes on with the other {400 - so_far}",
                f"ended by {number.name}",
            ]
            assert len(read_results(output)) == so_far
    with output.open("ab") as file:
        file.write(b'{"index":399,"job":"00')
    ran_before = len(worker.jobs)
    status, _, told = await run(jobs, "-o", output, url=url)
    assert status == 0
    assert f", {so_far} of them before: 400 done, 0 failed" in told
    assert_each_once(read_results(output), 400)
    assert len(worker.jobs) - ran_before <= 400 - so_far  # some get the runs that others have left
    status, _, _ = await run(jobs, "-o", output, url="http://127.0.0.1:1")
    assert status == 0  # no job is left, so no router is needed


async def slow_echo(exchange: Exchange) -> None:
    """Answer with the job's own code after a moment."""
    await asyncio.sleep(0.02)
    await echo(exchange)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


async def test_5xx_jobs_run_again_and_4xx_jobs_do_not(worker: ScriptedWorker, url: str, tmp_path: Path) -> None:
    """A 5xx is the infrastructure's fault and is retried by the same command; a 4xx is the job's own result."""
    is_ill = True

    async def script(exchange: Exchange) -> None:
        code = json.loads(exchange.request.body)["code"]
        if code.endswith("5"):
            await exchange.answer(422, {"detail": "never", "message": code})
        elif is_ill and code.endswith("7"):
            await exchange.answer(503, {})
        else:
            await echo(exchange)

    worker.script = script
    jobs, output = write_jobs(tmp_path, 40), tmp_path / "results.jsonl"
    output.touch(mode=0o600)
    status, _, told = await run(jobs, "-o", output, url=url)
    assert status == 1
    assert "40 jobs answered in" in told
    assert "32 done, 8 failed (422: 4, 503: 4)\nthe same command goes on with the other 4\n" in told
    is_ill = False
    status, _, told = await run(jobs, "-o", output, url=url)
    assert status == 1
    assert "36 of them before: 36 done, 4 failed (422: 4)\n" in told
    assert_each_once(read_results(output), 40)
    assert output.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob("*.tmp")) == []


async def test_router_that_goes_away_and_comes_back_costs_no_job(
    system: System, workers: list[ScriptedWorker], tmp_path: Path
) -> None:
    """The run resumes by itself after the router was stopped, and after it was killed."""
    for worker in workers:
        worker.script = slow_echo
    system.configure([worker.url for worker in workers], batch={"max_in_flight": 6})
    jobs, output = write_jobs(tmp_path, 600), tmp_path / "results.jsonl"
    async with system.sidecar(), system.router(2) as router, running(jobs, "-o", output, url=router.url) as ran:
        for count, ends in ((100, router_stops), (350, Program.kill)):
            await eventually(lambda count=count: _lines(output) > count, what="results")  # type: ignore[misc]
            await ends(router)
            router._log.unlink()
            await router.start()
        status, _, told = await ran.told()
    assert status == 0
    assert told.count("connection lost, going on: the answer broke off\n") >= 2
    assert_each_once(read_results(output), 600)


async def router_stops(router: Program) -> None:
    """Stop the router in order."""
    router.send(signal.SIGTERM)
    await router.ended()


async def test_router_that_takes_no_batch_ends_the_run_with_status_3(url: str, tmp_path: Path) -> None:
    """No router, another program, a connection that closes: each ends the run at once with its own message."""
    jobs = write_jobs(tmp_path, 3)
    free = f"http://127.0.0.1:{free_port()}"
    async with ScriptedWorker(not_found) as other, ScriptedWorker(close_at_once) as rude:
        routers = (free, other.url, rude.url, "http://no..name")
        told = await asyncio.gather(*(run(jobs, url=address) for address in routers))
    reasons = [error.splitlines()[-1] for _, _, error in told]
    assert [status for status, _, _ in told] == [3, 3, 3, 3]
    assert reasons[0] == f"the router at {free} cannot be reached: Connection refused"
    assert reasons[1] == f"the router at {other.url} takes no batches: it answered 404: X"
    assert reasons[2].startswith(f"the router at {rude.url} cannot be reached: ")
    assert reasons[3] == "the router at http://no..name cannot be reached: its host cannot be a name in DNS"
    status, _, error = await run(jobs, "-o", "/dev/full", url=url)
    assert (status, error.splitlines()[-1]) == (2, "/dev/full: cannot be written: No space left on device")


async def test_key_is_sent_to_a_router_that_wants_one(
    worker: ScriptedWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key comes from SFR_API_KEY; without it the router's own message is printed."""
    held = tmp_path / "keys"
    held.write_text(f"{sha256(b'my-key').hexdigest()}\n")
    settings = parse(json.dumps({"workers": [worker.url], "redis": {"url": "redis://127.0.0.1:1/0"}}), "t")
    jobs = write_jobs(tmp_path, 3)
    async with served(create_app(settings, Access(api_keys=ApiKeys(held)))) as address:
        status, _, told = await run(jobs, url=address)
        assert status == 3
        assert f"the router at {address} takes no batches: it answered 401: Jobs need an API key" in told
        assert told.endswith("; SFR_API_KEY in the environment holds it\n")
        assert not worker.jobs
        monkeypatch.setenv("SFR_API_KEY", "my-key")
        status, _, told = await run(jobs, url=address)
        assert (status, len(worker.jobs)) == (0, 3)
    assert not any("authorization" in job.headers for job in worker.jobs)


async def not_found(exchange: Exchange) -> None:
    """Answer like a server that has no batches."""
    await exchange.answer(404, b"no such page")
    await exchange.until_closed()


async def test_bad_line_on_stdin_ends_the_run_after_the_jobs_before_it(worker: ScriptedWorker, url: str) -> None:
    """A pipe cannot be checked in advance, so the jobs before a bad line still run."""
    worker.script = echo
    status, out, told = await run("-", url=url, stdin=b'{"code": "0"}\n{"code": "1"}\nx\n{"code": "2"}\n')
    assert status == 2
    assert "stdin, line 3: expected a JSON object: JSON is malformed" in told
    assert_each_once([json.loads(line) for line in out.splitlines()], 2)


async def test_jobs_of_a_slow_pipe_run_at_once_and_can_be_interrupted(worker: ScriptedWorker, url: str) -> None:
    """A job gets its result while the pipe is still open, and Ctrl-C does not wait for the pipe's end."""
    worker.script = echo
    read_end, write_end = os.pipe()
    try:
        async with running("-", "-o", "/dev/stdout", url=url, stdin=read_end) as ran:
            os.write(write_end, b'{"code": "0"}\n')
            await eventually(lambda: len(worker.jobs) == 1, what="the first job")
            await asyncio.sleep(0.2)
            os.write(write_end, b'{"code": "1"}\n')
            await eventually(lambda: len(worker.jobs) == 2, what="the second job")
            await asyncio.sleep(0.2)
            ran.process.send_signal(signal.SIGINT)
            status, out, told = await ran.told()
    finally:
        os.close(read_end)
        os.close(write_end)
    assert status == 130
    assert_each_once([json.loads(line) for line in out.splitlines()], 2)
    assert "2 jobs answered in" in told


async def test_closed_stdout_ends_the_run(worker: ScriptedWorker, url: str, tmp_path: Path) -> None:
    """A reader of stdout that closes it, as `head` does, ends the run."""
    worker.script = takes(0.02)
    jobs = write_jobs(tmp_path, 200)
    read_end, write_end = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *RUN, str(jobs), env={**os.environ, "SFR_URL": url}, cwd=ROOT, stdout=write_end, stderr=asyncio.subprocess.PIPE
    )
    os.close(write_end)
    await eventually(lambda: len(worker.jobs) > 20, what="some jobs")
    os.close(read_end)
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert err.decode().endswith("stdout: cannot be written: Broken pipe\n")


async def test_progress_is_shown_on_a_terminal(worker: ScriptedWorker, url: str, tmp_path: Path) -> None:
    """A terminal on stderr shows how many jobs of how many are done, and then the summary."""
    gate = Gate()
    worker.script = gate
    jobs = write_jobs(tmp_path, 50)
    main, side = pty.openpty()
    shown = bytearray()
    try:
        process = await asyncio.create_subprocess_exec(
            *RUN,
            str(jobs),
            "-o",
            str(tmp_path / "r"),
            env={**os.environ, "SFR_URL": url, "TERM": "xterm", "COLUMNS": "100"},
            cwd=ROOT,
            stderr=side,
        )
        os.close(side)
        asyncio.get_running_loop().add_reader(main, lambda: shown.extend(_read(main)))
        await eventually(lambda: b"0/50" in shown, what="the bar")
        gate.open()
        assert await process.wait() == 0
        await eventually(lambda: b"50 jobs answered in" in shown, what="the summary")
        assert b"50/50" in shown
    finally:
        asyncio.get_running_loop().remove_reader(main)
        os.close(main)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # the other side is closed
        asyncio.get_running_loop().remove_reader(fd)
        return b""


async def test_longest_jobs_run_first(worker: ScriptedWorker, url: str, tmp_path: Path) -> None:
    """The order holds for a run that goes on, too."""

    async def answer(exchange: Exchange) -> None:
        await asyncio.sleep(0.01)
        await exchange.answer(200, RESULT)

    worker.script = answer
    jobs, output = tmp_path / "jobs.jsonl", tmp_path / "results.jsonl"
    options = jobs, "-o", output, "--order", "longest_first"
    ran = 0
    for count in (20, 60):
        lines = [json.dumps({"code": str(n), "router": {"expected_ms": 1 + n}}) for n in range(count)]
        jobs.write_text("\n".join(lines))
        assert (await run(*options, url=url))[0] == 0
        longest = {str(number) for number in range(count - 8, count)}
        assert {json.loads(job.body)["code"] for job in worker.jobs[ran : ran + 8]} == longest
        ran = count
    assert sorted(result["index"] for result in read_results(output)) == list(range(60))


async def test_jobs_of_a_failed_group_are_skipped(worker: ScriptedWorker, url: str, tmp_path: Path) -> None:
    """They are no failures, and a run that goes on does not run them either."""

    async def answer(exchange: Exchange) -> None:
        await asyncio.sleep(0.01)
        await exchange.answer(200, {**RESULT, "status": "Failed"})

    worker.script = answer
    jobs, output = write_jobs(tmp_path, 100), tmp_path / "results.jsonl"
    options = jobs, "-o", output, "--stop-on", "failure"
    status, _, told = await run(*options, url=url)
    ran, results = len(worker.jobs), read_results(output)
    skipped = [result for result in results if result["status"] == 424]
    assert (status, len(skipped), ran + len(skipped)) == (0, 100 - ran, len(results))
    assert f"{ran} done, {100 - ran} skipped, 0 failed" in told
    assert (await run(*options, url=url))[0] == 0
    assert len(worker.jobs) == ran < 100
