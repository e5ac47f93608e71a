"""API, log, CLI, dashboard and metrics agree about a fleet in trouble: real gunicorn, sidecar and Valkey."""

import asyncio
import json
from typing import Any

import aiohttp
from typer.testing import CliRunner

from router.cli.main import app
from tests.support.eventually import eventually
from tests.support.load import post_jobs
from tests.support.programs import Router, System, Valkey, get_json
from tests.support.scrape import scrape
from tests.support.worker import Gate, ScriptedWorker, always, hang, well

REASON = "5 failed jobs in a row, the last: returned 503: Service Unavailable"


async def sfr(*words: str) -> str:
    """Return the output of an `sfr` command."""
    done = await asyncio.to_thread(CliRunner().invoke, app, words, prog_name="sfr")
    assert done.exception is None, done.output
    return done.stdout


async def dashboard(router: Router) -> Any:
    """Return the first event of the dashboard's stream."""
    async with (
        aiohttp.ClientSession(read_bufsize=2**20) as session,
        session.get(f"{router.url}/dashboard/events") as got,
    ):
        async for line in got.content:
            if line.startswith(b"data: "):
                return json.loads(line.removeprefix(b"data: "))
    raise AssertionError("no event")


async def test_every_view_shows_an_ejection_s_cause_and_end(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Log, API, `sfr status` (by router and by Redis) and dashboard name an ejection's cause and end."""
    bad = workers[0]
    bad.script = always(503)
    system.configure([worker.url for worker in workers], breaker={"failures": 5, "base_seconds": 2})
    async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        await post_jobs(router.url, 60, 4)
        await router.sees(healthy=2)
        (shown,) = [w for w in (await get_json(f"{router.url}/"))["workers"] if w["url"] == bad.url]  # type: ignore[attr-defined]
        assert (shown["health"], shown["ejected_because"]) == ("ejected", REASON)
        for way in (("--url", router.url), ("--redis", valkey.url)):
            (line,) = [line for line in (await sfr("status", *way)).splitlines() if bad.url in line]
            assert f": {REASON}" in line
            assert " ejected " in line
        (row,) = [row for row in (await dashboard(router))["rows"] if row[1] == "ejected"]
        assert (row[4], row[8]) == (REASON, float(await redis.hget(f"sfr:breaker:{bad.url}", "ejected_until") or 0))
        await eventually(lambda: router.output.count(f"Worker {bad.url} is ejected until ") == 2, what="both lines")
        bad.script = well

        async def is_back() -> bool:
            await post_jobs(router.url, 6, 3)
            return not await redis.exists(f"sfr:breaker:{bad.url}")

        await eventually(is_back, what="the closed breaker")
        told = f"Worker {bad.url} is ejected no more: it gets jobs again"
        await eventually(lambda: router.output.count(told) == 2, what="both lines")
        assert all(worker["ejected_because"] == "" for worker in (await get_json(f"{router.url}/"))["workers"])  # type: ignore[attr-defined]


async def test_every_view_shows_the_same_running_and_pending_jobs(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """All views show the same numbers of slots, running and pending jobs, even with jobs hanging on a sick worker."""
    gate = Gate()
    for worker in workers:
        worker.script = gate
    sick = workers[0]
    system.configure([worker.url for worker in workers], default_max_concurrency=4, timeout=60, queue={"timeout": 60})
    async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        jobs = asyncio.create_task(post_jobs(router.url, 17, 17))
        await eventually(lambda: sum(worker.running for worker in workers) == 12, what="all slots taken")
        sick.ping = hang
        await router.sees(healthy=2)
        for way in (("--url", router.url), ("--redis", valkey.url)):
            facts = [" ".join(line.split()) for line in (await sfr("status", *way)).splitlines()]
            assert {"running 12 of 12", "waiting 5"} <= set(facts)
            report = json.loads(await sfr("status", "--json", *way))
            assert (sum(worker["running"] for worker in report["workers"]), report["waiting"]) == (12, 5)
        assert "running 12 of 12, 5 waiting" in " ".join(
            (await sfr("top", "--once", "--interval", "1", "--url", router.url)).split()
        )
        (*_, now) = (await dashboard(router))["history"]
        assert (now[2], now[3], now[8]) == (12, 5, 12)
        page = await scrape(router.url)
        assert sum(page.by_worker("sfr_worker_leases").values()) == 12
        assert sum(page.by_worker("sfr_worker_cap").values()) == 12
        (held,) = page.values("sfr_jobs_running").values()
        assert held == 12
        stats = await get_json(f"{router.url}/admin/stats")
        assert (stats["running"], stats["waiting"]) == (12, 5)
        beats = [await redis.hget(key, "leases") async for key in redis.scan_iter("sfr:process:*")]
        assert sum(int(leases or 0) for leases in beats) == 12
        gate.open()
        assert {answer.status for answer in await jobs} == {200}
