"""Batches through real gunicorn: no job is lost, memory is bounded, the order is fair, and a stop is clean."""

import asyncio
import json
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.eventually import eventually
from tests.support.load import post_job
from tests.support.programs import Router, System
from tests.support.worker import RESULT, Exchange, Gate, ScriptedWorker, always, takes

MB = 2**20


def jobs(count: int, **more: object) -> bytes:
    """Return `count` jobs, one per line."""
    return b"".join(json.dumps({"code": f"print({number})", **more}).encode() + b"\n" for number in range(count))


async def post(router: Router, body: Any) -> list[dict[str, Any]]:
    """Send a batch and return its lines in the order they arrived."""
    url = f"{router.url}/run_code/batch"
    async with aiohttp.ClientSession(read_bufsize=MB) as session, session.post(url, data=body) as response:
        assert response.status == 200
        return [json.loads(line) for line in (await response.read()).splitlines()]


def memory_mb(router: Router, kind: str = "VmHWM") -> float:
    """Return the peak memory (or another `kind`) of the router's only process."""
    (pid,) = router.children()
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024


async def test_thousand_jobs_have_a_line_each_while_workers_fail(system: System, workers: list[ScriptedWorker]) -> None:
    """One worker dies during jobs and some jobs fail for good: each job still has exactly one line, the right one."""
    first, second, third = workers

    async def answer(exchange: Exchange) -> None:
        code = json.loads(exchange.request.body)["code"]
        await asyncio.sleep(0.005)
        if code.endswith("7)"):
            await exchange.answer(422, {"detail": code})
        else:
            await exchange.answer(200, {**RESULT, "message": code})

    async def die_now_and_then(exchange: Exchange) -> None:
        if len(first.jobs) % 20 == 0:
            await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{")
            exchange.close()
        else:
            await answer(exchange)

    first.script = die_now_and_then
    second.script = third.script = answer
    system.configure([worker.url for worker in workers], default_max_concurrency=8, retry={"budget_percent": 1000})
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        batches = await asyncio.gather(*(post(router, jobs(1000)) for _ in range(2)))
    for lines in batches:
        assert sorted(line["index"] for line in lines) == list(range(1000))
        for line in lines:
            code = f"print({line['index']})"
            is_bad = code.endswith("7)")
            assert (line["status"], line["body"]["detail" if is_bad else "message"]) == (422 if is_bad else 200, code)
    assert max(worker.most_at_once for worker in workers) == 8
    assert any(line["body"].get("router_metadata", {}).get("attempt") == 2 for line in batches[0] + batches[1])


async def test_client_that_does_not_read_holds_up_its_batch_and_nothing_else(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """A batch starts only the jobs that fit into its sockets; memory stays flat, and other clients are served."""
    worker = workers[0]
    worker.script = always(200, {**RESULT, "message": "x" * 20_000})
    system.configure([worker.url])
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=1)
        await post(router, jobs(100))
        before_mb, before = memory_mb(router), len(worker.jobs)
        body = jobs(20_000, more="y" * 1000)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MB // 4)
        sock.connect(("127.0.0.1", router.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1)
        head = b"POST /run_code/batch HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        begun: list[int] = []

        def stands_still() -> bool:
            begun.append(len(worker.jobs) - before)
            return len(begun) > 25 and begun[-25] == begun[-1] > 64

        await eventually(stands_still, what="the batch to stall")
        # At 20 kB a line: 4 MB in the kernel (net.ipv4.tcp_wmem), our receive buffer, and 64 lines not yet written.
        assert begun[-1] < 600
        assert writer.transport.get_write_buffer_size() > 0
        assert (await post_job(router.url)).status == 200
        assert memory_mb(router) - before_mb < 16
        assert not reader.at_eof()
        writer.transport.abort()
        assert (await post_job(router.url)).status == 200
        assert len(worker.jobs) - before < begun[-1] + 3 + 64


async def test_endless_batch_takes_bounded_memory(system: System, workers: list[ScriptedWorker]) -> None:
    """200 MB of jobs, in 10,000 lines of 20 kB and one of 20 MB, do not grow the router's memory."""
    system.configure([worker.url for worker in workers], max_body_mb=2, max_buffered_mb=4)
    line = b'{"code": "%s"}\n' % (b"x" * 20_000)

    async def body() -> AsyncIterator[bytes]:
        yield b'{"code": "'
        for _ in range(20):
            yield b"x" * MB
        yield b'"}\n'
        for _ in range(1000):
            yield line * 10

    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=3)
        await post(router, jobs(100))
        before_mb = memory_mb(router)
        lines = await post(router, body())
        assert memory_mb(router) - before_mb < 24
    assert Counter(line["status"] for line in lines) == {200: 10_000, 413: 1}


async def test_single_job_waits_for_its_fair_place_beside_a_huge_batch(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """A single job overtakes most of a huge batch: only a bounded share of the batch starts before it."""
    begun: list[bool] = []  # in order; True for the single job

    async def script(exchange: Exchange) -> None:
        begun.append(b"alone" in exchange.request.body)
        await takes(0.05)(exchange)

    for worker in workers:
        worker.script = script
    system.configure([worker.url for worker in workers], default_max_concurrency=4, batch={"max_in_flight": 48})
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        batch = asyncio.create_task(post(router, jobs(3000)))
        await eventually(lambda: sum(len(worker.jobs) for worker in workers) > 100, what="a batch under way")
        before = []
        for _ in range(10):
            came = len(begun)
            assert (await post_job(router.url, code="alone")).status == 200
            before.append(begun.index(True, came) - came)
        assert not batch.done()
        batch.cancel()
        await asyncio.gather(batch, return_exceptions=True)
    assert sorted(before)[5] < 200  # includes jobs that start while the single job is on its way
    assert max(worker.most_at_once for worker in workers) == 4


async def test_stopped_router_finishes_started_jobs_and_starts_no_more(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """Both a running batch and one whose client sends nothing are cut short, visibly to their clients."""
    worker, gate = workers[0], Gate()
    worker.script = gate
    system.configure([worker.url], batch={"max_in_flight": 5})

    has_gone_on = asyncio.Event()

    async def idle() -> AsyncIterator[bytes]:
        yield b"\n"
        await asyncio.sleep(60)
        has_gone_on.set()

    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=1)
        url = f"{router.url}/run_code/batch"
        async with aiohttp.ClientSession() as session, session.post(url, data=jobs(5000)) as response:
            await eventually(lambda: worker.running == 5, what="five jobs")
            silent = asyncio.create_task(session.post(url, data=idle()))
            await asyncio.sleep(0.2)
            router.send(signal.SIGTERM)
            assert (await silent).status == 503
            gate.open()
            lines = [json.loads(await response.content.readline()) for _ in range(5)]
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()
            await router.ended()
            assert not has_gone_on.is_set()
    assert sorted(line["index"] for line in lines) == [0, 1, 2, 3, 4]
    assert len(worker.jobs) == 5
    assert "Cut a batch short after 6 jobs: this router process is told to stop" in router.output
    assert "Traceback" not in router.output
