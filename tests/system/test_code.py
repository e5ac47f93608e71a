"""Real code: the users' SDK through the router, and the local worker without a router."""

import asyncio
import base64
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sandbox_fusion import RunCodeRequest, RunStatus, run_code, run_code_async, run_concurrent

from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.programs import Program, System, Valkey


def local_worker(folder: Path, port: int) -> Program:
    """Return a local worker that is not started yet."""
    return Program(
        [sys.executable, "-m", "router.cli", "local-worker", "--port", str(port)], folder / f"worker-{port}.log"
    )


async def _pongs(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/ping") as response:
            return await response.read() == b'"pong"'
    except aiohttp.ClientError:
        return False


@pytest.fixture
async def worker_url(tmp_path: Path) -> AsyncIterator[str]:
    """A local worker without a router."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    async with local_worker(tmp_path, port):
        await eventually(lambda: _pongs(url), what="the worker's pong")
        yield url


@pytest.fixture
async def router_url(system: System, tmp_path: Path) -> AsyncIterator[str]:
    """A router of two processes before two local workers."""
    ports = [free_port() for _ in range(2)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    system.configure(urls)
    async with AsyncExitStack() as running:
        for port in ports:
            await running.enter_async_context(local_worker(tmp_path, port))
        for url in urls:
            await eventually(lambda url=url: _pongs(url), what="the worker's pong")  # type: ignore[misc]
        await running.enter_async_context(system.sidecar())
        router = await running.enter_async_context(system.router(2))
        await router.sees(healthy=2)
        yield router.url


async def run(url: str, **job: object) -> dict[str, Any]:
    """Run one job; return the answer's JSON with the HTTP status as `http`."""
    async with aiohttp.ClientSession() as session, session.post(f"{url}/run_code", json=job) as response:
        answer: dict[str, Any] = await response.json()
        return {"http": response.status, **answer}


async def test_sdk_runs_code_through_the_router(router_url: str) -> None:
    """The SDK's run_code works for Python, Bash, stdin, files, a failing program and a timeout."""

    def sdk(**job: Any) -> Any:  # the SDK's models have no types
        return run_code(RunCodeRequest(**job), endpoint=router_url, max_attempts=1)

    done = await asyncio.to_thread(sdk, code="print(input()[::-1])", language="python", stdin="abc\n")
    assert (done.status, done.run_result.stdout) == (RunStatus.Success, "cba\n")
    done = await asyncio.to_thread(sdk, code="echo $((6 * 7)); exit 3", language="bash")
    assert (done.status, done.run_result.stdout, done.run_result.return_code) == (RunStatus.Failed, "42\n", 3)
    done = await asyncio.to_thread(
        sdk,
        code="open('out.txt', 'w').write(open('in/a.txt').read() * 2)",
        language="python",
        files={"in/a.txt": base64.b64encode(b"xy").decode()},
        fetch_files=["out.txt", "none.txt"],
    )
    assert done.files == {"out.txt": base64.b64encode(b"xyxy").decode()}
    done = await asyncio.to_thread(sdk, code="while True: pass", language="python", run_timeout=0.5)
    assert (done.status, done.run_result.status) == (RunStatus.Failed, "TimeLimitExceeded")


async def test_sdk_runs_code_asynchronously_and_concurrently(router_url: str) -> None:
    """run_code_async and run_concurrent return each job's own result, in order."""
    request = RunCodeRequest(code="print('async')", language="python")
    done = await run_code_async(request, endpoint=router_url, max_attempts=1)
    assert done.run_result.stdout == "async\n"
    jobs = [[RunCodeRequest(code=f"echo {number}", language="bash")] for number in range(30)]
    kwargs = [{"endpoint": router_url, "max_attempts": 1} for _ in jobs]
    results = await asyncio.to_thread(run_concurrent, run_code, args=jobs, kwargs=kwargs, concurrency=5)
    assert [result.run_result.stdout for result in results] == [f"{number}\n" for number in range(30)]


async def test_bad_job_gets_the_worker_s_own_error(router_url: str) -> None:
    """A 422 arrives with the worker's detail, and a SandboxError with its message."""
    bad = await run(router_url, code="print(1)")
    assert (bad["http"], bad["detail"][0]["loc"]) == (422, ["body", "language"])
    error = await run(router_url, code="x", language="lean")
    assert (error["http"], error["status"]) == (200, "SandboxError")
    assert error["message"] == "the local worker does not run lean, only python, bash, nodejs, cpp"


async def test_answer_has_the_real_worker_s_fields_status_first(worker_url: str) -> None:
    """The local worker's answer has the real worker's fields in the real worker's order."""
    answer = await run(worker_url, code="print(1)", language="python")
    assert list(answer)[1:] == ["status", "message", "compile_result", "run_result", "executor_pod_name", "files"]
    assert answer["run_result"].pop("execution_time") > 0
    assert answer["run_result"] == {"status": "Finished", "return_code": 0, "stdout": "1\n", "stderr": ""}


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++ here")
async def test_cpp_is_compiled_and_run(worker_url: str) -> None:
    """C++ answers have a compile_result beside the run_result; code that does not compile is not run."""
    code = "#include <iostream>\nint main() { int x; std::cin >> x; std::cout << x * 2; }"
    good = await run(worker_url, code=code, language="cpp", stdin="21", compile_timeout=60)
    assert (good["status"], good["compile_result"]["return_code"], good["run_result"]["stdout"]) == ("Success", 0, "42")
    bad = await run(worker_url, code="int main( {", language="cpp", compile_timeout=60)
    assert (bad["status"], bad["run_result"]) == ("Failed", None)
    assert "error" in bad["compile_result"]["stderr"]


@pytest.mark.skipif(not shutil.which("node"), reason="no node here")
async def test_nodejs_runs(worker_url: str) -> None:
    """JavaScript runs if node is installed."""
    assert (await run(worker_url, code="console.log(6 * 7)", language="nodejs"))["run_result"]["stdout"] == "42\n"


async def test_time_limit_ends_the_whole_process_group(worker_url: str, tmp_path: Path) -> None:
    """A timeout keeps the output so far and kills the program's children."""
    mark = tmp_path / "alive"
    code = f"echo before; (while true; do touch {mark}; sleep 0.05; done) & sleep 60"
    answer = await run(worker_url, code=code, language="bash", run_timeout=0.5)
    result = answer["run_result"]
    assert (result["status"], result["stdout"], result["return_code"]) == ("TimeLimitExceeded", "before\n", None)
    mark.unlink()
    await asyncio.sleep(0.2)  # four of the loop's periods
    assert not mark.exists()


async def test_large_output_is_cut_without_blocking_the_program(worker_url: str) -> None:
    """A program that prints two megabytes ends normally, and its answer has the first part."""
    code = "import sys; sys.stdout.write('x' * 2_000_000); sys.stderr.write('end')"
    result = (await run(worker_url, code=code, language="python"))["run_result"]
    assert (len(result["stdout"]), result["stderr"], result["return_code"]) == (219_000, "end", 0)


async def test_memory_limit_holds(worker_url: str) -> None:
    """memory_limit_MB bounds the program's memory."""
    job = {"code": "x = bytearray(500 * 2**20)", "language": "python"}
    assert (await run(worker_url, **job))["status"] == "Success"
    limited = await run(worker_url, **job, memory_limit_MB=200)
    assert (limited["status"], "MemoryError" in limited["run_result"]["stderr"]) == ("Failed", True)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"../x": ""}, "leads out of the job's directory"),
        ({"/etc/x": ""}, "leads out of the job's directory"),
        ({"a": "%%%"}, "cannot be written"),
    ],
)
async def test_files_that_cannot_be_laid_out_are_a_sandbox_error(
    worker_url: str, files: dict[str, str], said: str
) -> None:
    """A path outside the job's directory, or content that is not base64, is a SandboxError with a message."""
    answer = await run(worker_url, code="print(1)", language="python", files=files)
    assert answer["status"] == "SandboxError"
    assert said in answer["message"]


