"""The dashboard's views as an on-call person uses them: real Chromium, gunicorn, sidecar, Valkey and workers."""

import asyncio
import csv
import io
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from selenium.webdriver import Keys

from router.config.settings import RedisSettings
from router.fleet.journal.events import Events
from router.fleet.journal.failed_job import FailedJob, FailedTry
from router.fleet.journal.failures import Failures
from router.fleet.journal.history import FleetHistory, Marks
from router.fleet.journal.model import Event, Kind
from router.fleet.journal.points import Point
from router.fleet.leadership import Leadership
from router.fleet.redis_client import RedisClient
from tests.support.browser import IS_THERE, Browser
from tests.support.eventually import eventually
from tests.support.load import JOB
from tests.support.programs import Router, System, Valkey
from tests.support.worker import ScriptedWorker, hang

pytestmark = pytest.mark.skipif(not IS_THERE, reason="chromium and chromedriver are not installed (make browser)")

VIEWS = ("#/fleet", "#/tenants", "#/events", "#/failures", "#/processes", "#/languages")
DRAWN = "return [...document.querySelectorAll('.listed')].some((each) => each.checkVisibility() && each.innerText)"
# Points at a place in a chart, by its part of the width.
POINT = """
const over = document.querySelector(`[data-chart="${arguments[0]}"] .u-over`);
const {left, top, width, height} = over.getBoundingClientRect();
const at = {clientX: left + width * arguments[1], clientY: top + height / 2, bubbles: true};
over.dispatchEvent(new MouseEvent("mouseenter", at));
over.dispatchEvent(new MouseEvent("mousemove", at));
"""
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Scrolls an element under the head, gives it the focus, and looks whether it can be seen then.
FOCUSED_BELOW_HEAD = """
const found = document.querySelector(arguments[0]);
scrollBy(0, found.getBoundingClientRect().top - 5);
found.focus();
return found.getBoundingClientRect().top >= document.querySelector("header").getBoundingClientRect().bottom;
"""
REQUEST = "step-17-job-4"
# A client can name any language, including a spreadsheet's formula and markup.
LANGUAGE = "=1+1<img src=x onerror=\"document.title='taken'\">"


def of(worker: ScriptedWorker) -> str:
    """Return the address of a worker's own page."""
    return f"#/worker?url={quote(worker.url, safe='')}"


async def post(router: Router, tenant: str, request: str, language: str = "python") -> int:
    """Send one job and return the answer's status."""
    headers, job = {"x-request-id": request}, {**JOB, "language": language}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{router.url}/t/{tenant}/run_code", json=job, headers=headers) as answer,
    ):
        return answer.status


async def go(browser: Browser, address: str) -> None:
    """Go to a view as a link does."""
    await browser.js("location.hash = arguments[0]", address)


async def test_failed_job_leads_to_its_worker_and_views_show_what_runs_where(
    system: System, workers: list[ScriptedWorker], browser: Browser, valkey: Valkey
) -> None:
    """A request id finds a failed job, its causes and its worker; running jobs, processes and languages are listed."""
    broken, lost, hung = workers
    hung.script = hang
    fleet = [broken.url, lost.url, {"url": hung.url, "labels": ["big"], "languages": ["python", "cpp"]}]
    tenants = {"run-9": {"labels": ["big"]}}
    system.configure(fleet, health_check={"fall": 1}, tenants=tenants, default_max_concurrency=4, timeout=60)
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        running = asyncio.create_task(post(router, "run-9", "long"))
        try:
            await _fails(valkey, broken, lost)
            await browser.open_dashboard(router.url, f"#/failures?request_id={REQUEST}")
            await _leads_to_the_cause(browser, broken, lost)
            await _hears_of_late_ones(browser, valkey, lost)
            await go(browser, of(hung))
            await browser.shows(".runs tbody", "run-9")
            await go(browser, "#/languages")
            await browser.shows('#languages tr[data-key="cpp"] .workers', "3")
            assert await browser.js("return document.title") != "taken"
            assert await browser.complaints() == []
            await _keeps_a_lost_process(browser, router)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _fails(valkey: Valkey, broken: ScriptedWorker, lost: ScriptedWorker) -> None:
    """Put two failed jobs and an event into Redis."""
    client = RedisClient.connect(RedisSettings(url=valkey.url), 5)
    tries = (FailedTry(broken.url, "returned 503: Service Unavailable", 12),)
    jobs = [
        FailedJob(name, tenant, "/run_code", LANGUAGE, 503, "all_failed", 40, 2, "", tries)
        for name, tenant in ((REQUEST, "run-7"), ("another", "run-8"))
    ]
    await Failures(client).add([(0, job) for job in jobs], now=0)
    event = Event(Kind.WORKER_UNHEALTHY, lost.url, "cannot be reached: Connection refused", "host-1-ab")
    await Events(client).write([(event, 0.0)])
    await client.close()


