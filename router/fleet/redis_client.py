"""The one connection to Redis: every command that this project sends passes here.

Each call is bounded in time, and ends in a value or in RedisUnavailable. What to do without Redis, the caller decides.
"""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import time
from typing import Any, Self, TypeVar

from redis.client import NEVER_DECODE
from redis.exceptions import AuthenticationError, RedisClusterException, RedisError, ResponseError

from router.config.settings import RedisSettings
from router.fleet.connection import AnyRedis, connect
from router.fleet.keys import Keys
from router.fleet.lua_source import lua
from router.fleet.schema import EVENTS_KEPT
from router.fleet.script import Library, Script, script, within

log = logging.getLogger(__name__)


_Value = TypeVar("_Value")


# The steady calls of routers and sidecars. While Redis refuses one of these it is of no use, whatever else it answers.
LOAD, SCHEDULE, LEAD, RECORD = "load", "schedule", "lead", "record"
# How a call to Redis fails. A Cluster of which no node answers is no RedisError; TimeoutError is an OSError.
ERRORS = (RedisError, RedisClusterException, OSError)
# A note that its process has not read after so long is dropped: the process has ended.
NOTE_TTL_MS = 5000


class RedisUnavailable(Exception):
    """Redis did not answer, not in time, or with an error."""


@dataclass(frozen=True, slots=True)
class RefusedCommand:
    """Redis refused one command of several, such as for a key of another type."""

    reason: str