async def test_job_sees_nothing_of_the_worker_s_environment(tmp_path: Path) -> None:
    """A job does not get the worker's environment; the worker warns that it gives no other isolation."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "router.cli", "local-worker", "--port", str(port)]
    async with Program(argv, tmp_path / "log", {"ADMIN_TOKEN": "s3cret"}) as program:
        await eventually(lambda: _pongs(url), what="the worker's pong")
        answer = await run(url, code="env", language="bash")
        assert "s3cret" not in answer["run_result"]["stdout"]
        assert "runs code WITHOUT ANY ISOLATION" in program.output
        async with aiohttp.ClientSession() as session, session.get(f"{url}/list_datasets") as response:
            assert response.status == 404
        program.send(signal.SIGTERM)
        await program.ended()


async def test_local_worker_passes_a_deep_check(system: System, valkey: Valkey, tmp_path: Path) -> None:
    """A local worker that was down becomes healthy again by completing a deep check's job."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    system.configure([url], health_check_interval=0.2, health_check={"timeout": 5, "deep": True})
    async with system.sidecar(), valkey.client() as redis:

        async def is_found(health: str) -> bool:
            return await redis.hget(f"sfr:worker:{url}", "health") == health

        await eventually(lambda: is_found("unhealthy"), what="the worker to be unhealthy")
        async with local_worker(tmp_path, port):
            await eventually(lambda: is_found("healthy"), what="the worker to be healthy")


async def test_job_ends_with_a_killed_worker(tmp_path: Path) -> None:
    """A job's process does not outlive a local worker that gets SIGKILL."""
    port = free_port()
    mark = tmp_path / "alive"
    async with local_worker(tmp_path, port) as program:
        await eventually(lambda: _pongs(f"http://127.0.0.1:{port}"), what="the worker's pong")
        code = f"import time\nwhile True: open({str(mark)!r}, 'w'); time.sleep(0.05)"
        job = asyncio.create_task(run(f"http://127.0.0.1:{port}", code=code, language="python", run_timeout=60))
        await eventually(mark.exists, what="the job's start")
        program.send(signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await job
        mark.unlink()
        await asyncio.sleep(0.2)  # four of the loop's periods
        assert not mark.exists()
