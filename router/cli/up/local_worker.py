"""A local stand-in for a SandboxFusion worker, for demos and tests: the same API, real code, no isolation at all.

It starts each job at once, as the real worker does, in a process group and a temporary directory of its own. Both are
gone when the job has ended.
"""

import asyncio
import base64
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.middleware.base import RequestResponseEndpoint

from router.api.sandboxfusion import CommandResult, CommandStatus, RunCodeRequest, RunCodeResponse, RunStatus
from router.auth.origin import Pages
from router.processes import die_with_parent, signal_group

# The real worker cuts stdout at about 219 kB.
OUTPUT_LIMIT_BYTES = 219_000
# A process may leave the group and hold the pipes open. After this time its output is ignored.
_DRAIN_S = 1.0
_READ_BYTES = 65_536


class SandboxError(Exception):
    """The worker cannot run the job; the message says why."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The commands of one language; the code is written to the file `source`."""

    source: str
    run: tuple[str, ...]
    compile: tuple[str, ...] | None = None


TOOLCHAINS = {
    "python": Toolchain("main.py", (sys.executable, "main.py")),
    "bash": Toolchain("main.sh", ("bash", "main.sh")),
    "nodejs": Toolchain("main.js", ("node", "main.js")),
    "cpp": Toolchain("main.cpp", ("./main",), ("g++", "-std=c++17", "main.cpp", "-o", "main")),
}


def create_local_worker(trusted_hosts: Collection[str] = ()) -> FastAPI:
    """Return the worker's application; `trusted_hosts` are those of config.yaml."""
    # FastAPI's own pages load scripts from other hosts.
    app = FastAPI(
        title="SandboxFusion local worker",
        description="Runs code WITHOUT isolation.",
        docs_url=None,
        redoc_url=None,
    )
    pages = Pages((), trusted_hosts)

    @app.middleware("http")
    async def refuse_foreign_pages(request: Request, answer: RequestResponseEndpoint) -> Response:
        # FastAPI takes only JSON, which pages of other sites cannot send. A page can, if its site's name resolves to
        # this host.
        if reason := pages.refusal(request.headers.raw):
            return JSONResponse({"detail": reason}, HTTPStatus.FORBIDDEN)
        return await answer(request)

    @app.get("/v1/ping")
    async def ping() -> str:
        return "pong"

    @app.post("/run_code")
    async def run_code(job: RunCodeRequest) -> RunCodeResponse:
        try:
            with tempfile.TemporaryDirectory(prefix="sfr-job-", ignore_cleanup_errors=True) as folder:
                return await _run_job(job, Path(folder))
        except SandboxError as error:
            return RunCodeResponse(status=RunStatus.SANDBOX_ERROR, message=str(error))

    return app


async def _run_job(job: RunCodeRequest, folder: Path) -> RunCodeResponse:
    toolchain = TOOLCHAINS.get(job.language)
    if toolchain is None:
        raise SandboxError(f"the local worker does not run {job.language}, only {', '.join(TOOLCHAINS)}")
    (folder / toolchain.source).write_text(job.code, encoding="utf-8")
    for name, content in job.files.items():
        _lay_out(folder, name, content or "")
    compiled = None
    if toolchain.compile:
        compiled = await _command(toolchain.compile, folder, None, job.compile_timeout, -1)
        if compiled.return_code != 0:
            return RunCodeResponse(status=RunStatus.FAILED, message="", compile_result=compiled)
    ran = await _command(toolchain.run, folder, job.stdin, job.run_timeout, job.memory_limit_MB)
    return RunCodeResponse(
        status=RunStatus.SUCCESS if ran.return_code == 0 else RunStatus.FAILED,
        message="",
        compile_result=compiled,
        run_result=ran,
        files=_fetch(folder, job.fetch_files),
    )


async def _command(
    argv: tuple[str, ...], folder: Path, stdin: str | None, timeout_s: float, memory_mb: int
) -> CommandResult:
    if not (argv[0].startswith("./") or shutil.which(argv[0])):
        raise SandboxError(f"{argv[0]} is not installed beside the local worker")
    start = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        # The job does not get the worker's environment, because it may hold secrets.
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "LANG": "C.UTF-8"},
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: _confine(memory_mb),
    )
    stdout, stderr = bytearray(), bytearray()
    streams = asyncio.gather(
        _feed(process.stdin, stdin), _collect(process.stdout, stdout), _collect(process.stderr, stderr)
    )
    is_in_time = True
    try:
        async with asyncio.timeout(timeout_s):
            await process.wait()
    except TimeoutError:
        is_in_time = False
    finally:
        elapsed = time.monotonic() - start
        signal_group(process, signal.SIGKILL)
        with suppress(TimeoutError):
            await asyncio.wait_for(streams, _DRAIN_S)
    return CommandResult(
        status=CommandStatus.FINISHED if is_in_time else CommandStatus.TIME_LIMIT_EXCEEDED,
        execution_time=elapsed,
        return_code=process.returncode if is_in_time else None,
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
    )


def _confine(memory_mb: int) -> None:
    """Limit the job. Called in the child, between fork and exec."""
    die_with_parent(signal.SIGKILL)
    if memory_mb > 0:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20, memory_mb * 2**20))


async def _feed(pipe: asyncio.StreamWriter | None, text: str | None) -> None:
    if pipe is None or text is None:
        return
    with suppress(ConnectionError):  # a program may end without reading its input
        pipe.write(text.encode())
        await pipe.drain()
    pipe.close()


async def _collect(pipe: asyncio.StreamReader | None, into: bytearray) -> None:
    """Keep output up to the limit, and read the rest, so that the program does not block."""
    while pipe is not None and (part := await pipe.read(_READ_BYTES)):
        into += part[: OUTPUT_LIMIT_BYTES - len(into)]


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise SandboxError(f"file path {name!r} leads out of the job's directory")
    return path


def _lay_out(folder: Path, name: str, content: str) -> None:
    path = _inside(folder, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content, validate=True))
    except (ValueError, OSError) as error:
        raise SandboxError(f"file {name!r} cannot be written: {error}") from error


def _fetch(folder: Path, names: list[str]) -> dict[str, str]:
    paths = {name: _inside(folder, name) for name in names}
    return {name: base64.b64encode(path.read_bytes()).decode() for name, path in paths.items() if path.is_file()}