async def _leads_to_the_cause(browser: Browser, broken: ScriptedWorker, lost: ScriptedWorker) -> None:
    """From the failed job to the worker, its failed jobs and its events, and back by the browser's own button."""
    await browser.shows("#failures tbody", REQUEST)
    (told,) = await browser.texts("#failures tbody tr")
    assert [word for word in ("run-7", LANGUAGE, "returned 503") if word not in told] == []
    await browser.click(f'#failures a[href="{of(broken)}"]')
    await browser.shows('[data-view="worker"] h2', broken.url)
    await browser.shows(".failures tbody", REQUEST)
    await go(browser, of(lost))
    await browser.shows(".events tbody", "worker unhealthy")
    await browser.click(".all-events")
    await browser.shows("#events tbody", "cannot be reached")
    await browser.js("history.go(-3)")
    await browser.shows("#failures tbody", REQUEST)


async def _hears_of_late_ones(browser: Browser, valkey: Valkey, lost: ScriptedWorker) -> None:
    """Failures that are told late stand among older ones; a tenant's jobs are not those of one with a longer name."""
    client = RedisClient.connect(RedisSettings(url=valkey.url), 5)
    alike = [FailedJob("late", "run-70", "/run_code", "", 503, "no_slot", took_ms) for took_ms in (40, 41)]
    await Failures(client).add([(-60, job) for job in alike], now=0)
    event = Event(Kind.JOB_QUARANTINED, "run-7", "It broke workers", "host-1-ab", {"workers": [lost.url]})
    await Events(client).write([(event, 0.0)])
    await client.close()
    await go(browser, "#/failures?tenant=run-70")
    await eventually(lambda: _lists(browser, "late", 2), what="failures that were told late")
    await go(browser, "#/failures?tenant=run-7")
    await eventually(lambda: _lists(browser, REQUEST, 1), what="run-7's failure")
    assert "run-70" not in await browser.text("#failures tbody")
    await go(browser, of(lost))
    await browser.shows(".events tbody", "It broke workers")


async def _lists(browser: Browser, name: str, count: int) -> bool:
    return [text for text in await browser.texts("#failures tbody .id") if text == name] == count * [name]


async def _keeps_a_lost_process(browser: Browser, router: Router) -> None:
    """A process that Redis hears of no more keeps its row, because it may go on with jobs."""
    await go(browser, "#/processes")
    await browser.shows(".parts .sum", "2 processes on 1 host")
    await browser.shows(".parts .here", "none without Redis")
    pid = router.children()[0]
    assert f"process {pid}" in await browser.text(".parts tbody")
    os.kill(pid, signal.SIGKILL)
    await browser.shows(".parts tbody", "Not heard of")


