"""A process that ends, by a reload, a signal or max_requests, costs no client its request."""

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme

from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.programs import Program, Router, System
from tests.support.strict import Strict, connected, outcome, strict_load
from tests.support.worker import ScriptedWorker, takes

NO_REDIS = "redis://127.0.0.1:1/0"
_READY, _STOPPING, _ENDED = "Application startup complete", "Shutting down", "Finished server process"
UVICORN = [sys.executable, "-m", "uvicorn", "router:app", "--http", "router.downstream:ClientConnection"]


@pytest.fixture
def routed(system: System, worker: ScriptedWorker) -> System:
    """A configuration with this worker and without Redis."""
    system.env["REDIS_URL"] = NO_REDIS
    system.configure([worker.url])
    return system


async def _told(program: Program, number: signal.Signals, processes: int, *pids: int) -> None:
    """Send a signal to `pids`, or else to the program, and wait until `processes` more processes have begun to stop."""
    before = program.output.count(_STOPPING)
    for pid in pids or (program.pid,):
        os.kill(pid, number)
    await eventually(lambda: program.output.count(_STOPPING) >= before + processes, what="the stop")


async def _hup(router: Router) -> None:
    # The master stops the old processes one by one, up to a second apart; by then the first one no longer waits.
    await _told(router, signal.SIGHUP, 1)


async def _term(router: Router) -> None:
    await _told(router, signal.SIGTERM, router.processes)


async def _ttou(router: Router) -> None:
    await _told(router, signal.SIGTTOU, 1)


async def _each_alone(router: Router) -> None:
    await _told(router, signal.SIGTERM, router.processes, *router.children())


@pytest.mark.parametrize("stop", [_hup, _term, _ttou, _each_alone])
async def test_connections_opened_before_a_process_stops_are_served(
    routed: System, stop: Callable[[Router], Awaitable[None]]
) -> None:
    """40 connections without a request so far, and 40 kept after an answer, get an answer to their next request."""
    async with routed.router(2) as router:
        fresh = [await connected(router.port) for _ in range(40)]
        kept = [await connected(router.port) for _ in range(40)]
        assert all(await asyncio.gather(*(connection.ask() for connection in kept)))
        await stop(router)
        told = await asyncio.gather(*map(outcome, fresh + kept))
        assert told == ["answered"] * 80


async def test_uvicorn_alone_serves_connections_opened_before_it_stops(routed: System, tmp_path: Path) -> None:
    """Without gunicorn, uvicorn serves its open connections and then ends."""
    port = free_port()
    async with Program([*UVICORN, "--port", str(port)], tmp_path / "uvicorn.log", routed.env) as server:
        await eventually(lambda: "Uvicorn running" in server.output, 30, "uvicorn's start")
        fresh = [await connected(port) for _ in range(40)]
        kept = [await connected(port) for _ in range(40)]
        assert all(await asyncio.gather(*(connection.ask() for connection in kept)))
        await _told(server, signal.SIGTERM, 1)
        assert await asyncio.gather(*map(outcome, fresh + kept)) == ["answered"] * 80
        await server.ended()


async def test_process_that_stops_answers_once_more_and_closes(routed: System) -> None:
    """A stopping process answers with `connection: close`, so that the client's next request goes elsewhere."""
    async with routed.router(1) as router:
        connection = await connected(router.port)
        assert await connection.ask()
        await _term(router)
        assert not await connection.ask()
        assert await connection.reader.read() == b""
        connection.close()
        assert await router.ended() == 0


async def test_connections_that_send_nothing_do_not_keep_a_process_from_ending(routed: System) -> None:
    """Silent connections are closed after a second, new or kept; a request that has begun is answered."""
    async with routed.router(1) as router:
        fresh, kept, begun = [await connected(router.port) for _ in range(3)]
        assert await kept.ask()
        begun.writer.write(b"POST /run_code HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n")
        await asyncio.sleep(0)
        await _term(router)
        assert [await connection.reader.read() for connection in (fresh, kept)] == [b"", b""]
        begun.writer.write(b"\r\n{}")
        assert b"connection: close" in await begun.reader.readuntil(b"\r\n\r\n")
        for connection in (fresh, kept, begun):
            connection.close()
        assert await router.ended() == 0


