"""Which of the sidecars leads: a lock in Redis with a fencing token."""

from dataclasses import dataclass

from router.fleet.lua_source import lua
from router.fleet.redis_client import LEAD, RedisClient


@dataclass(frozen=True, slots=True)
class Term:
    """A sidecar's time of leading: what it shows with each write, so that an outdated leader writes nothing."""

    token: int
    name: str

    def __str__(self) -> str:
        return f"{self.token} {self.name}"


class Leadership:
    """The lead among the sidecars of one fleet."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._keys = redis.keys
        self._lead = redis.register(lua("router.fleet", "lead"))
        self._resign = redis.register(lua("router.fleet", "resign"))

    async def lead(self, name: str, ttl_s: float) -> Term | None:
        """Take or renew the lead among the sidecars; None where another one has it. Raises RedisUnavailable."""
        keys = [self._keys.sidecar, self._keys.fleet]
        token = await self._redis.ask(self._lead(keys=keys, args=[name, int(ttl_s * 1000)]), LEAD)
        return Term(token, name) if token else None

    async def resign(self, term: Term) -> None:
        """Give up the lead, so that another sidecar has it at once. Raises RedisUnavailable."""
        await self._redis.ask(self._resign(keys=[self._keys.sidecar], args=[str(term)]))
