"""What a process tells in the background: nothing is lost in a short outage, nothing is told twice, nothing waits."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from router.fleet.journal.events import Events
from router.fleet.journal.model import MAX_EVENTS, Asked, Event
from router.fleet.journal.teller import AGAIN_S, MOST_UNTOLD, Teller
from router.fleet.redis_client import RedisClient
from tests.support.eventually import eventually


def event(number: int, subject: str = "run-7") -> Event:
    """An event, told apart by its text."""
    return Event("tenant_limited", subject, str(number))


@pytest.fixture
async def server() -> FakeServer:
    """A Redis that can be away."""
    return FakeServer()


@pytest.fixture
async def redis(server: FakeServer) -> AsyncIterator[RedisClient]:
    """A client of it."""
    async with FakeAsyncRedis(server=server, decode_responses=True) as client:
        yield RedisClient(client, "sfr", timeout_s=5)


async def texts(redis: RedisClient) -> list[str]:
    """Return the texts of all events."""
    return [told.event.text for told in (await Events(redis).read(Asked("0-0", MAX_EVENTS))).events]


async def test_state_that_lasts_is_told_once_by_all(redis: RedisClient) -> None:
    """Of each kind and subject one event is written within the time apart, whichever process tells it."""
    one, other = Teller(redis), Teller(redis)
    for number, teller in enumerate((one, one, other)):
        teller.tell(event(number), 60)
        await teller.finish()
    one.tell(event(3, "eval"), 60)
    one.tell(event(4))
    await one.finish()
    assert await texts(redis) == ["0", "3", "4"]


async def test_events_wait_for_redis(redis: RedisClient, server: FakeServer) -> None:
    """What is told while Redis is away is written when it is back; of too much, the last."""
    teller, server.connected = Teller(redis), False
    running = asyncio.create_task(teller.run())
    try:
        for number in range(MOST_UNTOLD + 2):
            teller.tell(event(number))
        await eventually(lambda: not redis.available, what="a failed try")
        server.connected = True
        await eventually(lambda: texts(redis), within_s=20 * AGAIN_S, what="the events")
        assert await texts(redis) == [str(number) for number in range(2, MOST_UNTOLD + 2)]
    finally:
        running.cancel()
        await asyncio.wait([running])


def test_odd_characters_can_be_told() -> None:
    """A text with a lone surrogate, as from a file's name, is no JSON that Redis can read: it is replaced."""
    assert Event("config_refused", "\udcff", "x\udcffy").words()[1:3] == ("?", "x?y")


@pytest.mark.parametrize("steps", range(12))
async def test_teller_ends_when_it_is_cancelled(redis: RedisClient, steps: int) -> None:
    """Also while the client of Redis connects, which may swallow the cancellation: else the process could not end."""
    teller = Teller(redis)
    teller.tell(event(1))
    running = asyncio.create_task(teller.run())
    for _ in range(steps):
        await asyncio.sleep(0)
    running.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([running])
