"""Decides which of the sidecars leads: a lock in Redis with a fencing token."""

from dataclasses import dataclass

from router.fleet.redis_client import LEAD, RedisClient


@dataclass(frozen=True, slots=True)
class Term:
    """One sidecar's time as the leader. Every write carries it, so that a former leader can write nothing.

    `token` is the fencing token: no two terms have the same one, and a later term has a higher one.
    """

    token: int
    name: str

    def __str__(self) -> str:
        return f"{self.token} {self.name}"


class Leadership:
    """The lead among the sidecars of one fleet. It ends by itself unless its holder renews it."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._lead = redis.register("lead")
        self._resign = redis.register("resign")

    async def lead(self, name: str, ttl_s: float) -> Term | None:
        """Take or renew the lead for the sidecar `name`; return None if another sidecar leads.

        Unless it is renewed, the lead ends after `ttl_s` seconds. Raises RedisUnavailable.
        """
        token = await self._redis.ask(self._lead(name, int(ttl_s * 1000)), LEAD)
        return Term(token, name) if token else None

    async def resign(self, term: Term) -> None:
        """Give up the lead, so that another sidecar can take it at once. Raises RedisUnavailable."""
        await self._redis.ask(self._resign(str(term)))
