"""The endpoints that tell of the past, over a Redis that is a fake."""

from datetime import datetime
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from router.api.failures import create_failures
from router.api.history import create_history
from router.fleet.journal.failed_job import FailedJob, FailedTry
from router.fleet.journal.failures import Failures
from router.fleet.journal.history import FleetHistory
from router.fleet.redis_client import RedisClient
from tests.support.endpoints import ask, serving

JOB = FailedJob("a", "run-7", "/run_code", "python", 503, "all_failed", 61, 7, "All workers failed")


async def asked(path: str, params: dict[str, str], *jobs: FailedJob) -> tuple[int, Any]:
    """Return the answer's status and body after these jobs have failed."""
    async with FakeAsyncRedis(decode_responses=True) as fake:
        redis = RedisClient(fake, "sfr", timeout_s=5)
        await Failures(redis).add([(0, job) for job in jobs] or [(0, JOB)], now=0)
        app = serving(create_failures(redis), create_history(FleetHistory(redis)))
        status, body, _ = await ask(app, "GET", path, params, None, ())
        return status, body


async def test_a_failed_job_is_told_whole() -> None:
    """Times, whose job it was, what its client got, and each attempt; fields without a value are there as well."""
    job = FailedJob(
        "b", "default", "/submit", "", 504, "deadline", attempts=(FailedTry("http://a:1", "timed out", 50),)
    )
    status, body = await asked("/admin/failures", {}, JOB, job)
    (newest, oldest) = body["failures"]
    assert status == 200
    assert datetime.fromisoformat(newest.pop("at")) >= datetime.fromisoformat(oldest["at"])
    assert newest == {
        "request_id": "b",
        "tenant": "default",
        "path": "/submit",
        "language": "",
        "status": 504,
        "outcome": "deadline",
        "took_ms": None,
        "queue_ms": 0,
        "detail": "",
        "attempts": [{"worker_url": "http://a:1", "cause": "timed out", "took_ms": 50}],
    }


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"request_id": "a", "tenant": "run-7", "limit": "1"}, 200),
        ({"worker": "HTTP://A.:1/run_code"}, 200),
        ({"worker": "server1"}, 422),
        ({"tenant": "no name"}, 422),
        ({"limit": "0"}, 422),
        ({"limit": "501"}, 422),
        ({"request_id": ""}, 422),
    ],
)
async def test_a_search_that_can_find_nothing_is_refused(params: dict[str, str], status: int) -> None:
    """A worker's URL may have any spelling; what is no URL, name or number gets 422."""
    assert (await asked("/admin/failures", params))[0] == status


async def test_history_has_its_range() -> None:
    """Without a range it is an hour; another one than those that there are gets 422."""
    assert len((await asked("/admin/history", {}))[1]["series"]["throughput"]) == 360
    status, body = await asked("/admin/history", {"range": "24h"})
    assert (status, body["step_s"], len(body["series"]["queue_p99_ms"])) == (200, 60, 1440)
    assert (await asked("/admin/history", {"range": "2h"}))[0] == 422
