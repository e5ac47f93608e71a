"""The historian in simulated time: what it writes through changes of the lead, losses of Redis and odd clocks."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from router.fleet.journal.history import Marks
from router.fleet.journal.points import Point
from router.fleet.leadership import Term
from router.fleet.redis_client import RedisUnavailable
from router.fleet.stats import Usage
from sidecar.historian import AFTER_S, Historian
from tests.support.timeless import timeless

BEGIN = 1_800_000_000
TERM = Term(1, "me")


@dataclass
class Redis:
    """Redis as the historian sees it. Its clock is the loop's and `ahead_s`; five jobs end each second."""

    is_there: bool = True
    leads: int = 1
    ahead_s: float = 0.0
    since_s: float = 0.0  # when it began to count
    held: Marks = field(default_factory=Marks)
    hour: list[Point] = field(default_factory=list)
    day: list[Point] = field(default_factory=list)
    asked: int = 0

    def _answer(self) -> None:
        if not self.is_there:
            raise RedisUnavailable("away")

    async def marks(self) -> Marks:
        """Return the last marks."""
        self._answer()
        return self.held

    async def usage(self, urls: Collection[str]) -> Usage:
        """Return the counts of now."""
        self._answer()
        self.asked += 1
        assert urls == ["http://a"]
        now = asyncio.get_running_loop().time()
        return Usage(0, 0.0, {"jobs": int(5 * (now - self.since_s))}, at_ms=int((BEGIN + now + self.ahead_s) * 1000))

    async def write(self, term: Term, marks: Marks, hour: Point | None, day: Point | None) -> bool:
        """Keep what is written by the leader."""
        self._answer()
        if term.token != self.leads:
            return False
        self.held = marks
        self.hour += [hour] if hour else []
        self.day += [day] if day else []
        return True

    def empty(self) -> None:
        """Forget all, and count from 0."""
        self.held, self.hour, self.day = Marks(), [], []
        self.since_s = asyncio.get_running_loop().time()


async def lead(redis: Redis, seconds: float, token: int = 1) -> None:
    """Let a new sidecar lead for so long, and then kill it."""
    redis.leads = token
    around: Any = redis
    running = asyncio.create_task(Historian(around, around).run(Term(token, "me"), lambda: {"http://a"}))
    await asyncio.sleep(seconds)
    running.cancel()
    await asyncio.wait([running])


def steps(points: list[Point]) -> list[int]:
    """Return how long after BEGIN each point's step began."""
    return [point.begins - BEGIN for point in points]


def test_each_step_has_a_point() -> None:
    """Every ten seconds one of 10 s is written, every minute one of 1 min, and Redis is asked no more often."""
    redis = Redis()
    timeless(lead(redis, 125), now=0.5)
    assert (steps(redis.hour), steps(redis.day)) == (list(range(0, 120, 10)), [0, 60])
    assert {point.throughput for point in (*redis.hour, *redis.day)} == {5.0}
    assert redis.asked == 13


def test_a_new_leader_leaves_no_gap() -> None:
    """It goes on from the mark of the one before, which was killed in the middle of a step."""
    redis = Redis()

    async def run() -> None:
        for token, seconds in ((1, 14), (2, 3), (3, 50)):
            await lead(redis, seconds, token)
            await asyncio.sleep(4)

    timeless(run(), now=0.5)
    assert (steps(redis.hour), steps(redis.day)) == ([0, 10, 20, 30, 40, 50, 60], [0])
    assert all(4.9 <= point.throughput <= 5.1 for point in (*redis.hour, *redis.day))


def test_without_a_leader_the_steps_are_missing() -> None:
    """Nothing is said of steps seen for less than half; the minute, whose ends were seen, has its mean."""
    redis = Redis()

    async def run() -> None:
        await lead(redis, 14)
        await asyncio.sleep(30)
        await lead(redis, 40, 2)

    timeless(run(), now=0.5)
    assert (steps(redis.hour), steps(redis.day)) == ([0, 40, 50, 60, 70], [0])
    assert redis.day[0].throughput == 5.0


def test_while_redis_is_away_the_leader_waits() -> None:
    """A short outage costs no step. A Redis that was emptied counts from 0, so what ended before is missing once."""
    redis = Redis()

    async def outages() -> None:
        await asyncio.sleep(8)
        redis.is_there = False
        await asyncio.sleep(4)
        redis.is_there = True
        await asyncio.sleep(20)
        redis.empty()

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(outages())
            await lead(redis, 31)
            assert steps(redis.hour) == [0, 10, 20]
            assert all(4.9 <= point.throughput <= 5.1 for point in redis.hour)
            await lead(redis, 40, 2)

    timeless(run(), now=0.5)
    assert [(point.begins - BEGIN, point.throughput) for point in redis.hour] == [(30, 4), (40, 5), (50, 5), (60, 5)]


def test_a_clock_that_jumps_does_no_harm() -> None:
    """Whether Redis' clock goes ahead by an hour or back, the next whole steps are known, and no rate is negative."""
    redis = Redis()

    async def jump() -> None:
        await asyncio.sleep(24)
        redis.ahead_s = 3600
        await asyncio.sleep(30)
        redis.ahead_s = -7200

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(jump())
            await lead(redis, 90)

    timeless(run(), now=0.5)
    assert all(0 <= point.throughput <= 10 for point in redis.hour)
    assert steps(redis.hour)[:2] == [0, 10]
    assert {begins // 3600 for begins in steps(redis.hour)} == {0, 1, -2}


def test_a_former_leader_writes_nothing() -> None:
    """Its readings are not kept, and it does not end: its term is ended by others."""
    redis = Redis(leads=2)

    async def run() -> None:
        around: Any = redis
        running = asyncio.create_task(Historian(around, around).run(TERM, lambda: {"http://a"}))
        await asyncio.sleep(30 + AFTER_S)
        assert not running.done()
        running.cancel()

    timeless(run(), now=0.5)
    assert redis.hour == []
