"""The history in Redis, which is a fake: who may write it, how much is kept, and what comes back."""

from dataclasses import replace

import pytest
from fakeredis import FakeAsyncRedis

from router.fleet.journal.history import FleetHistory, Marks
from router.fleet.journal.points import DAY, HOUR, RANGES, Mark, Point, Range
from router.fleet.leadership import Term
from router.fleet.redis_client import RedisClient


def point(begins: int, throughput: float = 1.0) -> Point:
    """Return a point of the step that begins then."""
    return Point(begins, throughput, 0, 0, None, None, None, None, 0, 0, {"run-7": 2.5})


async def now_s(client: FakeAsyncRedis) -> int:
    """Return the time by Redis' clock."""
    return int((await client.time())[0])


@pytest.mark.parametrize("span", Range)
async def test_written_points_are_read(redis: RedisClient, client: FakeAsyncRedis, term: Term, span: Range) -> None:
    """Each range has its number of steps, of which the last one written is the last."""
    series, count = RANGES[span]
    last = await now_s(client) // series.step_s * series.step_s - series.step_s
    made = [point(last - number * series.step_s, number) for number in (2, 0)]
    for each in made:
        await FleetHistory(redis).write(term, Marks(), *((each, None) if series is HOUR else (None, each)))
    found = await FleetHistory(redis).read(span)
    assert (found.step_s, len(found.series["throughput"]), len(found.tenants["run-7"])) == (series.step_s, count, count)
    assert found.begins + count * series.step_s in (last + series.step_s, last + 2 * series.step_s)
    known = [value for value in found.series["throughput"] if value is not None]
    assert known == [2, 0]


async def test_nothing_is_known_of_an_empty_redis(redis: RedisClient) -> None:
    """The series are there, without a value; there are no marks."""
    found = await FleetHistory(redis).read(Range.MINUTES)
    assert found.series["p99_ms"] == [None] * 30
    assert found.tenants == {}
    assert await FleetHistory(redis).marks() == Marks()


async def test_history_is_bounded(redis: RedisClient, client: FakeAsyncRedis, term: Term) -> None:
    """Each list keeps its number of points, the last ones, and all keys end by themselves."""
    history = FleetHistory(redis)
    await client.rpush("sfr:history:hour", *range(5000))
    await client.rpush("sfr:history:day", *range(5000))
    await history.write(term, Marks(), point(10), point(60))
    assert [await client.llen(f"sfr:history:{each}") for each in ("hour", "day")] == [HOUR.kept, DAY.kept]
    assert await client.lindex("sfr:history:hour", -1) != "4999"
    assert all([0 < await client.ttl(key) <= 25 * 3600 for key in await client.keys("sfr:history:*")])


async def test_a_former_leader_writes_nothing(redis: RedisClient, client: FakeAsyncRedis, term: Term) -> None:
    """A write carries its term."""
    assert not await FleetHistory(redis).write(replace(term, token=term.token + 1), Marks(), point(10), None)
    assert await client.keys("sfr:history:*") == []


async def test_marks_outlive_their_writer(redis: RedisClient, client: FakeAsyncRedis, term: Term) -> None:
    """They are read as they were written; what cannot be read counts as none."""
    marks = Marks(Mark(5, {"jobs": 3}, {"run-7": 9}, 1, 2, 3), None)
    await FleetHistory(redis).write(term, marks, None, None)
    assert await FleetHistory(redis).marks() == marks
    await client.set("sfr:history:mark", "no JSON")
    assert await FleetHistory(redis).marks() == Marks()


async def test_a_key_of_another_type_is_replaced(redis: RedisClient, client: FakeAsyncRedis, term: Term) -> None:
    """A slip with redis-cli does not end the history."""
    await client.set("sfr:history:hour", "x")
    await client.rpush("sfr:history:mark", "x")
    await FleetHistory(redis).write(term, Marks(), point(10), None)
    assert await client.llen("sfr:history:hour") == 1
