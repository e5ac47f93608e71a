"""Makes the dashboard's pictures in docs/: `python -m tools.screenshots [3] [1000] [tenants]`, which needs Chromium.

One fleet has three workers with real sockets and real load, one of them drained. The other has a thousand workers that
exist only in Redis. The third one has tenants. Of the first one, a worker's own page is shown, too.
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from bench.support.busyfleet import busy_fleet
from router.config.settings import RedisSettings
from router.fleet.intents import Intents
from router.fleet.redis_client import RedisClient
from tests.support.browser import IS_THERE, Browser, chromium
from tests.support.load import steady_load
from tests.support.programs import ROOT, Router, System, Valkey
from tests.support.worker import RESULT, Exchange, ScriptedWorker

DOCS = ROOT / "docs"
# How long the charts need to be full.
FILLS_IN_S = 150.0
DRAWS_IN_S = 4.0
CAP, CLIENTS = 8, 17
SIZES = {"3": (1280, 860), "1000": (1280, 1000), "tenants": (1280, 640)}
# What is shown of each fleet: the end of the file's name, and the view's address.
VIEWS = {
    "3": {"3": "#/fleet", "worker": "#/worker?url={url}"},
    "1000": {"1000": "#/fleet"},
    "tenants": {"tenants": "#/tenants"},
}
# The tenants' rules, and how many jobs each keeps under way: more than its share.
TENANTS = {
    "run-a": ({"weight": 3}, 40),
    "run-b": ({"weight": 1}, 30),
    "evaluation": ({"priority": 1, "max_running": 4}, 4),
    "default": ({"max_running": 2}, 3),
}


async def works(exchange: Exchange) -> None:
    """Answer after a random time, mostly short and sometimes long. One job in two hundred fails."""
    await asyncio.sleep(0.08 * random.lognormvariate(0, 0.9))
    await exchange.answer(200 if random.random() > 1 / 200 else 503, RESULT)


@asynccontextmanager
async def three(system: System, valkey: Valkey) -> AsyncIterator[Router]:
    """Run a router with three workers under load, and drain one of them after a while."""
    async with AsyncExitStack() as stack:
        fleet = [await stack.enter_async_context(ScriptedWorker(works)) for _ in range(3)]
        system.configure(
            [{"url": worker.url, "weight": weight} for worker, weight in zip(fleet, (1, 2, 1), strict=True)],
            default_max_concurrency=CAP,
            admin={"allow_loopback": True},
        )
        await stack.enter_async_context(system.sidecar())
        router = await stack.enter_async_context(system.router(2))
        await router.sees(healthy=3)
        await stack.enter_async_context(steady_load(router.url, CLIENTS))
        redis = RedisClient.connect(RedisSettings(url=valkey.url), 5)
        stack.push_async_callback(redis.close)
        asyncio.get_running_loop().call_later(
            FILLS_IN_S / 2, lambda: asyncio.ensure_future(Intents(redis).drain(fleet[2].url))
        )
        yield router


@asynccontextmanager
async def thousand(system: System, valkey: Valkey) -> AsyncIterator[Router]:
    """Run a router with a thousand workers, some of them unhealthy, drained or ejected."""
    system.configure([])
    async with busy_fleet(valkey.url, 1000), system.router(1) as router:
        yield router


@asynccontextmanager
async def shared(system: System, valkey: Valkey) -> AsyncIterator[Router]:
    """Run a router with three workers that the jobs of several tenants share."""
    del valkey
    async with AsyncExitStack() as stack:
        fleet = [await stack.enter_async_context(ScriptedWorker(works)) for _ in range(3)]
        rules = {name: rule for name, (rule, _) in TENANTS.items()}
        system.configure([worker.url for worker in fleet], default_max_concurrency=CAP, tenants=rules)
        await stack.enter_async_context(system.sidecar())
        router = await stack.enter_async_context(system.router(2))
        await router.sees(healthy=3)
        for name, (_, clients) in TENANTS.items():
            await stack.enter_async_context(steady_load(f"{router.url}/t/{name}", clients))
        yield router


async def take(browser: Browser, router: Router, name: str) -> None:
    """Take the pictures of one fleet, light and dark."""
    await browser.resize(*SIZES[name])
    await browser.open_dashboard(router.url)
    await asyncio.sleep(FILLS_IN_S)
    url = await browser.js("return document.querySelector('#workers tbody tr').dataset.key")
    for end, view in VIEWS[name].items():
        await browser.js("location.hash = arguments[0]", view.format(url=quote(url, safe="")))
        for theme in ("light", "dark"):
            await browser.prefers(prefers_color_scheme=theme)
            await asyncio.sleep(DRAWS_IN_S)
            await browser.save(DOCS / f"dashboard-{end}-{theme}.png")


async def main(names: Sequence[str]) -> None:
    """Take the pictures of these fleets."""
    if not IS_THERE:
        raise SystemExit("chromium and chromedriver are needed (make browser)")
    fleets = {"3": three, "1000": thousand, "tenants": shared}
    for name in names or fleets:
        with TemporaryDirectory() as folder, TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
            async with Valkey(Path(folder)) as valkey:
                system = System(Path(folder), valkey.url)
                async with fleets[name](system, valkey) as router:
                    await take(browser, router, name)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
