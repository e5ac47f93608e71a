"""`GET /admin/events` and `sfr events`: what they show of a journal in a fake Redis, and what they refuse."""

from collections.abc import Sequence
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis
from redis.exceptions import ResponseError
from typer.testing import CliRunner

from router.api.journal import create_journal
from router.cli.main import app
from router.fleet.journal.events import Events
from router.fleet.journal.model import Event
from router.fleet.redis_client import SCHEDULE, RedisClient
from tests.support.endpoints import ask, serving

JOINED = Event("worker_joined", "http://a:1", "Worker http://a:1 has joined", "config", {"weight": 2})
LEFT = Event("worker_left", "http://a:1", "Worker http://a:1 has left")


async def listed(redis: FakeAsyncRedis, **params: str) -> tuple[int, Any]:
    """Return the status and the body of the answer to `GET /admin/events`."""
    api = serving(create_journal(RedisClient(redis, "sfr", timeout_s=5)))
    return (await ask(api, "GET", "/admin/events", params, None, ()))[:2]


async def tell(redis: FakeAsyncRedis, events: Sequence[Event]) -> None:
    """Write events into the journal."""
    await Events(RedisClient(redis, "sfr", timeout_s=5)).write((event, 0) for event in events)


async def test_events_are_listed_with_their_help() -> None:
    """Each has its time in UTC, and the section of the documentation that explains it; `next` names the last."""
    async with FakeAsyncRedis(decode_responses=True) as redis:
        await tell(redis, [JOINED, LEFT])
        status, page = await listed(redis)
        joined, left = page["events"]
        assert (status, page["next"]) == (200, left["id"])
        assert joined.pop("at").endswith("Z")
        assert joined == {
            "id": joined["id"],
            "kind": "worker_joined",
            "subject": "http://a:1",
            "text": JOINED.text,
            "by": "config",
            "more": {"weight": 2},
            "help": "docs/failures.md#worker_joined",
        }
        assert (await listed(redis, kind="worker_left", worker="http://a:1", since="10m", limit="5"))[1]["events"] == [
            left
        ]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"since": "soon"}, "expected a length of time such as 10m"),
        ({"limit": "1001"}, "less than or equal to 1000"),
        ({"kind": "moon"}, "'worker_joined'"),
        ({"worker": "http://"}, ""),
    ],
)
async def test_bad_questions_are_refused(params: dict[str, str], told: str) -> None:
    """The answer names the parameter and says what was expected."""
    async with FakeAsyncRedis(decode_responses=True) as redis:
        status, body = await listed(redis, **params)
        (problem,) = body["detail"]
        assert (status, problem["loc"][1]) == (422, next(iter(params)))
        assert told in problem["msg"]


async def test_without_redis_events_cannot_be_listed() -> None:
    """The answer is 503 and says so."""
    async with FakeAsyncRedis(decode_responses=True, connected=False) as redis:
        status, body = await listed(redis)
        assert (status, body["detail"].partition(":")[0]) == (503, "Redis is unavailable")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--since", "soon"], "--since: expected a length of time such as 10m or 2h"),
        (["--limit", "0"], "--limit: expected a whole number from 1 to 1000, got '0'"),
        (["--kind", "moon"], "--kind: expected one of config_refused, "),
        (["--worker", "http://"], "--worker: expected a URL such as http://server1:8080, got 'http://'"),
        (["--worker", ""], "--worker: expected a URL such as http://server1:8080, got ''"),
    ],
)
def test_command_refuses_bad_options_in_its_own_words(words: list[str], told: str) -> None:
    """The status is 2, the option is named, and no router is asked."""
    done = CliRunner().invoke(app, ["events", *words])
    assert done.exit_code == 2
    assert done.output.startswith(told)


async def test_page_says_why_the_latest_may_be_missing() -> None:
    """A full Redis still tells of the past, and keeps nothing new."""
    async with FakeAsyncRedis(decode_responses=True) as fake:
        await tell(fake, [JOINED])
        redis = RedisClient(fake, "sfr", timeout_s=5)
        redis.failed(ResponseError("OOM command not allowed"), SCHEDULE)
        api = serving(create_journal(redis))
        _, page, _ = await ask(api, "GET", "/admin/events", {}, None, ())
        assert ([each["text"] for each in page["events"]], page["redis_because"]) == (
            [JOINED.text],
            "OOM command not allowed",
        )
