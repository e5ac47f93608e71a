"""The scheduler in Redis (scheduler.lua), under the rules of one configuration."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import msgspec

from router.aio import resolver
from router.fleet.lua_source import lua
from router.fleet.redis_client import SCHEDULE, RedisClient, RedisUnavailable
from router.scheduling.messages import CONSTANTS, Call, Grant, Reply, Rules

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Reply).decode
_decode_grant = msgspec.json.Decoder(Grant).decode

# How long one wait for a grant lasts before it is renewed.
GRANTS_WAIT_S = 5
GRANTS_A_WAIT = 1000


class RedisScheduler:
    """Does all that a call says, in one atomic step."""

    def __init__(self, redis: RedisClient, rules: Rules, steady: str = SCHEDULE) -> None:
        """`steady` names the calls to Redis; "" where they are made now and then."""
        self._redis = redis
        self._steady = steady
        self._script = redis.script(
            lua("router.scheduling", "scheduler"), redis.keys.plan, (redis.keys.prefix, _encode(rules), *CONSTANTS)
        )

    def ask(self, call: Call, then: Callable[[Reply | RedisUnavailable], None]) -> None:
        """Have `call` done. `then` is called once, and never before this has returned."""
        self._script.ask(_encode(call), partial(self._answered, then))

    async def __call__(self, call: Call) -> Reply:
        """Return the reply to `call`, for those who wait in a coroutine. Raises RedisUnavailable."""
        answered: asyncio.Future[Reply | RedisUnavailable] = asyncio.get_running_loop().create_future()
        self.ask(call, resolver(answered))
        reply = await answered
        if isinstance(reply, RedisUnavailable):
            raise reply
        return reply

    def _answered(self, then: Callable[[Reply | RedisUnavailable], None], told: Any) -> None:
        try:
            if isinstance(told, Exception):
                raise told
            reply = _decode(told)
        except Exception as error:  # noqa: BLE001  (else who asked would wait for ever)
            then(self._redis.failed(error, self._steady))
        else:
            self._redis.succeeded(self._steady)
            then(reply)


async def grants(redis: RedisClient, process: str) -> AsyncIterator[list[Grant]]:
    """Yield the leases that other processes' calls give to jobs of `process`. Raises RedisUnavailable."""
    async for popped in redis.popped(redis.keys.grants(process), GRANTS_WAIT_S, GRANTS_A_WAIT):
        yield [_decode_grant(text) for text in popped]