class RedisClient:
    """Redis under one prefix. Its only state is how calls ended: `available`, `answers` and `refuses_login`.

    A replica, or a Redis without memory, answers each read and refuses each write. So when a steady call fails, Redis
    is unavailable until the same steady call succeeds. When another call fails, it is until any call succeeds.
    """

    def __init__(self, client: AnyRedis, prefix: str, timeout_s: float) -> None:
        self.keys = Keys(prefix)
        self.answers = True  # the last call was answered, even if with an error
        self.refuses_login = False  # the last call that failed did so by its user or password
        # Called when Redis can be used again: since when it could not (Unix s), and why.
        self.on_return: Callable[[float, str], None] | None = None
        self._trouble: dict[str, str] = {}  # the causes, by the steady call that failed; "" for all other calls
        self._away = (0.0, "")
        self._client = client
        self._timeout_s = timeout_s
        self._transaction = self.register("transaction")

    @classmethod
    def connect(cls, settings: RedisSettings, timeout_s: float) -> Self:
        """Return a client that connects at its first call and gives each call `timeout_s` seconds."""
        return cls(connect(settings, timeout_s), settings.prefix, timeout_s)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @property
    def available(self) -> bool:
        """Whether no call is in trouble."""
        return not self._trouble

    @property
    def trouble(self) -> str:
        """Why Redis cannot be used; "" if it can."""
        return next(iter(self._trouble.values()), "")

    def expect_present(self) -> None:
        """Raise RedisUnavailable while a steady call fails: nobody writes then what runs and waits at this moment.

        A replica, or a Redis without memory, would still answer how it was before.
        """
        for steady, cause in self._trouble.items():
            if steady:
                raise RedisUnavailable(cause)

    def script(
        self, text: str, key: str, constants: tuple[str | bytes | float, ...], library: Library | None = None
    ) -> Script:
        """Return a script that is asked with callbacks. Its owner calls `succeeded` or `failed` after each call.

        `library` is made of the script.
        """
        return script(self._client, text, self._timeout_s, key, constants, library)

    def succeeded(self, steady: str = "") -> None:
        """Take note of a call that was answered; `steady` is its name if it is a steady one."""
        self.answers = True
        if self._trouble:
            self._trouble.pop("", None)
            self._trouble.pop(steady, None)
            if not self._trouble:
                log.info("Redis available again")
                if self.on_return is not None:
                    self.on_return(*self._away)

    def failed(self, error: Exception, steady: str = "") -> RedisUnavailable:
        """Take note of a call that failed, and return the error to raise."""
        cause = f"no answer within {self._timeout_s} s" if isinstance(error, TimeoutError) else _cause(error)
        self.answers = isinstance(error, ResponseError)
        self.refuses_login = isinstance(error, AuthenticationError)
        if steady or not self.answers:  # that Redis refuses one call now and then says nothing of the others
            if not self._trouble:
                self._away = time(), cause
                log.warning("Redis unavailable: %s", cause)
            self._trouble[steady] = cause
        return RedisUnavailable(cause)

    async def ask(self, call: Awaitable[_Value], steady: str = "") -> _Value:
        """Return what `call` returns within the time limit; `steady` is its name if it is a steady one.

        Raises RedisUnavailable.
        """
        try:
            value = await within(self._timeout_s, call)
        except ERRORS as error:
            raise self.failed(error, steady) from error
        self.succeeded(steady)
        return value

    def register(self, name: str, **constants: str | float) -> Callable[..., Awaitable[Any]]:
        """Return the script router/fleet/lua/NAME.lua; call it with its arguments and hand the result to `ask`.

        `constants` are names that it uses besides those of the keys.
        """
        registered = self._client.register_script(
            lua(__package__, name, {**self.keys.lua_names(), "EVENTS_KEPT": EVENTS_KEPT, **constants})
        )
        # Any key names the Cluster's slot: all of a fleet are in one.
        return lambda *args: registered(keys=[self.keys.fleet], args=args)

    def pipeline(self) -> Any:
        """Return a pipeline, which is no transaction. `executed` sends it, and `ask` bounds that in time."""
        return self._client.pipeline(transaction=False)

    async def heard(self, channel: str) -> AsyncIterator[None]:
        """Yield once when subscribed to the channel, then at each message there. Raises RedisUnavailable."""
        try:
            await self._client.initialize()  # a Cluster's subscription does not find out itself where its slots are
            async with self._client.pubsub() as pubsub:
                await pubsub.subscribe(channel)
                async for _ in pubsub.listen():
                    yield
        except ERRORS as error:
            raise RedisUnavailable(_cause(error)) from error

    async def popped(self, key: str, wait_s: float, count: int) -> AsyncIterator[list[str]]:
        """Yield what others append to the list `key`, up to `count` entries at once. Raises RedisUnavailable."""
        try:
            while True:
                # A wait without a bound would not notice a connection that has died silently.
                popped = await self._client.blmpop(wait_s, 1, key, direction="LEFT", count=count)
                if popped:
                    yield [str(text) for text in popped[1]]
        except ERRORS as error:
            raise RedisUnavailable(_cause(error)) from error

    async def send(self, process: str, note: bytes) -> bool:
        """Append a note to the list that `process` reads; return whether the process is alive.

        Raises RedisUnavailable.
        """
        pipeline, key = self.pipeline(), self.keys.grants(process)
        pipeline.rpush(key, note)
        pipeline.pexpire(key, NOTE_TTL_MS)
        pipeline.exists(self.keys.process(process))
        return bool((await self.ask(pipeline.execute()))[-1])

    async def keep(self, key: str, value: bytes, ttl_ms: int) -> None:
        """Keep bytes for so long. Raises RedisUnavailable."""
        await self.ask(self._client.set(key, value, px=ttl_ms))

    async def taken(self, key: str) -> bytes | None:
        """Return the bytes kept under this key, and drop them; None if there are none. Raises RedisUnavailable."""
        held: bytes | None = await self.ask(self._client.execute_command("GETDEL", key, **{NEVER_DECODE: True}))
        return held

    async def command(self, words: Sequence[str]) -> Any:
        """Send one command as an operator typed it. Raises RedisUnavailable, also if Redis refuses it."""
        return await self.ask(self._client.execute_command(*words))

    async def ask_all(self, *commands: Sequence[str]) -> list[Any]:
        """Send the commands in one round trip and return their answers. Raises RedisUnavailable."""
        pipeline = self.pipeline()
        for words in commands:
            pipeline.execute_command(*words)
        return await self.ask(pipeline.execute())

    async def ask_each(self, *commands: Sequence[str]) -> list[Any]:
        """Send the commands in one round trip; return their answers, with RefusedCommand for each that Redis refuses.

        Raises RedisUnavailable.
        """
        pipeline = self.pipeline()
        for words in commands:
            pipeline.execute_command(*words)
        return await self.ask(executed(pipeline))

    async def transaction(self, *commands: Sequence[str]) -> Any:
        """Send the commands in one atomic step and return the last one's answer. Raises RedisUnavailable."""
        return await self.ask(self._transaction(json.dumps(commands)))


def _cause(error: Exception) -> str:
    """Return what Redis or redis-py says, without the full stop: sentences go on after it.

    >>> _cause(AuthenticationError("HELLO must be called with the client already authenticated, otherwise …"))
    'Authentication required: redis.url has no password'
    """
    if isinstance(error, AuthenticationError) and str(error).startswith("HELLO"):
        return "Authentication required: redis.url has no password"
    return str(error).rstrip(".")


async def executed(pipeline: Any) -> list[Any]:
    """Return the answers to a pipeline's commands, RefusedCommand for each that Redis refuses. Raises RedisError."""
    answers: list[Any] = await pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
            raise answer
    return [RefusedCommand(str(answer)) if isinstance(answer, ResponseError) else answer for answer in answers]


def pairs(answer: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return a sorted set's members and scores: by its version, redis-py gives pairs or a flat list.

    >>> pairs(["a", "1", "b", "2"]) == pairs([["a", "1"], ["b", "2"]])
    True
    """
    if answer and isinstance(answer[0], list | tuple):
        return [(member, score) for member, score in answer]
    return list(zip(answer[::2], answer[1::2], strict=True))
