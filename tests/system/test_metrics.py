"""Metrics of whole systems: counts of all processes, of ended ones, and of the fleet."""

import asyncio
import os
import re
import signal
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.load import post_jobs
from tests.support.programs import ROOT, Router, System, Valkey
from tests.support.scrape import Scrape, scrape
from tests.support.worker import ScriptedWorker, always

DOCS = ROOT / "docs" / "metrics.md"
JOBS = 60


async def counted(router: Router, name: str, value: float) -> Scrape:
    """Wait until a series sums to `value`; each process writes its counts once a second."""
    await eventually(lambda: _is(router, name, value), what=f"{name} of {value:g}")
    return await scrape(router.url)


async def _has_some(router: Router, name: str) -> bool:
    return (await scrape(router.url)).total(name) > 0


async def _is(router: Router, name: str, value: float) -> bool:
    return (await scrape(router.url)).total(name) == value


async def test_page_sums_live_and_ended_processes(system: System, workers: list[ScriptedWorker]) -> None:
    """Every page counts each job once, and keeps the counts of a killed process."""
    workers[0].script = always(503)
    system.configure([worker.url for worker in workers], default_max_concurrency=4, breaker={"failures": 1000})
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        answers = await post_jobs(router.url, JOBS, 6, keep_alive=False)
        assert {answer.status for answer in answers} == {200}
        seen = await counted(router, "sfr_requests_total", JOBS)
        assert seen.values("sfr_requests_total") == {("/run_code", "200", "result"): JOBS}
        assert seen.total("sfr_request_duration_seconds_count") == JOBS
        failed = len(workers[0].jobs)
        assert seen.values("sfr_retries_total")["fault",] == failed > 0
        assert seen.total("sfr_attempts_total") == seen.total("sfr_queue_wait_seconds_count") == JOBS + failed
        assert seen.total("sfr_processes") == 2

        (shared,) = system.folder.glob("sfr-metrics-*")
        assert shared.stat().st_mode & 0o777 == 0o700
        os.kill(router.children()[0], signal.SIGKILL)
        await eventually(lambda: router.output.count("Application startup complete") == 3, what="another process")
        seen = await counted(router, "sfr_processes", 2)
        assert seen.total("sfr_requests_total") == JOBS
        router.send(signal.SIGHUP)
        await eventually(lambda: router.output.count("Application startup complete") == 5, what="new processes")
        seen = await counted(router, "sfr_processes", 2)
        assert seen.total("sfr_requests_total") == JOBS
        await eventually(
            lambda: shown_by(shared) == {*map(str, router.children()), "ended"}, what="two processes' files"
        )
        router.send(signal.SIGTERM)
        assert await router.ended() == 0
        assert not shared.exists()


def shown_by(folder: Path) -> set[str]:
    """Return the names in these files: process ids, and `ended` for all ended processes."""
    return {file.stem.rpartition("_")[2] for file in folder.glob("*.db")}


async def test_fleet_is_the_same_at_every_router(system: System, workers: list[ScriptedWorker]) -> None:
    """Every router shows the same counts of the fleet, drops those of a removed worker, and the docs name all."""
    workers[0].script = always(503)
    urls = [worker.url for worker in workers]
    caps = {"default_max_concurrency": 4, "breaker": {"failures": 3, "base_seconds": 60}}
    system.configure(urls, **caps)
    async with system.sidecar(), system.router(2) as one, system.router(1) as other:
        await one.sees(healthy=3)
        await other.sees(healthy=3)
        await asyncio.gather(*(post_jobs(router.url, JOBS, 6, keep_alive=False) for router in (one, other)))
        for router in (one, other):
            await counted(router, "sfr_worker_jobs_total", 2 * JOBS + len(workers[0].jobs))
            await counted(router, "sfr_workers_routable", 2)
            seen = await counted(router, "sfr_requests_total", JOBS)
            assert seen.by_worker("sfr_worker_jobs_total") == {worker.url: len(worker.jobs) for worker in workers}
            assert seen.by_worker("sfr_worker_failures_total") == dict(
                zip(urls, (len(workers[0].jobs), 0, 0), strict=True)
            )
            assert seen.by_worker("sfr_worker_busy_seconds_total").keys() == set(urls)
            assert seen.by_worker("sfr_worker_up") == dict.fromkeys(urls, 1)
            assert seen.by_worker("sfr_worker_cap") == dict.fromkeys(urls, 4)
            assert seen.by_worker("sfr_worker_leases") == dict.fromkeys(urls, 0)
            assert seen.by_worker("sfr_worker_ejected") == dict(zip(urls, (1, 0, 0), strict=True))
            assert seen.values("sfr_tenant_jobs_total") == {("default",): 2 * JOBS}
            busy_s = seen.total("sfr_worker_busy_seconds_total")
            assert abs(seen.total("sfr_tenant_busy_seconds_total") - busy_s) <= 0.005 * busy_s
            assert seen.total("sfr_sidecar_age_seconds") >= 0
        assert named(seen) == documented()
        system.configure(urls[1:], **caps)
        for router in (one, other):
            await eventually(lambda router=router: _knows_only(router, urls[1:]), what="the smaller fleet")  # type: ignore[misc]


async def _knows_only(router: Router, urls: list[str]) -> bool:
    seen = await scrape(router.url)
    labels = [sample.labels for family in seen.families for sample in family.samples]
    return {label["worker"] for label in labels if "worker" in label} == set(urls)


def named(seen: Scrape) -> set[tuple[str, str, str]]:
    """Return each metric's name, type and labels."""
    found = set()
    for family in seen.families:
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found.add((name, family.type, ", ".join(sorted(labels))))
    return found


def documented() -> set[tuple[str, str, str]]:
    """Return name, type and labels of each metric in the docs."""
    return set(re.findall(r"^\| `(sfr_\w+)` \| (\w+) \| ?([\w, ]*?) ?\|", DOCS.read_text(), re.MULTILINE))


async def test_metrics_show_an_outage_of_redis(system: System, workers: list[ScriptedWorker], valkey: Valkey) -> None:
    """During an outage both processes report it; afterwards the fleet's counts include the jobs of that time."""
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        await eventually(lambda: _has_some(router, "sfr_redis_duration_seconds_count"), what="an answer from Redis")
        await valkey.kill()
        await counted(router, "sfr_processes_degraded", 2)
        assert {answer.status for answer in await post_jobs(router.url, 20, 4)} == {200}
        seen = await scrape(router.url)
        assert seen.total("sfr_redis_failures_total") >= 2
        assert not seen.values("sfr_queue_length")
        await valkey.start()
        await counted(router, "sfr_processes_degraded", 0)
        await counted(router, "sfr_worker_jobs_total", 20)
