"""The client of Redis; Redis is a fake."""

import pytest
from fakeredis import FakeAsyncRedis
from redis.exceptions import AuthenticationError

from router.fleet.leadership import Leadership
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient
from tests.support.records import NOW, SEEN


async def test_every_key_has_the_prefix(client: FakeAsyncRedis) -> None:
    """Two fleets can share a Redis under different prefixes."""
    redis = RedisClient(client, "{mine}", timeout_s=5)
    term = await Leadership(redis).lead("me", 3)
    assert term is not None
    await Records(redis).record(term, NOW, [SEEN], [], changed=True)
    assert all(str(key).startswith("{mine}:") for key in await client.keys("*"))


@pytest.mark.parametrize(
    ("error", "is_login"), [(AuthenticationError("invalid username-password pair"), True), (OSError("refused"), False)]
)
def test_refused_login_is_told_from_an_absent_redis(client: FakeAsyncRedis, error: Exception, is_login: bool) -> None:
    """To start Redis again helps nobody whose password is wrong."""
    redis = RedisClient(client, "sfr", timeout_s=5)
    redis.failed(error)
    assert (redis.answers, redis.refuses_login) == (False, is_login)
