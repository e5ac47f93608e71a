"""A fleet in a fake Redis that can run Lua."""

from collections.abc import AsyncIterator

import pytest
from fakeredis import FakeAsyncRedis

from router.fleet.leadership import Leadership, Term
from router.fleet.redis_client import RedisClient


@pytest.fixture
async def client() -> AsyncIterator[FakeAsyncRedis]:
    """An empty fake Redis with Lua."""
    async with FakeAsyncRedis(decode_responses=True) as redis:
        yield redis


@pytest.fixture
def redis(client: FakeAsyncRedis) -> RedisClient:
    """A client of the fake Redis."""
    return RedisClient(client, "sfr", timeout_s=5)


@pytest.fixture
async def term(redis: RedisClient) -> Term:
    """A term in which the sidecar `me` leads."""
    term = await Leadership(redis).lead("me", 3)
    assert term is not None
    return term
