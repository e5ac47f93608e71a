"""The scheduler in Redis: lua/scheduler.lua with the parts that it includes, under the rules of one configuration."""

import asyncio
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import msgspec

from router.aio import resolver
from router.config.bounds import MAX_COUNT, MAX_MEMORY_MB, MAX_PRIORITY, MAX_SPEED, MAX_TENANT_WEIGHT, MAX_WEIGHT
from router.fleet.keys import Keys
from router.fleet.lua_source import lua
from router.fleet.redis_client import SCHEDULE, RedisClient, RedisUnavailable
from router.fleet.schema import SCHEMA_VERSION
from router.fleet.script import Library
from router.policy.placement import MAX_POOLS
from router.policy.strategy import SPREAD
from router.policy.tenants import DEFAULT, LONGEST_FIRST
from router.scheduling import messages
from router.scheduling.lua_library import library
from router.scheduling.messages import Call, Reply, Rules, packed

_encode = msgspec.json.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reply).decode

# So many words of a list the script passes to one command: Lua passes only some thousands at once. Pairs stay together.
WORDS_A_COMMAND = 1000

# The script reads at most so many jobs and workers with room at once, and so many turns of several lines.
JOBS_READ, TURNS_READ = 16, 4

# What the script shares with its Python twin.
CONSTANTS: dict[str, str | float] = {
    "MAX_COUNT": MAX_COUNT,
    "MAX_WEIGHT": MAX_WEIGHT,
    "MAX_TENANT_WEIGHT": MAX_TENANT_WEIGHT,
    "MAX_PRIORITY": MAX_PRIORITY,
    "MAX_SPEED": MAX_SPEED,
    "MAX_MEMORY_MB": MAX_MEMORY_MB,
    "MAX_POOLS": MAX_POOLS,
    **{name: value for name, value in vars(messages).items() if name.isupper()},
    "SPREAD": SPREAD,
    "DEFAULT": DEFAULT,
    "LONGEST_FIRST": LONGEST_FIRST,
    "SCHEMA_VERSION": SCHEMA_VERSION,
    "WORDS_A_COMMAND": WORDS_A_COMMAND,
    "JOBS_READ": JOBS_READ,
    "TURNS_READ": TURNS_READ,
}


def script_text(keys: Keys) -> str:
    """Return the script as Redis runs it: lua/scheduler.lua with its parts, over these keys."""
    return _script(keys.prefix)[0]


def script_library(keys: Keys) -> Library:
    """Return the same script as a library, in which its functions are made only once."""
    return _script(keys.prefix)[1]


@cache
def _script(prefix: str) -> tuple[str, Library]:
    names = {**Keys(prefix).lua_names(), **CONSTANTS}
    return lua(__package__, "scheduler", names), library(__package__, "scheduler", names)


class RedisScheduler:
    """Does all that a call says in one atomic step; Redis' clock alone counts."""

    def __init__(self, redis: RedisClient, rules: Rules, steady: str = SCHEDULE) -> None:
        """`steady` names the calls as RedisClient's steady ones; "" if they are made now and then."""
        self._redis = redis
        self._steady = steady
        text, library_of_it = script_text(redis.keys), script_library(redis.keys)
        self._script = redis.script(text, redis.keys.plan, (_encode(rules),), library_of_it)

    def ask(self, call: Call, then: Callable[[Reply | RedisUnavailable], None]) -> None:
        """Send `call`. `then` is called once, with the reply or with why there is none, never before this returns."""
        self._script.ask(_encode(packed(call)), partial(self._answered, then))

    async def __call__(self, call: Call) -> Reply:
        """Return the reply to `call`: `ask` for coroutines. Raises RedisUnavailable."""
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
        except Exception as error:  # noqa: BLE001  (else the caller would wait for ever)
            then(self._redis.failed(error, self._steady))
        else:
            self._redis.succeeded(self._steady)
            then(reply)
