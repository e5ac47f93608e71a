"""The last failed jobs in Redis, which is a fake: what is kept, in which order, and what is found."""

from datetime import UTC, datetime
from itertools import chain

import pytest
from fakeredis import FakeAsyncRedis

from router.fleet.journal.failed_job import (
    MOST,
    MOST_ATTEMPTS,
    MOST_CHARACTERS,
    FailedJob,
    FailedTry,
    Failure,
    Search,
)
from router.fleet.journal.failures import Failures
from router.fleet.redis_client import RedisClient, RedisUnavailable

A, B = "http://a:1", "http://b:1"


def job(request_id: str, tenant: str = "default", *workers: str) -> FailedJob:
    """Return a failed job with an attempt on each of `workers`."""
    attempts = tuple(FailedTry(url, "timed out", 50) for url in workers)
    return FailedJob(request_id, tenant, "/run_code", "python", 503, "all_failed", 61, 7, "All failed", attempts)


async def test_failures_come_back_as_they_were(redis: RedisClient) -> None:
    """What is written is read, and the newest comes first, by when the jobs ended and not by when that was written."""
    failures = Failures(redis)
    await failures.add([(1, job("oldest", "run-7", A, B)), (9.99, job("newest"))], now=10)
    await failures.add([(5, job("between"))], now=10)
    found = await failures.last()
    assert [each.job for each in found] == [job("newest"), job("between"), job("oldest", "run-7", A, B)]
    assert 8 < (found[0].at - found[2].at).total_seconds() < 10


async def test_the_last_ones_are_kept(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """There are never more than MOST."""
    failures = Failures(redis)
    for start in range(0, MOST + 100, 100):
        await failures.add([(0, job(str(start + number))) for number in range(100)], now=0)
    assert await client.xlen("sfr:failures") == MOST
    assert {each.job.request_id for each in await failures.last()} == {str(number) for number in range(100, MOST + 100)}


async def test_what_is_written_twice_is_read_once(redis: RedisClient) -> None:
    """A call without an answer is repeated, and may have been carried out. Jobs of one id are still told apart."""
    failures = Failures(redis)
    for now in (5, 6):
        await failures.add([(1, job("a")), (2, job("a"))], now)
    assert [each.job for each in await failures.last()] == [job("a")] * 2


async def test_a_key_of_another_type_is_replaced(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """A slip with redis-cli costs one call: the next one, which the caller makes, writes again."""
    await client.set("sfr:failures", "x")
    with pytest.raises(RedisUnavailable):
        await Failures(redis).add([(0, job("a"))], now=0)
    await Failures(redis).add([(0, job("a"))], now=0)
    assert len(await Failures(redis).last()) == 1


async def test_texts_and_attempts_are_bounded(redis: RedisClient) -> None:
    """However long a cause is, and however many attempts there were, an entry stays small."""
    many = tuple(FailedTry(f"http://{number}", "x" * 10_000) for number in range(50))
    long = FailedJob("a", "t", "/" * 9999, "", 503, "all_failed", detail="y" * 999, attempts=many)
    await Failures(redis).add([(0, long)], now=0)
    (found,) = await Failures(redis).last()
    assert len(found.job.path) == len(found.job.detail) == len(found.job.attempts[0].cause) == MOST_CHARACTERS
    assert [each.worker_url for each in found.job.attempts] == [f"http://{n}" for n in range(50 - MOST_ATTEMPTS, 50)]


@pytest.mark.parametrize(
    "entry",
    [
        {"anything": "else"},
        {"ago_ms": "-1", "job": "{}"},
        {"ago_ms": "1e999", "job": "{}"},
        {"ago_ms": "5", "job": "no JSON"},
        {"ago_ms": "5", "job": '{"request_id": 5}'},
    ],
)
async def test_foreign_entries_are_passed_over(redis: RedisClient, entry: dict[str, str]) -> None:
    """What redis-cli has added hides no failure."""
    await Failures(redis).add([(0, job("a"))], now=0)
    await redis.command(["XADD", "sfr:failures", "*", *chain(*entry.items())])
    assert [each.job.request_id for each in await Failures(redis).last()] == ["a"]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        (Search(), ["a", "b-0", "b-1"]),
        (Search(limit=2), ["a", "b-0"]),
        (Search("a"), ["a"]),
        (Search("b"), ["b-0", "b-1"]),
        (Search("b-1"), ["b-1"]),
        (Search(tenant="run-7", limit=1), ["b-0"]),
        (Search(worker=A), ["a", "b-1"]),
        (Search("b", "run-7", A), ["b-1"]),
        (Search("none"), []),
    ],
)
def test_failures_are_found(search: Search, found: list[str]) -> None:
    """They are found by request, a batch's by the batch's too, by tenant, by worker, and by all together."""
    now = datetime.now(UTC)
    kept = [job("a", "default", A), job("b-0", "run-7", B), job("b-1", "run-7", A, B)]
    assert [each.job.request_id for each in search.found(Failure(now, each) for each in kept)] == found
