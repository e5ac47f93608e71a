"""The dashboard as an operator uses it: real Chromium, gunicorn, sidecar, Valkey and workers."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, TCPConnector, web
from aiohttp.test_utils import TestServer
from selenium.webdriver import Keys

from bench.support.busyfleet import busy_fleet
from router.dashboard.handler import MAX_WATCHERS
from router.fleet.redis_client import RedisClient
from router.fleet.sizes import FleetSizes, Lessons
from tests.support.browser import IS_THERE, Browser
from tests.support.eventually import eventually
from tests.support.load import post_jobs, steady_load
from tests.support.programs import Router, System, Valkey
from tests.support.worker import ScriptedWorker, always, hang

pytestmark = pytest.mark.skipif(not IS_THERE, reason="chromium and chromedriver are not installed (make browser)")

TOKEN = "a-tökén"
# A worker can send any text, including markup.
MARKUP = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
# The page shows this for an unknown value.
NOTHING = "\u2013"
JOBS_A_SECOND = '[data-number="throughput"]'
NOTICED = "return [...document.querySelectorAll('.notice')].map(({dataset}) => dataset.about)"
BACKGROUND = "return getComputedStyle(document.body).backgroundColor"
# For `measure`: the number of changes in the page at each event, for `seconds` seconds.
CHANGES = """
const [seconds, done] = arguments;
const counts = [];
const observer = new MutationObserver((records) => counts.push(records.length));
observer.observe(document.body, {childList: true, subtree: true, characterData: true, attributes: true});
setTimeout(() => { observer.disconnect(); done(counts); }, seconds * 1000);
"""
REGISTER = """
const [token, url] = arguments;
const authorization = "Bearer " + String.fromCharCode(...new TextEncoder().encode(token));
const headers = {"content-type": "application/json", authorization};
fetch("admin/workers", {method: "POST", headers, body: JSON.stringify({url})});
"""


def row(worker: ScriptedWorker, part: str = "") -> str:
    """Return the selector of a worker's row, or of a part of it."""
    return f'#workers tr[data-key="{worker.url}"] {part}'


async def test_page_shows_and_steers_workers_that_die_join_and_leave(
    system: System, workers: list[ScriptedWorker], browser: Browser, valkey: Valkey
) -> None:
    """With a typed-in token an operator steers the fleet; the page loads nothing from other hosts."""
    first, second, third = workers
    system.env["ADMIN_TOKEN"] = TOKEN
    special = {"url": first.url, "labels": ["gpu", "ib"]}
    system.configure([special, second.url], default_max_concurrency=4, admin={"allowed_workers": ["127.0.0.0/8"]})
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=2)
        await browser.open_dashboard(router.url)
        await browser.shows(row(first, ".health"), "Healthy")
        assert await browser.text(row(first, ".source")) == "config.yaml · gpu, ib"
        assert await browser.text(row(second, ".source")) == "config.yaml"
        async with steady_load(router.url, 3):
            await browser.shows(row(first, ".running"), "/ 4")
            await eventually(lambda: _counts_jobs(browser, first), what="jobs and their rate")
            await _dies_and_comes_back(browser, second)
        await _unlocks(browser, first)
        await _drains_and_resumes(browser, router, first)
        await _joins_and_is_removed(browser, third)
        await _turns_out_slow(browser, valkey, first, second)
        # A worker of config.yaml cannot be removed here.
        assert await browser.js(f"return document.querySelector('{row(first, '[data-act=remove]')}').hidden")
        # The token lasts for this tab until it is locked.
        await browser.js("location.reload()")
        await browser.shows(row(first, ".actions"), "Drain")
        await browser.click("#steering")
        await eventually(lambda: _is_locked(browser), what="no more steering")
        assert await browser.complaints() == []
        assert {url.startswith(router.url) for url in await browser.requested()} == {True}
        assert TOKEN not in router.output


async def test_ejected_and_hung_workers_are_seen_with_reason_and_slots(
    system: System, workers: list[ScriptedWorker], browser: Browser
) -> None:
    """The page shows why and until when a worker is ejected, and never more running jobs than slots."""
    failing, hung, _ = workers
    failing.script, hung.script = always(503), hang
    system.configure([worker.url for worker in workers], default_max_concurrency=4, timeout=60, job_grace=60)
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=3)
        await browser.open_dashboard(router.url)
        jobs = asyncio.create_task(post_jobs(router.url, 60, 8))
        try:
            await browser.shows(row(failing, ".reason"), "): 5 failed jobs in a row, the last: returned 503")
            assert "until " in await browser.text(row(failing, ".reason"))
            await browser.shows(row(hung, ".running"), "4 / 4")
            hung.ping = hang
            await browser.shows(row(hung, ".health"), "Unhealthy")
            await browser.shows('[data-number="slots"]', "of 12")
            assert await browser.complaints() == []
        finally:
            jobs.cancel()
            await asyncio.gather(jobs, return_exceptions=True)


