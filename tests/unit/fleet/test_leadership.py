"""Which sidecar leads, and which writes its fencing token stops; Redis is a fake."""

from fakeredis import FakeAsyncRedis

from router.fleet.leadership import Leadership, Term
from router.fleet.redis_client import RedisClient


async def test_one_sidecar_leads_and_renews(redis: RedisClient, term: Term) -> None:
    """The leader keeps its token and another sidecar gets none until the leader resigns."""
    assert await Leadership(redis).lead("me", 3) == term
    assert await Leadership(redis).lead("other", 3) is None
    await Leadership(redis).resign(Term(99, "other"))
    assert await Leadership(redis).lead("other", 3) is None
    await Leadership(redis).resign(term)
    assert await Leadership(redis).lead("other", 3) == Term(term.token + 1, "other")


async def test_token_is_never_given_twice(redis: RedisClient, term: Term, client: FakeAsyncRedis) -> None:
    """After Redis lost its memory the leading sidecar has a new term, so it writes everything again."""
    await client.flushall()
    after = await Leadership(redis).lead("me", 3)
    assert after is not None
    assert after.token > term.token


async def test_lead_written_by_hand_does_not_count(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """`SET sfr:sidecar me` does not keep sidecars from leading for ever."""
    await client.set("sfr:sidecar", "me")
    assert await Leadership(redis).lead("me", 3) is not None
