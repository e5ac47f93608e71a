"""The client of Redis; Redis is a fake."""

from fakeredis import FakeAsyncRedis

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
