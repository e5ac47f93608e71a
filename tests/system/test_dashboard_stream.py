"""The dashboard's stream from real gunicorn: it lasts, delays no stop, and reads nothing while nobody watches."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from typing import Any

import aiohttp

from tests.support.eventually import eventually
from tests.support.programs import Router, System, Valkey
from tests.support.worker import ScriptedWorker

# Far more than a stop without streams takes, and far less than gunicorn's graceful_timeout of 30 s.
STOPS_WITHIN_S = 8.0


class Watcher:
    """A client of the stream on its own connection."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.events: list[tuple[str, Any]] = []
        self.reading = asyncio.create_task(self._read(response))

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        name = ""
        async for line in response.content:
            kind, _, value = line.decode().strip().partition(": ")
            if kind == "event":
                name = value
            elif kind == "data":
                self.events.append((name, json.loads(value)))


async def watch(stack: AsyncExitStack, router: Router) -> Watcher:
    """Watch the stream until `stack` is left."""
    session = await stack.enter_async_context(aiohttp.ClientSession(read_bufsize=2**20))
    watcher = Watcher(await stack.enter_async_context(session.get(f"{router.url}/dashboard/events")))
    stack.callback(watcher.reading.cancel)
    await eventually(lambda: watcher.events, what="the first event")
    return watcher


async def test_stream_outlives_time_limits_and_ends_with_its_process(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Streams need no key, share one reading of Redis per process, and end completely at a reload or a stop."""
    held = system.folder / "keys"
    held.write_text(sha256(b"key").hexdigest())
    limits = {"client_body_timeout": 0.5, "client_read_timeout": 1}
    system.configure([worker.url for worker in workers], api_keys=str(held), **limits)
    async with system.sidecar(), system.router(2) as router, AsyncExitStack() as stack:
        await router.sees(healthy=3)
        readings = await stack.enter_async_context(_readings(valkey))
        first = [await watch(stack, router) for _ in range(6)]
        had, seen, since = len(readings), len(first[0].events), time.monotonic()
        await eventually(lambda: len(first[0].events) >= seen + 3, what="three more events")
        assert len(readings) - had <= router.processes * (time.monotonic() - since + 2)
        await eventually(lambda: all(len(watcher.events) >= 4 for watcher in first), what="four events")
        for watcher in first:
            names, numbers = [name for name, _ in watcher.events], [event["number"] for _, event in watcher.events]
            assert names == ["whole", *["tick"] * (len(names) - 1)]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        router.send(signal.SIGHUP)
        await _end(first)
        await eventually(lambda: router.output.count("Application startup complete") == 4, what="new processes")
        async with AsyncExitStack() as leaving:
            await watch(leaving, router)
        await eventually(lambda: _is_over(readings), what="no reading without a watcher")
        second = [await watch(stack, router) for _ in range(6)]
        router.send(signal.SIGTERM)
        await _end(second)
        assert await router.ended(STOPS_WITHIN_S) == 0
        assert "Traceback" not in router.output


async def _end(watchers: list[Watcher]) -> None:
    """Wait for the ends of the streams; a stream that is cut short raises ClientPayloadError."""
    async with asyncio.timeout(STOPS_WITHIN_S):
        await asyncio.gather(*(watcher.reading for watcher in watchers))


@asynccontextmanager
async def _readings(valkey: Valkey) -> AsyncIterator[list[float]]:
    """Yield a growing list of the moments at which a process read all counts from Redis."""
    readings: list[float] = []

    async def listen() -> None:
        async with valkey.client() as redis, redis.monitor() as monitor:
            async for sent in monitor.listen():
                readings.extend([sent["time"]] if sent["command"] == "HGETALL sfr:stats" else [])

    listening = asyncio.create_task(listen())
    try:
        yield readings
    finally:
        listening.cancel()


def _is_over(readings: list[float]) -> bool:
    return time.time() - readings[-1] > 1.5
