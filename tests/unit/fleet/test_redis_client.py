"""The client of Redis; Redis is a fake."""

import re

import pytest
from fakeredis import FakeAsyncRedis
from redis.exceptions import AuthenticationError

from router.config.load import ConfigError
from router.config.settings import RedisSettings
from router.fleet.connection import URL_OPTIONS, expect_usable
from router.fleet.leadership import Leadership
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.processes import free_port
from tests.support.programs import ROOT
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


@pytest.mark.parametrize(
    ("url", "is_cluster", "says"),
    [
        ("redis://:secret@h/0?timout=5", False, "unknown option 'timout'; expected one of client_name, db, "),
        ("redis://h/0?retry=1", True, "unknown option 'retry'"),
        ("redis://h/0?encoding=utf-16", False, "unknown option 'encoding'"),
        ("redis://h/0?decode_responses=", False, "unknown option 'decode_responses'"),
        ("redis+sentinel://h/m?db=1", False, "unknown option 'db'; expected one of sentinel_password"),
        ("unix:///s?db=secret", False, "db cannot be used"),
        ("redis://h/0?protocol=9", False, "protocol cannot be used: redis-py does not take its value"),
        ("redis://h/5", True, "/5 cannot be used"),
        ("rediss://h/0?ssl_ca_certs=/missing", False, "ssl_ca_certs cannot be used: No such file or directory"),
    ],
)
def test_bad_option_of_the_url_is_a_mistake_at_the_start(url: str, is_cluster: bool, says: str) -> None:
    """Else each process would end with a traceback of redis-py. No value is repeated."""
    with pytest.raises(ConfigError, match=r"^redis\.url: ") as caught:
        expect_usable(RedisSettings(url=url, prefix="{sfr}", cluster=is_cluster))
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h?client_name=r&protocol=2&health_check_interval=5&socket_keepalive=yes&username=u&password=p",
        "rediss://h/0?ssl_cert_reqs=none&ssl_check_hostname=no",
        "redis+sentinel://h/m?sentinel_password=p",
        "unix:///s?db=3",
    ],
)
def test_good_options_of_the_url_are_no_mistake(url: str) -> None:
    """They are about whom Redis knows, its database, the connection and TLS."""
    expect_usable(RedisSettings(url=url))


def test_options_of_the_url_are_described() -> None:
    """The page on Redis names each option that a URL may have."""
    _, _, said = (ROOT / "docs" / "redis.md").read_text().partition("may have these options")
    assert set(re.findall(r"`([a-z_]+)`", said.partition("An example")[0])) == URL_OPTIONS


async def test_cluster_that_cannot_be_reached_is_unavailable() -> None:
    """A Cluster of which no node answers is away like a single server: calls and subscriptions end in our own error."""
    url = f"redis://127.0.0.1:{free_port()}"
    redis = RedisClient.connect(RedisSettings(url=url, prefix="{sfr}", cluster=True), timeout_s=5)
    with pytest.raises(RedisUnavailable, match=r"refused|failed"):
        await Records(redis).load()
    for listening in (redis.heard("{sfr}:changes"), redis.popped("{sfr}:grants:p", 1, 1)):
        with pytest.raises(RedisUnavailable, match=r"refused|failed"):
            await anext(listening)
    assert not redis.available
    await redis.close()
