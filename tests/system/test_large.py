"""Large answers through real gunicorn: their memory, and the log line of one that breaks off."""

import json
from pathlib import Path

import aiohttp

from tests.support.eventually import eventually
from tests.support.load import JOB, post_job
from tests.support.programs import Router, System
from tests.support.worker import Exchange, ScriptedWorker

MB = 2**20
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
START, END = b'{"status":"Success","stdout":"', b'"}'


class LargeAnswer:
    """A script that sends a JSON object of about `size_mb` MB, and counts the MB that it has sent."""

    def __init__(self, size_mb: int) -> None:
        self.size_mb = size_mb
        self.sent_mb = 0

    async def __call__(self, exchange: Exchange) -> None:
        """Send the object."""
        await exchange.raw(HEAD + _chunk(START))
        part = _chunk(b"x" * MB)
        while self.sent_mb < self.size_mb:
            await exchange.raw(part)
            self.sent_mb += 1
        await exchange.raw(_chunk(END) + b"0\r\n\r\n")


def _chunk(part: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(part), part)


def _peak_mb(pid: int) -> float:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


async def test_large_answer_to_a_client_that_does_not_read_costs_no_memory(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """The worker is slowed to the client's pace, the router's memory stays small, and the whole answer arrives."""
    large = LargeAnswer(200)
    seen: list[int] = []

    def stands_still() -> bool:
        seen.append(large.sent_mb)
        return len(seen) > 10 and seen[-10] == seen[-1] > 1

    system.configure([workers[0].url])
    async with system.sidecar(), system.router(1) as router, aiohttp.ClientSession(read_bufsize=MB) as session:
        await router.sees(healthy=1)
        await post_job(router.url)
        (pid,) = router.children()
        before_mb = _peak_mb(pid)
        workers[0].script = large
        async with session.post(f"{router.url}/run_code", json=JOB) as response:
            await response.content.readexactly(MB)
            await eventually(stands_still, what="the worker to stall")
            # Our buffer and uvicorn's hold 1 MB each, and each connection up to 10 MB (net.ipv4.tcp_wmem, tcp_rmem).
            assert large.sent_mb < 40
            got, end = MB, b""
            async for part in response.content.iter_any():
                got, end = got + len(part), (end + part)[-1000:]
        assert _peak_mb(pid) - before_mb < 32
    tail = json.loads(b"{" + end[end.index(b'"router_metadata"') :])
    assert tail["router_metadata"]["worker_url"] == workers[0].url
    assert got > 200 * MB


async def test_answer_that_breaks_off_is_logged_in_one_line(system: System, workers: list[ScriptedWorker]) -> None:
    """The line has job, worker and cause, and the client sees that its answer is incomplete."""

    async def die(exchange: Exchange) -> None:
        await exchange.raw(HEAD + _chunk(START + b"x" * 3 * MB))
        exchange.close()

    system.configure([workers[0].url])
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=1)
        before = _warnings(router)
        workers[0].script = die
        named = aiohttp.ClientSession(headers={"x-request-id": "job-abc-42"})
        async with named as session, session.post(f"{router.url}/run_code", json=JOB) as response:
            try:
                await response.read()
            except aiohttp.ClientPayloadError:
                pass
            else:
                raise AssertionError("the answer looks whole")
        await eventually(lambda: len(_warnings(router)) > len(before), what="the line")
        (told,) = _warnings(router)[len(before) :]
    assert "WARNING Job job-abc-42 failed: 200 answer_cut after " in told
    assert f"; {workers[0].url} closed the connection in mid-answer" in told


def _warnings(router: Router) -> list[str]:
    return [line for line in router.output.splitlines() if " INFO " not in line]