async def _counts_jobs(browser: Browser, worker: ScriptedWorker) -> bool:
    shown = await browser.text(row(worker, ".jobs")), await browser.text(JOBS_A_SECOND)
    return not {"", "0", NOTHING} & set(shown)


async def _dies_and_comes_back(browser: Browser, worker: ScriptedWorker) -> None:
    await worker.die()
    await browser.shows(row(worker, ".health"), "Unhealthy")
    assert "cannot be reached" in await browser.text(row(worker, ".reason"))
    assert await browser.js("return document.title") == "1 in trouble · SandboxFusion Router"
    await worker.listen()
    await browser.shows(row(worker, ".health"), "Healthy")


async def _unlocks(browser: Browser, worker: ScriptedWorker) -> None:
    """Without the right token no action is offered."""
    assert await browser.text(row(worker, ".actions")) == ""
    await browser.click("#steering")
    await browser.type("wrong", Keys.ENTER)
    await browser.shows("#token-wrong", "not the routers' admin token")
    assert await browser.text(row(worker, ".actions")) == ""
    await browser.type(Keys.CONTROL, "a")
    await browser.type(TOKEN, Keys.ENTER)
    await browser.shows(row(worker, ".actions"), "Drain")
    assert await browser.js("return localStorage.length + document.cookie.length") == 0


async def _drains_and_resumes(browser: Browser, router: Router, worker: ScriptedWorker) -> None:
    """A cancelled drain changes nothing; a confirmed one drains and keeps the focus in place."""
    for answer in (Keys.ESCAPE, Keys.ENTER):
        assert "Healthy" in await browser.text(row(worker, ".health"))
        await browser.click(row(worker, "[data-act=drain]"))
        await browser.shows("#confirm", f"{worker.url}\nIt gets no new jobs")
        await browser.js("document.querySelector('#confirm .primary').focus()")
        await browser.type(answer)
    await browser.shows(row(worker, ".health"), "Draining")
    assert await browser.text("#said") == f"{worker.url} is drained."
    await browser.shows(row(worker, ".actions"), "Resume")
    assert await browser.js("return document.activeElement.getAttribute('aria-label')") == f"Resume {worker.url}"
    had = len(worker.jobs)
    await post_jobs(router.url, 10, 2)
    assert len(worker.jobs) == had
    await browser.click(row(worker, "[data-act=drain]"))
    await browser.click("#confirm .primary")
    await browser.shows(row(worker, ".health"), "Healthy")


async def _turns_out_slow(browser: Browser, valkey: Valkey, slow: ScriptedWorker, fast: ScriptedWorker) -> None:
    """What routers have seen of two workers becomes a speed of each."""
    async with valkey.client() as redis:
        seen = [(fast.url, 0.0, 0.0, 500.0), (slow.url, 500.0, 500.0, 500.0)]
        await FleetSizes(RedisClient(redis, "sfr", timeout_s=5), most=10).learn(Lessons(speeds=seen))
    await browser.shows(row(slow, ".source"), "config.yaml · speed 0.61 · gpu, ib")
    await browser.shows(row(fast, ".source"), "config.yaml · speed 1.65")


async def _joins_and_is_removed(browser: Browser, worker: ScriptedWorker) -> None:
    """A worker that registers appears even while the focus is in the table."""
    await browser.js(REGISTER, TOKEN, worker.url)
    await browser.shows(row(worker), "registered")
    await browser.click(row(worker, "[data-act=remove]"))
    await browser.shows("#confirm", "It leaves the fleet")
    await browser.click("#confirm .primary")

    async def is_gone() -> bool:
        return await browser.text(row(worker)) == ""

    await eventually(is_gone, what="the worker's removal")


async def _is_locked(browser: Browser) -> bool:
    return bool(await browser.js("return sessionStorage.length === 0 && !document.documentElement.className"))


async def test_by_keyboard_in_either_theme_and_with_strange_words(
    system: System, workers: list[ScriptedWorker], browser: Browser
) -> None:
    """The page can be used by keyboard and without a token on loopback; what workers send stays text."""
    _, second, third = workers
    second.ping = always(500, MARKUP.encode())
    weighed = [{"url": worker.url, "weight": weight} for worker, weight in zip(workers, (2, 1, 3), strict=True)]
    system.configure(weighed, admin={"allow_loopback": True}, health_check={"fall": 1})
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=2)
        await browser.open_dashboard(router.url)
        await browser.shows(row(second, ".reason"), "500")
        assert (await _urls(browser))[0] == second.url
        await _sorts(browser, lightest=second, heaviest=third)
        await _keeps_the_focus(browser, router)
        await _filters_and_drains(browser, third)
        await _changes_the_theme(browser)
        assert await browser.js("return document.title") != "taken"
        assert await browser.js("return document.querySelectorAll('tbody img, tbody script').length") == 0
        assert await browser.complaints() == []


