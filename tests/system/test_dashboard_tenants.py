"""The dashboard's table of tenants, as an operator sees it: real Chromium before a real router and Valkey."""

import pytest

from bench.support.busyfleet import busy_fleet
from tests.support.browser import IS_THERE, Browser
from tests.support.eventually import eventually
from tests.support.load import steady_load
from tests.support.programs import System, Valkey
from tests.support.worker import ScriptedWorker, takes

pytestmark = pytest.mark.skipif(not IS_THERE, reason="chromium and chromedriver are not installed (make browser)")

# Each tenant's part of the whole, in sixteenths.
PARTS = {"default": 1, "eval": 2, "run-7": 8, "run-8": 4, "notebook_of_a.person_with-a-very-long-name": 1}
# Each row's name, and how wide its bar is of the widest that it may be.
BARS = """
return [...document.querySelectorAll('#tenants tbody tr')].map((row) => [
  row.querySelector('.name').innerText,
  row.querySelector('.used i').getBoundingClientRect().width / row.querySelector('.used').clientWidth,
]);
"""
# Where the cells end, and whether the page itself scrolls sideways.
CELLS = "return [...document.querySelectorAll('#tenants td')].map((cell) => cell.getBoundingClientRect().right)"
WIDEST = "return document.querySelector('#tenants .used').clientWidth"
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
COLOURS = """
const bar = getComputedStyle(document.querySelector('#tenants .used i')).backgroundColor;
return [bar, getComputedStyle(document.querySelector('#tenants')).backgroundColor];
"""


def row(name: str, part: str = "") -> str:
    """Return what selects a tenant's row, or a part of it."""
    return f'#tenants tr[data-key="{name}"] {part}'


async def test_shares_of_five_tenants_are_live_and_fit_a_phone(
    system: System, browser: Browser, valkey: Valkey
) -> None:
    """The largest stands first, each bar is as wide as its share, and both themes have their own colours."""
    system.configure([])
    async with system.router(1) as router:
        await router.sees_redis("available")
        await browser.open_dashboard(router.url, "#/tenants")
        async with busy_fleet(valkey.url, 10, PARTS):
            await browser.shows(row("run-7", ".share"), "50 %")
            await browser.shows(row("eval", ".share"), "13 %")
            bars = await browser.js(BARS)
            assert [name for name, _ in bars[:3]] == ["run-7", "run-8", "eval"]
            assert {name for name, _ in bars} == PARTS.keys()
            for name, width in bars:
                assert abs(width - PARTS[name] / 16) < 0.02, name
            await eventually(lambda: _has_a_rate(browser), what="jobs a second")
            assert await browser.text(row("run-7", ".weight")) == "1"

            light = await browser.js(COLOURS)
            await browser.prefers(prefers_color_scheme="dark")
            await eventually(lambda: _is_other(browser, light), what="dark colours")

            await browser.resize(390, 800)
            assert max(await browser.js(CELLS)) <= 390
            assert (await browser.js(WIDEST)) > 80
            assert await browser.js(OVERFLOW) == 0
            assert await browser.complaints() == []


async def _has_a_rate(browser: Browser) -> bool:
    return float(await browser.text(row("run-7", ".rate"))) > 10


async def _is_other(browser: Browser, colours: list[str]) -> bool:
    now: list[str] = await browser.js(COLOURS)
    return all(one != other for one, other in zip(now, colours, strict=True))


async def test_two_runs_with_jobs_show_what_they_have(
    system: System, workers: list[ScriptedWorker], browser: Browser
) -> None:
    """Three times the weight is three times the slots; the rest of each run's jobs is pending."""
    for worker in workers:
        worker.script = takes(0.3)
    tenants = {"run-7": {"weight": 3}}
    system.configure([worker.url for worker in workers[:2]], default_max_concurrency=4, tenants=tenants)
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=2)
        await browser.open_dashboard(router.url, "#/tenants")
        async with steady_load(f"{router.url}/t/run-7", 12), steady_load(f"{router.url}/t/run-8", 12):
            await browser.shows(row("run-7", ".weight"), "3")
            await browser.shows(row("run-7", ".running"), "6")
            await browser.shows(row("run-7", ".waiting"), "6")
            await browser.shows(row("run-8", ".running"), "2")
            await browser.shows(row("run-8", ".waiting"), "10")
            await eventually(lambda: _has_three_quarters(browser), what="three quarters of the worker-seconds")


async def _has_three_quarters(browser: Browser) -> bool:
    share = (await browser.text(row("run-7", ".share"))).removesuffix(" %")
    return share.isdecimal() and abs(int(share) - 75) <= 5
