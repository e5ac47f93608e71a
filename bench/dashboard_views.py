"""Measures whether the dashboard is smooth: the browser's time for each frame, in every view and at each range.

The fleet has 1,000 workers on which jobs of 50 tenants end each second (bench/support/busyfleet.py). It has a full day
of history, 500 failed jobs, and a new event and a new failed job each second. The browser is Chromium, headless and
without a GPU, on the same machine. Other programs there delay frames; the CPU of the page's own thread does not tell of
them.

`python -m bench.dashboard_views` writes bench/results/dashboard_views.json and the table in docs/speed.md.
"""

import asyncio
import json
import random
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import msgspec

from bench.support.busyfleet import CAP, busy_fleet
from bench.support.report import RESULTS, percentile, save
from bench.support.table import markdown, put
from router.config.settings import RedisSettings
from router.fleet.journal.events import Events
from router.fleet.journal.failed_job import FailedJob, FailedTry
from router.fleet.journal.failures import ENTRIES_A_CALL, Failures
from router.fleet.journal.history import FleetHistory, Marks
from router.fleet.journal.model import Event, Kind
from router.fleet.journal.points import DAY, HOUR, Point, Series
from router.fleet.leadership import Leadership
from router.fleet.redis_client import RedisClient
from tests.support.browser import FRAMES, Browser, chromium
from tests.support.programs import ROOT, System, Valkey

WORKERS, TENANTS = 1000, 50
FAILED_JOBS = 500
FRAMES_S, SETTLE_S = 5.0, 3.0
PAGE = ROOT / "docs" / "speed.md"
FILE = RESULTS / "dashboard_views.json"
_TIMEOUT_S = 10.0

Numbers = dict[str, float]


@asynccontextmanager
async def told(redis_url: str, urls: Sequence[str], tenants: Sequence[str]) -> AsyncIterator[None]:
    """Fill the history and the journal, and add an event and a failed job each second."""
    client = RedisClient.connect(RedisSettings(url=redis_url), _TIMEOUT_S)
    events, failures = Events(client), Failures(client)

    async def tell() -> None:
        while True:
            await asyncio.sleep(1)
            url = random.choice(urls)
            text = "5 failed jobs in a row, the last: returned 503: Service Unavailable"
            await events.write([(Event(Kind.WORKER_EJECTED, url, text, "host-7-ab12"), 0.0)])
            await failures.add([(0, _failed(urls, tenants))], now=0)

    await _fill(client, tenants)
    for _ in range(FAILED_JOBS // ENTRIES_A_CALL):
        await failures.add([(0, _failed(urls, tenants)) for _ in range(ENTRIES_A_CALL)], now=1)
    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        await client.close()


async def _fill(client: RedisClient, tenants: Sequence[str]) -> None:
    """Write each step of the history until now."""
    history, term = FleetHistory(client), await Leadership(client).lead("busyfleet", 60.0)
    assert term is not None
    steps = [(HOUR, place) for place in range(HOUR.count)] + [(DAY, place) for place in range(DAY.count)]
    for series, place in steps:
        point = _point(series, place, tenants)
        await history.write(term, Marks(), *((point, None) if series is HOUR else (None, point)))


def _point(series: Series, place: int, tenants: Sequence[str]) -> Point:
    begins = (int(time.time()) // series.step_s - series.count + place) * series.step_s
    rates = (value * random.lognormvariate(0, 0.2) for value in (9000, 5000, 20, 300, 1500, 3, 60, 1, 12))
    used = {name: series.step_s * WORKERS * CAP / 2 / (number + 1) for number, name in enumerate(tenants)}
    return msgspec.convert([begins, *rates, used], Point)


def _failed(urls: Sequence[str], tenants: Sequence[str]) -> FailedJob:
    attempts = tuple(FailedTry(random.choice(urls), "the connection ended before an answer", 1200) for _ in range(3))
    name = f"{random.getrandbits(64):x}"
    return FailedJob(name, random.choice(tenants), "/run_code", "python", 503, "all_failed", 4000, 20, "", attempts)


async def frames(browser: Browser, url: str, view: str) -> Numbers:
    """Return how many ms frames take while the page shows this view."""
    await browser.js("location.hash = arguments[0]", view)
    await asyncio.sleep(SETTLE_S)
    had = await browser.busy_s()
    taken = await browser.measure(FRAMES, FRAMES_S)
    busy_ms = (await browser.busy_s() - had) * 1000 / FRAMES_S
    assert await browser.complaints() == [], url
    return {"p50": statistics.median(taken), "p99": percentile(taken, 99), "longest": max(taken), "cpu_ms": busy_ms}


def views(worker: str) -> dict[str, str]:
    """Return the address of each view, by what it shows."""
    return {
        "the fleet, 5 min": "#/fleet",
        "the fleet, 24 h": "#/fleet?range=24h",
        "a worker": f"#/worker?url={quote(worker, safe='')}",
        "tenants, 24 h": "#/tenants?range=24h",
        "events": "#/events",
        "failed jobs": "#/failures",
        "processes": "#/processes",
        "languages": "#/languages",
    }


def table(results: Mapping[str, Numbers]) -> str:
    """Return the table for docs/speed.md."""
    fields = "p50", "p99", "longest", "cpu_ms"
    rows = [[name, *(f"{of[field]:.1f}" for field in fields)] for name, of in results.items()]
    return markdown(["ms a frame", "p50", "p99", "longest", "CPU ms a second"], rows)


async def main() -> None:
    """Measure, print and save."""
    tenants = {f"run-{number}": max(1, TENANTS - number) for number in range(TENANTS)}
    with TemporaryDirectory() as name, TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        async with Valkey(Path(name)) as valkey:
            system = System(Path(name), valkey.url)
            system.configure([])
            async with (
                busy_fleet(valkey.url, WORKERS, tenants) as urls,
                told(valkey.url, urls, list(tenants)),
                system.router(1) as router,
            ):
                await router.sees_redis("available")
                await browser.open_dashboard(router.url)
                await browser.shows(".chip.all", f"{WORKERS:,}")
                results = {shown: await frames(browser, router.url, view) for shown, view in views(urls[0]).items()}
    save("dashboard_views", results=results)
    PAGE.write_text(put(table(json.loads(FILE.read_text())["results"]), PAGE.read_text(), "bench.dashboard_views"))
    print(table(results))


if __name__ == "__main__":
    asyncio.run(main())
