"""Load for a proxy: closed loops by wrk, which sends when an answer is there, and open ones by bench.openloop.

A closed loop finds what a proxy can do, but is kind to its latency: while the proxy stalls, nothing is sent. Only an
open loop, which sends at its own pace, counts what a stall does to all who come meanwhile.
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

# A job and its answer as they mostly are.
REQUEST_BYTES, ANSWER_BYTES = 1_200, 400
# Slower is a failure: wrk does not count what takes longer.
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
    """What is sent. With a rate (arrivals a second) the loop is open; without, each connection waits for its answer."""

    connections: int = 64
    reconnects: bool = False  # a new connection for each job, as verl does it
    request_bytes: int = REQUEST_BYTES
    answer_bytes: int = ANSWER_BYTES
    rate: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What came back. An open loop's latency counts from the moment at which a job was to be sent."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int


async def send(load: Load, port: int, seconds: float) -> Outcome:
    """Send jobs for some seconds. Fails where wrk or the generator does; wrong answers are counted."""
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
