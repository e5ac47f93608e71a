"""Answers and notes on their way from one process to another, through a real Valkey."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from router.config.settings import RedisSettings
from router.fleet.redis_client import RedisClient
from router.http.headers import read_worker_head
from router.http.response import Response
from router.jobs.sooner.transport import MAX_BYTES, Transport, WorkersAnswer
from router.scheduling.inbox import Inbox
from router.scheduling.messages import Beat, Call, Rules
from router.scheduling.redis_scheduler import RedisScheduler
from tests.support.eventually import eventually
from tests.support.programs import Valkey

# A body that is no text in any encoding.
BODY = bytes(range(256))
HEAD = read_worker_head(200, [(b"content-type", b"application/json"), (b"x-odd", b"\xff")])


class Hello(msgspec.Struct, frozen=True, tag_field="type", tag="hello"):
    """A note."""

    number: int


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[RedisClient]:
    """A client of a real Valkey."""
    redis = RedisClient.connect(RedisSettings(url=valkey.url), timeout_s=1)
    yield redis
    await redis.close()


def transport(redis: RedisClient, process: str = "p") -> Transport:
    """Return a transport of this process."""
    return Transport(redis, Inbox(redis, process), process)


async def test_an_answer_arrives_as_it_came(redis: RedisClient) -> None:
    """Head and body are the same to the byte."""
    answer = WorkersAnswer.of(Response(HEAD, BODY), "http://a", 2)
    assert answer is not None
    await transport(redis).store("p:1", answer)
    assert await transport(redis).take("p:1") == answer
    assert answer.response == Response(HEAD, BODY)


async def test_an_answer_for_one_process_is_taken_once(redis: RedisClient) -> None:
    """Then it takes no more memory in Redis."""
    answer = WorkersAnswer("http://a", 1, HEAD, BODY)
    await transport(redis).store("p:1", answer)
    assert [await transport(redis).take("p:1") for _ in range(2)] == [answer, None]


async def test_an_answer_that_nobody_takes_goes_by_itself(redis: RedisClient) -> None:
    """It stays for the time that was asked for."""
    await transport(redis).store("p:1", WorkersAnswer("http://a", 1, HEAD, BODY), ttl_s=0.05)

    async def is_gone() -> bool:
        return not await redis.command(["EXISTS", redis.keys.answer("p:1")])

    await eventually(is_gone, what="the answer's end")


def test_a_large_answer_is_not_handed_over() -> None:
    """Redis shall not hold answers of any size."""
    assert WorkersAnswer.of(Response(HEAD, bytes(MAX_BYTES)), "http://a", 1) is not None
    assert WorkersAnswer.of(Response(HEAD, bytes(MAX_BYTES + 1)), "http://a", 1) is None


async def test_a_note_arrives_and_tells_whether_its_process_lives(redis: RedisClient) -> None:
    """A process that sends heartbeats lives; a note to one that does not waits for nobody."""
    heard: list[Hello] = []
    inbox = Inbox(redis, "p")
    Transport(redis, inbox, "p").hear(Hello, heard.append)
    other = transport(redis, "q")
    assert not await other.send("p", Hello(1))
    await redis.command(["HSET", "sfr:fleet", "written_at", "now"])
    await RedisScheduler(redis, Rules())(Call("p", beat=Beat()))
    assert await other.send("p", Hello(2))
    reading = asyncio.create_task(inbox.run(lambda _: None))
    await eventually(lambda: len(heard) == 2, what="the notes")
    reading.cancel()
    await asyncio.wait([reading])
    assert heard == [Hello(1), Hello(2)]


async def test_within_a_process_nothing_needs_redis() -> None:
    """Answers and notes are handed over directly, and an answer that nobody takes goes by itself."""
    heard: list[Hello] = []
    redis = RedisClient.connect(RedisSettings(url="redis://127.0.0.1:1"), timeout_s=0.1)
    own = transport(redis)
    own.hear(Hello, heard.append)
    assert await own.send("p", Hello(1))
    answer = WorkersAnswer("http://a", 1, HEAD, BODY)
    await own.store("p:1", answer, process="p")
    assert await own.take("p:1") == answer
    await own.store("p:2", answer, ttl_s=0.01, process="p")
    await eventually(lambda: not own._own, what="the answer's end")
    assert heard == [Hello(1)]
    await redis.close()
