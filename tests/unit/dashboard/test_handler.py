"""The dashboard's files, headers, access and event stream, without Redis or with a fake one."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from posixpath import dirname, normpath

import aiohttp
import pytest
from fakeredis import FakeAsyncRedis

from router.auth.access import Access
from router.composition import create_app
from router.config.load import parse
from router.dashboard.feed import Feed
from router.dashboard.handler import MAX_WATCHERS
from router.fleet.counters import Counters
from router.fleet.leadership import Leadership
from router.fleet.model import Health, Worker, WorkerRecord
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient
from router.fleet.snapshot import FleetView
from router.fleet.stats import Usage
from tests.support.eventually import eventually
from tests.support.serving import served

SETTINGS = "{workers: ['http://127.0.0.1:1'], redis: {url: 'redis://127.0.0.1:1/0'}, admin: {allow_loopback: true}}"
CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
MARK = "http://127.0.0.1:1"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that follows no redirects and sends no Accept header of its own."""
    async with aiohttp.ClientSession(skip_auto_headers=["accept"]) as client:
        yield client


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A router without a token, which users of this host may change."""
    async with served(create_app(parse(SETTINGS, "t"))) as address:
        yield address


async def test_page_and_all_its_files_are_served(url: str, session: aiohttp.ClientSession) -> None:
    """Each file has its type, allows only the page's own scripts, and is not sent again if it has not changed."""
    async with session.get(f"{url}/dashboard") as response:
        page = await response.text()
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.content_type == "text/html"
    assert not re.search(r"""(src|href)="(https?:)?//""", page)
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", page)
    named = set(re.findall(r'(?:src|href)="(dashboard/[^"]+)"', page))
    unread = list(named)
    while unread:
        name = unread.pop()
        async with session.get(f"{url}/{name}") as response:
            assert response.status == 200, name
            imported = re.findall(r'from "(\.[^"]+)"', await response.text()) if name.endswith(".js") else []
        new = {normpath(f"{dirname(name)}/{each}") for each in imported} - named
        named |= new
        unread += new
    assert {f"dashboard/{each}" for each in ("app.js", "parts/table.js", "views/worker.js", "model/stream.js")} <= named
    for name in named:
        async with session.get(f"{url}/{name}") as response:
            assert (response.status, response.headers["x-content-type-options"]) == (200, "nosniff")
            tag = response.headers["etag"]
        async with session.get(f"{url}/{name}", headers={"if-none-match": tag}) as response:
            assert (response.status, await response.read()) == (304, b"")


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [(CHROMIUM, True), ("text/html", True), (None, False), ("*/*", False), ("application/json", False)],
)
async def test_root_is_the_page_only_for_browsers(
    url: str, session: aiohttp.ClientSession, accept: str | None, is_page: bool
) -> None:
    """A browser is redirected to the page, a program gets JSON, and caches keep the two apart."""
    headers = {} if accept is None else {"accept": accept}
    async with session.get(f"{url}/", headers=headers, allow_redirects=False) as response:
        assert response.headers["vary"].lower() == "accept"
        if is_page:
            assert (response.status, response.headers["location"]) == (302, "dashboard")
        else:
            assert (response.status, (await response.json())["workers"][0]["url"]) == (200, MARK)


async def test_unknown_files_and_methods_are_refused(url: str, session: aiohttp.ClientSession) -> None:
    """Other files and paths outside the page's folder get 404, and other methods 405."""
    for path in ("/dashboard/nothing.js", "/dashboard/..%2fdoor.py", "/dashboard/uplot/README.md"):
        async with session.get(url + path) as response:
            assert (response.status, await response.json()) == (404, {"detail": "Not Found"})
    for method, path, allowed in (("POST", "/dashboard", "GET, HEAD"), ("HEAD", "/dashboard/events", "GET")):
        async with session.request(method, url + path) as response:
            assert (response.status, response.headers["allow"]) == (405, allowed)
    async with session.get(f"{url}/dashboard/") as response:
        assert (response.status, response.url.path) == (200, "/dashboard")


async def test_access_tells_whether_the_client_may_change_the_fleet(url: str, session: aiohttp.ClientSession) -> None:
    """/dashboard/access decides like /admin: it admits users of this host, but not a foreign page, or the token."""

    async def access(at: str, **headers: str) -> tuple[bool, bool, bool]:
        async with session.get(f"{at}/dashboard/access", headers=headers) as response:
            told = await response.json()
            assert response.headers["cache-control"] == "no-store"
            return told["may_steer"], told["takes_token"], told["is_wrong"]

    assert await access(url) == (True, False, False)
    assert await access(url, origin="http://evil.example") == (False, False, False)
    assert await access(url, host="evil.example") == (False, False, False)
    async with served(create_app(parse(SETTINGS, "t"), Access(admin_token="secret"))) as guarded:
        assert await access(guarded) == (False, True, False)
        assert await access(guarded, authorization="Bearer other") == (False, True, True)
        assert await access(guarded, authorization="Bearer secret") == (True, True, False)


