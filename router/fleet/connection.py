"""Decides how to reach Redis: one server, a Sentinel's master, or a Cluster, by `redis.url` and `redis.cluster`.

redis-py's own retries are off: without Redis a job goes on at once, by the scheduler in this process. Its read timeout
is off, too: RedisClient bounds each call, and a subscription has to wait without a bound.
"""

from importlib import import_module
from inspect import signature
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from router.config.addresses import shown
from router.config.settings import RedisSettings

AnyRedis = Redis | RedisCluster

_SENTINEL_PORT = 26379
# A redis-py that listens for notices of maintenance does not look whether a pooled connection is still open. After a
# restart of Redis the next call over each one would fail. Releases before 8 have no such notices here.
_WITHOUT_NOTICES = (
    {"maint_notifications_config": import_module("redis.maint_notifications").MaintNotificationsConfig(enabled=False)}
    if "maint_notifications_config" in signature(Redis.__init__).parameters
    else {}
)


# What a URL of Redis may say after its `?`. Of redis-py's other options, most would undo what the router relies on.
_TLS = ("ca_certs", "ca_data", "ca_path", "cert_reqs", "certfile", "check_hostname", "ciphers", "keyfile", "password")
URL_OPTIONS = frozenset(
    {"client_name", "db", "health_check_interval", "password", "protocol", "socket_keepalive", "username"}
    | {f"ssl_{name}" for name in _TLS}
)
_SENTINEL = "redis+sentinel"
_OF_SENTINELS = frozenset({"sentinel_password"})


def connect(settings: RedisSettings, timeout_s: float) -> AnyRedis:
    """Return a client that connects at its first call, within `timeout_s` seconds."""
    options: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "backslashreplace",  # redis-cli may have written bytes that are no UTF-8
        "socket_timeout": None,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        **_WITHOUT_NOTICES,
    }
    if settings.cluster:
        # One retry: with it the client follows a slot that has moved to another node.
        return RedisCluster.from_url(settings.url, **{**options, "retry": Retry(NoBackoff(), 1)})
    if urlsplit(settings.url).scheme == _SENTINEL:
        return _master(settings.url, options)
    return Redis.from_url(settings.url, **options)


def expect_usable(settings: RedisSettings) -> None:
    """Raise ConfigError if the options or the database of the URL cannot be used. Nothing is connected.

    The message repeats no value, because one may be a password.
    """
    from router.config.load import ConfigError  # noqa: PLC0415  (it loads YAML, which few commands need)

    parts = urlsplit(settings.url)
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    known = _OF_SENTINELS if parts.scheme == _SENTINEL else URL_OPTIONS
    if unknown := next((name for name in names if name not in known), None):
        raise ConfigError(f"redis.url: unknown option {shown(unknown)!r}; expected one of {', '.join(sorted(known))}")
    try:
        client = connect(settings, timeout_s=1.0)
        if isinstance(client, Redis):
            connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
            if isinstance(connection, SSLConnection):
                connection.ssl_context.get()
    except Exception as error:  # by the option, redis-py raises errors of any type
        of_file = error.strerror if isinstance(error, OSError) else None
        reason = of_file or "redis-py does not take its value"
        raise ConfigError(f"redis.url: {', '.join(names) or parts.path} cannot be used: {reason}") from error


def _master(url: str, options: dict[str, Any]) -> Redis:
    """Return a client of the master that the Sentinels name: `redis+sentinel://[user:password@]host,host/name[/db]`.

    User and password are for Redis; `?sentinel_password=` is for the Sentinels.
    """
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    name, _, database = parts.path.strip("/").partition("/")
    sentinels = [
        (host, int(port or _SENTINEL_PORT)) for host, _, port in (at.partition(":") for at in hosts.split(","))
    ]
    sentinel_password = dict(parse_qsl(parts.query)).get("sentinel_password")
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        sentinels,
        sentinel_kwargs={
            "password": sentinel_password,
            "socket_timeout": options["socket_connect_timeout"],
            "socket_connect_timeout": options["socket_connect_timeout"],
            "retry": options["retry"],
        },
        username=unquote(user) or None,
        password=unquote(password) or None,
        db=int(database or 0),
        **options,
    )
    master: Redis = sentinel.master_for(name)
    return master