async def _sorts(browser: Browser, lightest: ScriptedWorker, heaviest: ScriptedWorker) -> None:
    sorted_by = (
        "return [...document.querySelectorAll('#workers [aria-sort]')].map((cell) => cell.innerText + cell.ariaSort)"
    )
    assert await browser.js(sorted_by) == ["Healthascending"]
    await browser.js("document.querySelector('#workers th.weight button').focus()")
    await browser.type(Keys.ENTER)
    assert (await _urls(browser))[0] == heaviest.url
    assert await browser.js(sorted_by) == ["Weightdescending"]
    await browser.type(Keys.SPACE)
    assert (await _urls(browser))[0] == lightest.url
    assert await browser.js(sorted_by) == ["Weightascending"]


async def _keeps_the_focus(browser: Browser, router: Router) -> None:
    """The focus stays on its element while numbers around it change."""
    for _ in range(8):  # skips the other headers
        await browser.type(Keys.TAB)
        if await browser.js("window.was = document.activeElement; return window.was.matches('#workers tbody button')"):
            break
    async with steady_load(router.url, 2):
        await eventually(lambda: _has_changed(browser), what="other numbers")
    assert await browser.js(
        "return document.activeElement === window.was && window.was.matches('#workers tbody button')"
    )


async def _filters_and_drains(browser: Browser, worker: ScriptedWorker) -> None:
    """The slash key moves the focus to the filter from anywhere."""
    await browser.type("/")
    await browser.type(str(worker.port))
    assert await _urls(browser) == [worker.url]
    await browser.shows("#said", "1 worker")
    await browser.js("document.querySelector('#workers [data-act=drain]').focus()")
    await browser.type(Keys.ENTER)
    await browser.type(Keys.TAB)
    await browser.type(Keys.ENTER)
    await browser.shows(row(worker, ".health"), "Draining")
    await browser.js("document.querySelector('#workers input').select()")
    await browser.type("nobody")
    await browser.shows("#workers .empty", "No worker matches.")
    await browser.type(Keys.ESCAPE)
    await browser.click(".chip.draining")
    assert await _urls(browser) == [worker.url]


async def _changes_the_theme(browser: Browser) -> None:
    """The page follows the system's theme unless another one is chosen, also after a reload."""
    dark, light = await _background(browser, "dark"), await _background(browser, "light")
    assert dark != light
    await browser.click("#theme")
    assert await browser.js(BACKGROUND) == dark
    await browser.js("location.reload()")
    await browser.shows("#stream", "Live")
    assert await browser.js(BACKGROUND) == dark
    assert await browser.js("return document.getElementById('theme').getAttribute('aria-pressed')") == "true"
    await browser.click("#theme")
    assert await _background(browser, "dark") == dark


async def _urls(browser: Browser) -> list[str]:
    found: list[str] = await browser.js(
        "return [...document.querySelectorAll('#workers tbody tr')].map((r) => r.dataset.key)"
    )
    return found


async def _has_changed(browser: Browser) -> bool:
    script = """
    const shown = document.querySelector('#workers tbody').innerText;
    const has = window.shown !== undefined && window.shown !== shown;
    window.shown = shown;
    return has;
    """
    return bool(await browser.js(script))


async def _background(browser: Browser, scheme: str) -> str:
    await browser.prefers(prefers_color_scheme=scheme)

    async def follows() -> bool:
        return str(await browser.js("return document.documentElement.dataset.theme")) == scheme

    await eventually(follows, what=f"a {scheme} page")
    return str(await browser.js(BACKGROUND))


async def test_page_says_when_it_is_stale(
    system: System, workers: list[ScriptedWorker], browser: Browser, valkey: Valkey
) -> None:
    """The page names each of sidecar, Redis and router while it is away, and drops the notice on its return."""
    system.configure([worker.url for worker in workers])
    async with system.router(1) as router:
        async with system.sidecar() as sidecar:
            await router.sees(healthy=3)
            await browser.open_dashboard(router.url)
            await browser.shows("#sidecar", "Sidecar seen")
            assert await browser.texts(".notice") == []
            await browser.click("#steering")
            await browser.shows("#said", "Changes need an admin token, and none is set")
            sidecar.send(signal.SIGTERM)  # a stopped sidecar gives up its lead at once
            await sidecar.ended()
        await browser.shows('[data-about="leader"]', "No sidecar leads")
        await valkey.kill()
        await browser.shows('[data-about="redis"]', "Redis is away: ")
        assert await browser.faults() == []
        assert await browser.text('[data-number="running"]') == NOTHING
        assert len(await _urls(browser)) == 3
        for view, place, words in (
            ("processes", ".parts .here", "1 without Redis"),
            ("tenants", "#tenants .empty", "Not known while Redis is away"),
        ):
            await browser.js("location.hash = arguments[0]", f"#/{view}")
            await browser.shows(place, words)
        await valkey.start()
        async with system.sidecar():
            await eventually(lambda: _says_nothing(browser), what="no notice")
            await router.kill()
            await browser.shows('[data-about="stream"]', "The router does not answer")
            await browser.shows("#stream", "Stale for")
            assert await browser.js("return document.documentElement.classList.contains('stale')")
            await router.start()
            await eventually(lambda: _says_nothing(browser), what="no notice")
            await browser.shows("#stream", "Live")


