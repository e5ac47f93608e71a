"""What a router process tells the journal of itself and of what its jobs met; Redis is a fake."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from router.fleet.journal.events import Events
from router.fleet.journal.model import Asked, Event
from router.fleet.redis_client import LOAD, RedisClient
from router.telemetry import chronicle
from router.telemetry.chronicle import Chronicle
from router.telemetry.recorder import Recorder
from tests.support.eventually import eventually


class Process:
    """A router process with its journal. `reloads` are what the master has told since the last look."""

    def __init__(self, redis: RedisClient) -> None:
        self.redis = redis
        self.recorder = Recorder()
        self.reloads: Iterator[str] = iter(())
        self.keys: Iterator[str] = iter(())
        self.leaders: list[str | None] = []
        self.chronicle = Chronicle(
            *(redis, self.recorder, "p", lambda: next(self.reloads, None), lambda: next(self.keys, None)),
            lambda: self.leaders.pop(0) if self.leaders else "",
        )

    async def told(self) -> list[Event]:
        """Let the process end; return what it has told, but that it ended."""
        await self.chronicle.finish()
        return [told.event for told in (await Events(self.redis).read(Asked("0-0"))).events][:-1]


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    """A process over an empty Redis."""
    async with FakeAsyncRedis(server=FakeServer(), decode_responses=True) as client:
        yield Process(RedisClient(client, "sfr", timeout_s=5))


async def test_refused_jobs_are_told_by_tenant(process: Process) -> None:
    """A tenant at its limit has one event, with how many jobs were refused; the default tenant has its name."""
    for tenant in ("run-7", "run-7", ""):
        process.recorder.crowded(tenant)
    first, second = await process.told()
    assert (first.kind, first.subject, first.more["refused"]) == ("tenant_refused", "run-7", 2)
    assert second.subject == "default"


async def test_full_queue_is_told_with_the_tenant_that_fills_it(process: Process) -> None:
    """The event names the tenant with the most pending jobs."""
    client = process.redis
    await client.command(["ZADD", "sfr:queue", "1", "p:1"])
    await client.command(["ZADD", "sfr:queue:/run-7", "2", "p:2", "3", "p:3"])
    await client.command(["ZADD", "sfr:lines", "2", "run-7/"])
    await client.command(["HSET", "sfr:waiting", "p:1", "1 1 ", "p:2", "1 1 ", "p:3", "1 1 "])
    process.recorder.queue_was_full()
    (full,) = await process.told()
    assert (full.kind, full.subject) == ("queue_full", "run-7")
    assert full.text.startswith("The queue is full: 3 jobs wait, 2 of them of tenant run-7. 1 job got 503")


async def test_redis_return_is_told_with_both_moments(process: Process) -> None:
    """The event says from when to when Redis did not answer, and why."""
    process.redis.failed(ConnectionError("Error 111 connecting to a:1. Connection refused."), LOAD)
    process.redis.succeeded(LOAD)
    (back,) = await process.told()
    assert back.kind == "redis_back"
    assert back.more["lost_at"] <= back.more["back_at"]
    assert "111 connecting to a:1. Connection refused. Jobs went on meanwhile" in back.text


@pytest.mark.parametrize(
    ("flaw", "kind"), [("", "config_reloaded"), ("c.yaml: routing: unknown key\nsecond line", "config_refused")]
)
async def test_reload_is_told(process: Process, flaw: str, kind: str) -> None:
    """A new configuration is in force, or a bad one is not; then the event says why, in one line."""
    process.reloads = iter([flaw])
    (told,) = await process.told()
    assert (told.kind, "unknown key; second line" in told.text) == (kind, bool(flaw))
    assert "\n" not in told.text


async def test_changed_keys_are_told_beside_a_reload(process: Process) -> None:
    """Whoever gets 401 from a moment on finds there that the keys have changed, or that the change was refused."""
    process.reloads, process.keys = iter([""]), iter(["", "keys:1: expected a key's SHA-256"])
    await process.chronicle._look()
    reloaded, taken, refused = await process.told()
    assert reloaded.text.endswith("has taken over its configuration")
    assert (taken.kind, taken.text.endswith("has taken over a changed file of API keys")) == ("config_reloaded", True)
    assert (refused.kind, refused.more) == ("config_refused", {"reason": "keys:1: expected a key's SHA-256"})


async def test_process_tells_its_begin_and_takes_leave(process: Process) -> None:
    """After its end nobody misses its heartbeat."""
    await process.redis.command(["ZADD", "sfr:processes", "1", "p", "1", "q"])
    running = asyncio.create_task(process.chronicle.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert [event.kind for event in await process.told()] == ["router_started"]
    assert await process.redis.command(["ZRANGE", "sfr:processes", "0", "-1"]) == ["q"]


@pytest.mark.parametrize(
    ("leaders", "kinds"),
    [
        ([None, None, "one"], []),
        ([None, None, None, None, None, "one"], ["sidecar_lost", "sidecar_changed"]),
        ([""], []),
    ],
)
async def test_lack_of_a_sidecar_is_told_once_and_so_is_its_end(
    process: Process, monkeypatch: pytest.MonkeyPatch, leaders: list[str | None], kinds: list[str]
) -> None:
    """A change of the lead is not told as its loss."""
    monkeypatch.setattr(chronicle, "LOOK_EVERY_S", 0)
    process.leaders = [*leaders]
    running = asyncio.create_task(process.chronicle.run())
    await eventually(lambda: not process.leaders, what="the last look")
    running.cancel()
    await asyncio.wait([running])
    assert [event.kind for event in (await process.told())[1:]] == kinds
