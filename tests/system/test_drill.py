"""A drill: what an operator who is called at night reads. Real gunicorn, sidecar, Valkey and Chromium."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from typer.testing import CliRunner

from router.cli.main import app
from tests.support.browser import IS_THERE, Browser
from tests.support.eventually import eventually
from tests.support.load import post_job, post_jobs
from tests.support.programs import Router, System, Valkey
from tests.support.worker import ScriptedWorker, always, hang, takes

# An operator is to know the cause within this time.
KNOWN_WITHIN_S = 10


def reader(router: Router, command: str = "events") -> Callable[..., Awaitable[str]]:
    """Return a function that types this command of `sfr` with some words, and returns all that is shown."""

    async def read(*words: str) -> str:
        typed = [command, "--url", router.url, *words]
        return (await asyncio.to_thread(CliRunner().invoke, app, typed, env={"SFR_URL": None})).output

    return read


async def test_each_trouble_is_told_in_words(system: System, workers: list[ScriptedWorker], valkey: Valkey) -> None:
    """A worker hangs, a tenant floods, a process is killed, a file is bad, Redis stops: each is told with its cause."""
    first, second, _ = workers
    config = {"tenants": {"run-7": {"max_waiting": 2, "max_running": 1}}, "default_max_concurrency": 2}
    system.configure([first.url, second.url], **config)
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=2)
        sfr = reader(router)

        async def tells(*texts: str, kind: str) -> None:
            async def is_told() -> bool:
                shown = await sfr("--kind", kind)
                return all(text in shown for text in texts)

            await eventually(is_told, KNOWN_WITHIN_S, f"{kind}: {texts}")

        await tells("The router on ", " takes jobs", kind="router_started")

        first.ping = hang
        why = f"{first.url} is unhealthy and gets no jobs, after ", ": timed out after 2 s"
        await tells(*why, kind="worker_unhealthy")
        assert second.url not in await sfr("--worker", first.url)

        second.script = takes(5)
        flood = asyncio.create_task(post_jobs(f"{router.url}/t/run-7", 12, 12))
        await tells("Tenant run-7 has as many waiting jobs as it may have", kind="tenant_refused")
        await tells("Tenant run-7 runs as many jobs as it may (max_running: 1)", kind="tenant_limited")
        flood.cancel()
        await asyncio.wait([flood])

        os.kill(router.children()[0], signal.SIGKILL)
        await tells("has not been heard of for 2 s: it was killed, hangs, or cannot", kind="router_silent")

        good = system.config.read_text()
        system.config.write_text("routing: x")
        router.send(signal.SIGHUP)
        await tells("The router on ", "the new one is bad", "routing: unknown key", kind="config_refused")
        system.config.write_text(good)

        await valkey.kill()
        await eventually(lambda: _says(sfr, "Redis is unavailable: ", "Jobs go on without it"), KNOWN_WITHIN_S)
        await valkey.start()
        await tells("Redis answers the router on ", "It did not from ", "Jobs went on", kind="redis_back")
        await tells("Redis holds nothing of this fleet", kind="redis_emptied")


async def _says(sfr: Callable[..., Awaitable[str]], *texts: str) -> bool:
    shown = await sfr()
    return all(text in shown for text in texts)


@pytest.mark.skipif(not IS_THERE, reason="chromium and chromedriver are not installed (make browser)")
async def test_page_and_failed_jobs_tell_the_cause(
    system: System, workers: list[ScriptedWorker], browser: Browser
) -> None:
    """A worker hangs, another one answers 500 and a tenant floods: `sfr failures` and the dashboard say so, too."""
    first, second, _ = workers
    system.configure([first.url, second.url], tenants={"run-7": {"max_waiting": 1}}, default_max_concurrency=2)
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=2)
        first.ping = hang
        await router.sees(healthy=1)
        second.script = always(500)
        assert (await post_job(router.url)).status == 500
        second.script = takes(2)
        await post_jobs(f"{router.url}/t/run-7", 8, 8)
        sfr = reader(router, "failures")

        async def are_told() -> bool:
            broken, flood = await sfr("--worker", second.url), await sfr("--tenant", "run-7")
            return "returned 500" in broken and "jobs of tenant run-7 wait already" in flood

        await eventually(are_told, KNOWN_WITHIN_S, "the causes in sfr failures")
        await browser.open_dashboard(router.url, "#/events")
        await browser.shows("#events tbody", f"{first.url} is unhealthy and gets no jobs", KNOWN_WITHIN_S)
        await browser.shows("#events tbody", "Tenant run-7 has as many waiting jobs as it may have", KNOWN_WITHIN_S)
        await browser.open_dashboard(router.url, "#/failures")
        await browser.shows("#failures tbody", "returned 500", KNOWN_WITHIN_S)