async def test_page_says_why_no_numbers_come(system: System, browser: Browser) -> None:
    """When too many watch, the page does not only say that it connects; it goes on when there is room."""
    system.configure([])
    async with system.router(1) as router, ClientSession(connector=TCPConnector(limit=0)) as session:
        watching = [await session.get(f"{router.url}/dashboard/events") for _ in range(MAX_WATCHERS)]
        await browser.open(f"{router.url}/dashboard")
        await browser.shows('[data-about="stream"]', f"{MAX_WATCHERS} dashboards watch this process already")
        watching[0].close()
        await browser.shows("#stream", "Live")
        await browser.shows("#workers .empty", "no workers yet")
        assert "stream" not in await browser.js(NOTICED)


async def _says_nothing(browser: Browser) -> bool:
    return await browser.texts(".notice") == []


async def test_a_thousand_workers_cost_the_page_no_more_than_a_hundred(
    system: System, browser: Browser, valkey: Valkey
) -> None:
    """Only the rows that are shown are redrawn, so a larger fleet costs the page no more."""
    system.configure([])
    async with system.router(1) as router:
        await router.sees_redis("available")
        await browser.open_dashboard(router.url)
        await browser.shows("#workers .empty", "no workers yet")
        changes = []
        for count in (100, 1000):
            async with busy_fleet(valkey.url, count):
                await browser.shows(".chip.all", f"{count:,}")
                if count == 100:
                    await browser.click("#workers th.jobs button")
                await eventually(lambda: _all_work(browser), what="jobs in all shown rows")
                changes.append(max(await browser.measure(CHANGES, 3)))
        assert 0 < changes[1] <= 2 * changes[0]
        async with busy_fleet(valkey.url, 1000):
            await browser.click('#workers .pages [data-step="1"]')
            await browser.shows("#workers .pages", "51\u2013100 of 1,000")
            await browser.click("#workers input")
            await browser.type("sandbox-09")
            await browser.shows("#workers .pages", "1\u201350 of 100")
        assert await browser.complaints() == []


async def _all_work(browser: Browser) -> bool:
    jobs = await browser.texts("#workers td.jobs")
    return len(jobs) == 50 and not {"", "0"} & set(jobs)


async def test_api_docs_work_below_a_proxy_s_path(system: System, browser: Browser) -> None:
    """Swagger UI comes from the router, finds its description, and sends requests below the same path."""
    system.configure([])
    async with system.router(1) as router, below_a_path(router) as url:
        await browser.open(f"{url}/docs")
        ping = "#operations-router-ping_v1_ping_get"
        await browser.shows(f"{ping} .opblock-summary-path", "/v1/ping")
        await browser.click(f"{ping} .opblock-summary-control")
        for button, says in ((".try-out__btn", "Try it out"), (".execute", "Execute")):
            await browser.shows(f"{ping} {button}", says)
            await browser.click(f"{ping} {button}")
        await browser.shows(f"{ping} .live-responses-table tbody .response-col_status", "200")
        assert await browser.complaints() == []
        requested = {asked for asked in await browser.requested() if not asked.startswith("data:")}
        assert f"{url}/v1/ping" in requested
        assert {asked.startswith(url) for asked in requested} == {True}


@asynccontextmanager
async def below_a_path(router: Router) -> AsyncIterator[str]:
    """A proxy that serves the router below /fleet and strips that prefix."""

    async def pass_on(request: web.Request) -> web.Response:
        async with ClientSession(router.url) as session, session.get(f"/{request.match_info['path']}") as answer:
            fields = {
                name: answer.headers[name]
                for name in ("content-type", "content-security-policy")
                if name in answer.headers
            }
            return web.Response(status=answer.status, body=await answer.read(), headers=fields)

    application = web.Application()
    application.router.add_get("/fleet/{path:.*}", pass_on)
    async with TestServer(application) as server:
        yield str(server.make_url("/fleet"))
