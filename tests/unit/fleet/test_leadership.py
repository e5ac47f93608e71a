"""Which sidecar leads, and what its fencing token holds off. Redis is a fake."""

from fakeredis import FakeAsyncRedis

from router.fleet.leadership import Leadership, Term
from router.fleet.redis_client import RedisClient


async def test_one_sidecar_leads_and_renews(redis: RedisClient, term: Term) -> None:
    """The leader keeps its token; another sidecar gets none. After a resignation it gets the next one."""
    assert await Leadership(redis).lead("me", 3) == term
    assert await Leadership(redis).lead("other", 3) is None
    await Leadership(redis).resign(Term(99, "other"))
    assert await Leadership(redis).lead("other", 3) is None
    await Leadership(redis).resign(term)
    assert await Leadership(redis).lead("other", 3) == Term(term.token + 1, "other")


async def test_token_is_never_given_twice(redis: RedisClient, term: Term, client: FakeAsyncRedis) -> None:
    """After Redis has lost its memory, a sidecar that goes on leading has a new term, so that it writes all again."""
    await client.flushall()
    after = await Leadership(redis).lead("me", 3)
    assert after is not None
    assert after.token > term.token


async def test_lead_that_redis_cli_has_written_does_not_count(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """`SET sfr:sidecar me` does not keep sidecars from leading for ever."""
    await client.set("sfr:sidecar", "me")
    assert await Leadership(redis).lead("me", 3) is not None