@pytest.mark.parametrize("keeps", [False, True], ids=["new connections", "kept connections"])
async def test_reloads_under_load_lose_no_request(routed: System, keeps: bool) -> None:
    """Under 64 strict clients and three HUPs, each request that was sent is answered."""
    async with routed.router(2) as router, strict_load(router.port, 64, keeps=keeps) as counts:
        for generation in range(2, 5):
            await _hup(router)
            await eventually(lambda goal=generation: router.output.count(_READY) >= 2 * goal, 60, "new processes")  # type: ignore[misc]
            goal = counts.answered + 500
            await eventually(lambda goal=goal: counts.answered >= goal or counts.lost, 60, "answers")  # type: ignore[misc]
        await eventually(lambda: router.output.count(_ENDED) >= 6, 60, "the end of the old processes")
    assert counts.lost == []
    assert counts.refused == 0
    assert counts.last > 0 if keeps else counts.answered > 0


@pytest.mark.parametrize("keeps", [False, True], ids=["new connections", "kept connections"])
@pytest.mark.parametrize("is_gunicorn", [False, True], ids=["uvicorn", "gunicorn"])
async def test_sigterm_under_load_loses_no_request(
    routed: System, tmp_path: Path, is_gunicorn: bool, keeps: bool
) -> None:
    """Clients that are connected are answered; later ones are refused and can go elsewhere."""
    port = free_port()
    uvicorn = Program([*UVICORN, "--port", str(port)], tmp_path / "uvicorn.log", routed.env)
    async with routed.router(2) if is_gunicorn else uvicorn as server:
        port = server.port if isinstance(server, Router) else port
        await eventually(lambda: is_gunicorn or "Uvicorn running" in server.output, 30, "uvicorn's start")
        async with strict_load(port, 64, keeps=keeps) as counts:
            await eventually(lambda: counts.answered > 500, 60, "answers")
            server.send(signal.SIGTERM)
            await server.ended(60)
            await eventually(lambda: counts.refused, what="a refusal")
    assert counts.lost == []


async def test_connections_over_tls_are_served_before_a_process_stops(routed: System, tmp_path: Path) -> None:
    """TLS connections are served like others, and a client that speaks no TLS costs nothing."""
    authority, trusting = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trusting)
    pem = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    routed.env["GUNICORN_CMD_ARGS"] = f"--certfile {pem} --keyfile {pem}"
    async with routed.router(2) as router:
        plain = await connected(router.port)
        plain.writer.write(b"GET /health HTTP/1.1\r\n\r\n")
        clients = [Strict(*await asyncio.open_connection("127.0.0.1", router.port, ssl=trusting)) for _ in range(20)]
        assert all(await asyncio.gather(*(client.ask() for client in clients[:10])))
        await _term(router)
        assert await asyncio.gather(*map(outcome, clients)) == ["answered"] * 20
        plain.close()
        assert await router.ended() == 0


async def test_process_replaced_after_its_count_of_requests_loses_none(routed: System) -> None:
    """`max_requests` ends processes again and again, and each serves its clients first."""
    routed.env["GUNICORN_CMD_ARGS"] = "--max-requests 300"
    async with routed.router(2) as router, strict_load(router.port, 32, keeps=True) as counts:
        await eventually(lambda: router.output.count(_ENDED) >= 2 or counts.lost, 60, "two that were replaced")
    assert counts.lost == []


async def test_process_that_finishes_its_jobs_is_not_killed_as_hung(routed: System, worker: ScriptedWorker) -> None:
    """A stopping process still sends its sign of life, because gunicorn kills one that is silent for `--timeout`."""
    worker.script = takes(4)
    routed.env["GUNICORN_CMD_ARGS"] = "--timeout 1"
    async with routed.router(1) as router:
        connection = await connected(router.port)
        told = asyncio.create_task(outcome(connection))
        await eventually(lambda: worker.running == 1, what="a job on the worker")
        await _each_alone(router)
        assert await told == "answered"
        assert "WORKER TIMEOUT" not in router.output
