"""How to reach Redis: one server, a Sentinel's master, or a Cluster, by `redis.url` and `redis.cluster`.

redis-py's own retries are off: a caller that may not wait has something better to do than to try again. Its read
time-out is off, too: the store bounds each call, and a subscription waits as long as it must.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import hiredis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from router.settings import RedisSettings

AnyRedis = Redis | RedisCluster

_SENTINEL_PORT = 26379


def connect(settings: RedisSettings, timeout_s: float) -> AnyRedis:
    """Return a client that connects at its first call; connecting may take `timeout_s` seconds."""
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": None,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    if settings.cluster:
        # One retry: it is how the client follows a slot that has moved to another node.
        return RedisCluster.from_url(settings.url, **{**options, "retry": Retry(NoBackoff(), 1)})
    if settings.url.startswith("redis+sentinel://"):
        return _master(settings.url, options)
    return Redis.from_url(settings.url, **options)


class _Line(asyncio.Protocol):
    """A connection that redis-py has opened, taken over: a call goes out, and the next reply is its answer."""

    def __init__(self, connection: Connection) -> None:
        writer = connection._writer  # noqa: SLF001  (there is no other way to it)
        if writer is None:
            raise ConnectionError("closed as soon as it was opened")
        self.is_open = True
        self._connection = connection
        self._transport = writer.transport
        self._before = self._transport.get_protocol()
        self._replies = hiredis.Reader()
        self._awaited: asyncio.Future[object] | None = None
        self._transport.set_protocol(self)

    def ask(self, *words: str | bytes | float) -> "asyncio.Future[object]":
        """Send a command; its reply, or a hiredis.ReplyError, is to come. Where the connection closes, an OSError."""
        self._awaited = asyncio.get_running_loop().create_future()
        self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub knows tuples of one
        return self._awaited

    async def close(self, pool: ConnectionPool) -> None:
        """Close it: a reply may still come that nobody waits for."""
        self.is_open = False
        await self._connection.disconnect(nowait=True)
        await pool.release(self._connection)

    def data_received(self, data: bytes) -> None:
        """Take a reply, or a part of it."""
        self._replies.feed(data)
        reply = self._replies.gets()
        if reply is not False and self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits, redis-py included."""
        self.is_open = False
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_exception(ConnectionError(str(error or "Redis closed the connection")))
        self._before.connection_lost(error)


class Script:
    """A Lua script, called over a connection that is kept for it.

    What redis-py's client does around each call (pool, retries, metrics) costs 80 µs of CPU, its connection (a stream,
    its locks and time limits) 35, this 6.
    """

    def __init__(self, client: Redis, text: str) -> None:
        self._pool = client.connection_pool
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._kept: _Line | None = None

    async def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | float]) -> Any:
        """Return the script's reply. Raises RedisError and OSError."""
        line, self._kept = self._kept, None
        if line is not None and not line.is_open:
            await line.close(self._pool)
            line = None
        if line is None:
            line = await self._open()
        try:
            reply = await line.ask("EVALSHA", self._sha, len(keys), *keys, *args)
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
                reply = await line.ask("EVAL", self._text, len(keys), *keys, *args)
            if isinstance(reply, hiredis.ReplyError):
                raise ResponseError(str(reply))
        except BaseException:
            await line.close(self._pool)
            raise
        if self._kept is None:
            self._kept = line
        else:
            await line.close(self._pool)
        return reply

    async def _open(self) -> _Line:
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            return _Line(connection)
        except BaseException:
            await self._pool.release(connection)
            raise


def script(client: AnyRedis, text: str) -> Callable[..., Awaitable[Any]]:
    """Return the script, to be called with `keys` and `args`. In a Cluster, redis-py finds the node of their slot."""
    return Script(client, text) if isinstance(client, Redis) else client.register_script(text)


def _master(url: str, options: dict[str, Any]) -> Redis:
    """Return a client of the master that the Sentinels name: `redis+sentinel://[user:password@]host,host/name[/db]`.

    User and password are Redis' own; `?sentinel_password=` is the Sentinels'.
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