async def test_stream_shows_the_fleet_without_redis(url: str, session: aiohttp.ClientSession) -> None:
    """Without Redis the stream has config.yaml's workers and reports the outage."""
    async with session.get(f"{url}/dashboard/events") as response:
        assert (response.content_type, response.headers["cache-control"]) == ("text/event-stream", "no-store")
        assert await response.content.readline() == b"event: whole\n"
        told = json.loads((await response.content.readline()).removeprefix(b"data: "))
    assert (told["urls"], told["status"]["redis"], told["rows"][0][1]) == ([MARK], False, "unknown")


async def test_details_say_what_is_missing(url: str, session: aiohttp.ClientSession) -> None:
    """A worker must be named; without Redis the answer says that it is away."""
    for path, status in (("worker", 400), ("worker?url=a&url=b", 400), ("worker?url=a", 503), ("languages", 503)):
        async with session.get(f"{url}/dashboard/{path}") as response:
            assert response.status == status, path
            assert (await response.json())["detail"].startswith("Name one worker" if status == 400 else "Redis is un")
    async with session.post(f"{url}/dashboard/languages") as response:
        assert (response.status, response.headers["allow"]) == (405, "GET")


async def test_processes_without_redis_are_told_when_redis_is_away(url: str, session: aiohttp.ClientSession) -> None:
    """This router counts its own processes; of the others nothing is known."""
    async with session.get(f"{url}/dashboard/processes") as response:
        told = await response.json()
        assert (response.status, told["processes"]) == (200, None)
        assert told["processes_here"] == 1


async def test_number_of_watchers_is_limited(url: str) -> None:
    """One watcher too many gets the reason, and finds room when another one leaves."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(session.get(f"{url}/dashboard/events")) for _ in range(MAX_WATCHERS)]
        assert {stream.status for stream in streams} == {200}

        async def asked() -> int:
            async with session.get(f"{url}/dashboard/events") as response:
                if response.status == 503:
                    assert (await response.json())["detail"] == f"{MAX_WATCHERS} dashboards watch this process already"
                return response.status

        assert await asked() == 503
        streams[0].close()

        async def has_room() -> bool:
            return await asked() == 200

        await eventually(has_room, what="room for another")


class CountingCounters(Counters):
    """Counts how often the usage is read."""

    reads = 0

    async def usage(self, urls: Sequence[str]) -> Usage:
        """Count this call, and read."""
        self.reads += 1
        return await super().usage(urls)


class Watched:
    """A feed that reads a fake Redis with one worker often."""

    def __init__(self, client: FakeAsyncRedis) -> None:
        self.redis = RedisClient(client, "sfr", timeout_s=5)
        self.counters = CountingCounters(self.redis)
        self.view = FleetView(self.redis, ())
        self.feed = Feed(self.redis, self.counters, self.view, 30, every_s=0.02)

    async def write(self) -> None:
        """Write the fleet like a sidecar does."""
        now = datetime.now(UTC)
        term = await Leadership(self.redis).lead("test", 60)
        assert term is not None
        await Records(self.redis).record(term, now, [WorkerRecord(Worker(MARK), Health.HEALTHY, now)], (), changed=True)
        await self.view.refresh()


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    """A feed whose fleet is written."""
    async with FakeAsyncRedis(decode_responses=True) as client:
        watched = Watched(client)
        await watched.write()
        yield watched


def kind(event: bytes) -> str:
    """Return an event's name."""
    return str(re.findall(rb"event: (\w+)\n", event)[0], "ascii")


async def test_many_watchers_share_one_reading_and_its_bytes(watched: Watched) -> None:
    """All watchers get the same bytes, and reading stops when the last one leaves."""
    async with aclosing(watched.feed.events()) as first, aclosing(watched.feed.events()) as second:
        for wanted in ("whole", "tick", "tick"):
            one, other = await asyncio.gather(anext(first), anext(second))
            assert one is other
            assert kind(one) == wanted
        assert watched.counters.reads <= 5
    assert watched.feed._reading is None


async def test_slow_watcher_skips_and_then_gets_the_whole(watched: Watched) -> None:
    """No events are queued for a slow watcher, and the others are not delayed."""
    async with aclosing(watched.feed.events()) as slow, aclosing(watched.feed.events()) as quick:
        assert kind(await anext(slow)) == "whole"
        for _ in range(5):
            await anext(quick)
        late = await anext(slow)
        assert kind(late) == "whole"
        assert kind(await anext(slow)) == "tick"


async def test_watcher_that_returns_gets_nothing_old(watched: Watched) -> None:
    """The first event after a break is a current one, which still has the history."""
    async with aclosing(watched.feed.events()) as events:
        await anext(events)
    had = watched.counters.reads
    async with aclosing(watched.feed.events()) as events:
        told = json.loads((await anext(events)).partition(b"data: ")[2])
    assert watched.counters.reads == had + 1
    assert len(told["history"]) == told["number"] == 2