@asynccontextmanager
async def told(valkey: Valkey, worker: ScriptedWorker) -> AsyncIterator[None]:
    """Put an event, failed jobs and an hour of history into Redis."""
    client = RedisClient.connect(RedisSettings(url=valkey.url), 5)
    tries = (FailedTry(worker.url, "returned 503: Service Unavailable", 12),)
    jobs = [
        FailedJob(f"job-{number}", LANGUAGE, "/run_code", "cpp", 503, "all_failed", 40, 2, "", tries)
        for number in range(60)
    ]
    try:
        await Events(client).write(
            [(Event(Kind.WORKER_EJECTED, worker.url, "5 failed jobs in a row", "host-1-ab"), 0.0)]
        )
        await Failures(client).add([(0, job) for job in jobs], now=0)
        leadership = Leadership(client)
        for place in range(30):
            term = await leadership.lead("test", 1)
            assert term is not None
            begins = (int(time.time()) // 10 - 31 + place) * 10
            point = Point(begins, 100.0, 4.0, 0.0, 20.0, 90.0, 1500.0, 7300.0, 0.0, 0.0, {"run-7": 30.0, "run-8": 10.0})
            assert await FleetHistory(client).write(term, Marks(), point, None)
        yield
    finally:
        await client.close()


async def test_page_opens_with_history_saves_files_and_has_no_serious_fault(
    system: System, workers: list[ScriptedWorker], browser: Browser, valkey: Valkey, tmp_path: Path
) -> None:
    """The charts show what nobody has watched, files have all that matches, and axe-core finds nothing in any view."""
    system.configure([worker.url for worker in workers], admin={"allow_loopback": True})
    await browser.save_downloads(tmp_path)
    async with told(valkey, workers[0]), system.sidecar(), system.router(1) as router:
        await router.sees(healthy=3)
        await browser.open_dashboard(router.url)
        await eventually(lambda: _had_waits(browser), what="the waits of two minutes ago")
        await browser.click('#numbers [data-range="1h"]')
        assert await browser.js("return location.hash") == "#/fleet?range=1h"
        await browser.js("location.reload()")
        await browser.shows('#numbers [data-range="1h"][aria-pressed="true"]', "1 h")
        await go(browser, "#/tenants?range=1h")
        await browser.shows(".legend", "run-7")
        await _saves_what_matches(browser, tmp_path)
        await _has_no_fault(browser, workers[0])
        await browser.open(f"{router.url}/dashboard/help.html#worker_ejected")
        assert await browser.faults() == []
        assert await browser.complaints() == []


async def _had_waits(browser: Browser) -> bool:
    """Point at the chart of the waits, and look whether the cards show that moment's numbers."""
    await browser.js(POINT, "wait", 0.6)
    shown = [await browser.text(f'[data-number="{name}"]') for name in ("queue_p99_ms", "throughput")]
    return shown == ["7.3 s", "100"]


async def _has_no_fault(browser: Browser, worker: ScriptedWorker) -> None:
    """Nothing serious in any view, wide and light or on a phone and dark, and nothing is wider than the window."""
    for width, theme in ((1280, "light"), (390, "dark")):
        await browser.resize(width, 900)
        await browser.prefers(prefers_color_scheme=theme)
        for view in (*VIEWS, of(worker)):
            await go(browser, view)
            await eventually(lambda: _is_drawn(browser), what=f"{view} drawn")
            assert await browser.faults() == [], (view, theme)
            assert await browser.js(OVERFLOW) == 0, view


async def _is_drawn(browser: Browser) -> bool:
    return bool(await browser.js(DRAWN))


async def _saves_what_matches(browser: Browser, folder: Path) -> None:
    """Both files have the matching rows of all pages; a spreadsheet must not run what a client has named."""
    await go(browser, "#/failures?language=cpp&tenant=img")
    await browser.shows("#failures .pages", "1\u201350 of 60")
    await _turns_pages_by_keyboard(browser)
    await browser.click("#failures .export button:first-child")
    await browser.click("#failures .export button:last-child")
    table, objects = await _saved(folder, ("csv", "json"))
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == len(json.loads(objects)) == 60
    assert {row["tenant"] for row in rows} == {f"'{LANGUAGE}"}
    assert {each["tenant"] for each in json.loads(objects)} == {LANGUAGE}


async def _turns_pages_by_keyboard(browser: Browser) -> None:
    """The last page leaves the focus on a button, and what gets the focus is not hidden by the head."""
    await browser.js("document.querySelector('#failures [data-step=\"1\"]').focus()")
    for page, focused in (("51\u201360", "Previous"), ("1\u201350", "Next")):
        await browser.type(Keys.ENTER)
        await browser.shows("#failures .pages", page)
        assert await browser.js("return document.activeElement.innerText") == focused
    assert await browser.js(FOCUSED_BELOW_HEAD, "#failures tbody tr:nth-child(9) a")
    await browser.js("scrollTo(0, 0)")


async def _saved(folder: Path, endings: Sequence[str]) -> list[str]:
    """Return the contents of the one file with each ending, when it is there."""
    await eventually(lambda: all(list(folder.glob(f"*.{ending}")) for ending in endings), what="both files")
    return [next(folder.glob(f"*.{ending}")).read_text() for ending in endings]
