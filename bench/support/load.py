"""Puts a proxy under load: a closed loop by wrk, or an open loop by bench.support.openloop.

A closed loop sends a job on each connection when it has the answer to the one before. It finds the proxy's throughput.
But while the proxy stalls, it sends nothing, so it hides latency. An open loop sends at a fixed rate, and so counts
what a stall does to the jobs that come meanwhile.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory

from bench.support.proxies import find

# The size of a usual job and of its answer.
REQUEST_BYTES, ANSWER_BYTES = 1_200, 400
# An answer that takes longer is an error, because wrk does not count it.
_TIMEOUT_S = 10

_SCRIPT = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
%s
wrk.body = '{"language": "python", "code": "' .. string.rep("x", %d) .. '"}'
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('\\n{"requests": %%d, "seconds": %%f, "p50_ms": %%f, "p99_ms": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What is sent. With `rate` (arrivals a second) the loop is open, without it the loop is closed."""

    connections: int = 64
    reconnects: bool = False  # a new connection for each job, as verl does it
    request_bytes: int = REQUEST_BYTES
    answer_bytes: int = ANSWER_BYTES
    rate: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What came back. In an open loop, latency counts from the moment at which a job was due."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int


async def send(load: Load, port: int, seconds: float) -> Outcome:
    """Send jobs for some seconds. Counts wrong answers as errors. Raises RuntimeError if the load program fails."""
    target = f"/run_code?answer={load.answer_bytes}"
    with TemporaryDirectory() as folder:
        if load.rate:
            words = (port, target, load.request_bytes, load.rate, seconds, int(load.reconnects))
            argv = [sys.executable, "-m", "bench.support.openloop", *map(str, words)]
        else:
            script = Path(folder) / "post.lua"
            header = 'wrk.headers["connection"] = "close"' if load.reconnects else ""
            script.write_text(_SCRIPT % (header, load.request_bytes - 40))
            url = f"http://127.0.0.1:{port}{target}"
            options = ("-t1", f"-c{load.connections}", f"-d{seconds:g}s", f"--timeout={_TIMEOUT_S}s", "-s", str(script))
            argv = [find("wrk") or "wrk", *options, url]
        output = await _run(argv)
    return Outcome(**json.loads(output.splitlines()[-1]))


async def _run(argv: Sequence[str]) -> str:
    process = await asyncio.create_subprocess_exec(*argv, stdout=PIPE)
    try:
        output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise RuntimeError(f"{argv[0]} ended with status {process.returncode}\n{output}")
    return output
