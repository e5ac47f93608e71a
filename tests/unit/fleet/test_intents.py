"""Intents in a fake Redis: registrations, drains, weights and caps, and invalid entries."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from fakeredis import FakeAsyncRedis

from router.config.load import load
from router.fleet.intents import Intents, Override, Registration
from router.fleet.leadership import Leadership
from router.fleet.model import Source, Worker, WorkerRecord
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient
from sidecar.discovery import Discovery

A, B = "http://a:1", "http://b:1"


@pytest.fixture
def intents(redis: RedisClient) -> Intents:
    """The intents of the fake Redis."""
    return Intents(redis)


async def test_registration_lasts_for_its_ttl_or_until_it_is_removed(intents: Intents, client: FakeAsyncRedis) -> None:
    """It expires with its TTL, stays when renewed without one, and ends when removed."""
    assert await intents.register(Registration(A, 3, 8, ttl_s=30))
    (held,) = (await intents.read()).registrations.values()
    assert (held.url, held.weight, held.max_concurrency) == (A, 3, 8)
    assert held.ttl_s is not None
    assert 0 < held.ttl_s <= 30
    assert not await intents.register(Registration(A, 3, 8))
    assert (await intents.read()).registrations == {A: Registration(A, 3, 8)}
    assert await intents.register(Registration(A))
    assert (await intents.read()).registrations == {A: Registration(A)}
    await intents.remove(A)
    assert (await intents.read()).registrations == {}
    await intents.register(Registration(B, ttl_s=0.001))
    await client.pexpire(f"sfr:registered:{B}", 0)
    assert (await intents.read()).registrations == {}


async def test_sidecar_is_notified_of_changes_only(intents: Intents, client: FakeAsyncRedis) -> None:
    """A thousand agents that renew their registrations do not wake it."""
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("sfr:wishes")
        for cap in (4, 4, 4, 8):
            await intents.register(Registration(A, max_concurrency=cap, ttl_s=30))
        await intents.override(A, {"weight": 2})
        await intents.remove(A)
        heard = [await pubsub.get_message(timeout=0.1) for _ in range(6)]
    assert [message["type"] for message in heard if message] == ["subscribe", *["message"] * 4]


async def test_override_is_set_and_reset_field_by_field(intents: Intents) -> None:
    """Weight and cap are set one by one and override the worker's own."""
    await intents.override(A, {"weight": 5})
    await intents.override(A, {"max_concurrency": 2})
    (override,) = (await intents.read()).overrides.values()
    assert override == Override(5, 2)
    assert override.over(Worker(A, 1, 9, "dns")) == Worker(A, 5, 2, "dns")
    await intents.override(A, {"weight": None})
    assert (await intents.read()).overrides == {A: Override(None, 2)}
    assert Override(None, 2).over(Worker(A, 7)) == Worker(A, 7, 2)


async def test_new_registration_ends_a_drain(intents: Intents, client: FakeAsyncRedis) -> None:
    """This holds even if the worker returns before the sidecar has seen it leave; a renewal ends no drain."""
    await intents.register(Registration(A, ttl_s=60))
    await intents.drain(A)
    await intents.register(Registration(A, ttl_s=60))
    assert await client.smembers("sfr:drain") == {A}
    await client.hdel("sfr:plan:head", "stale")
    await intents.remove(A)
    await intents.register(Registration(A, ttl_s=60))
    assert await client.smembers("sfr:drain") == set()
    assert await client.hget("sfr:plan:head", "stale") == "1"


async def test_drain_makes_the_plan_stale_in_the_same_step(intents: Intents, client: FakeAsyncRedis) -> None:
    """After the answer no job goes to the worker."""
    await intents.drain(A)
    assert await client.smembers("sfr:drain") == {A}
    assert await client.hget("sfr:plan:head", "stale") == "1"
    await intents.resume(A)
    assert (await intents.read()).draining == frozenset()


async def test_standing_has_only_the_requested_workers(intents: Intents, client: FakeAsyncRedis) -> None:
    """Each worker has its registration, override, drain and number of running jobs."""
    await intents.register(Registration(A, 2))
    await intents.override(B, {"weight": 3})
    await intents.drain(B)
    await client.zadd(f"sfr:leases:{B}", {"p:1": 1, "p:2": 2})
    standing = await intents.standing([A, B])
    assert (standing[A].registration, standing[A].running) == (Registration(A, 2), 0)
    assert (standing[B].registration, standing[B].override, standing[B].running) == (None, Override(3), 2)
    assert [standing[url].is_draining for url in (A, B)] == [False, True]


async def test_invalid_entry_is_reported_and_skipped(intents: Intents, client: FakeAsyncRedis) -> None:
    """A mistake with redis-cli costs one entry, not the fleet."""
    await intents.register(Registration(A))
    for url, weight in ((B, "heavy"), ("http://c:1", "1000"), ("c", "1")):
        await client.sadd("sfr:registered", url)
        await client.hset(f"sfr:registered:{url}", "weight", weight)
    await client.hset("sfr:intent", mapping={f"weight {A}": "3", f"max_concurrency {A}": "-1", "size x": "1"})
    intent = await intents.read()
    assert (intent.registrations, intent.overrides) == ({A: Registration(A)}, {A: Override(3)})
    assert sorted(problem.partition("http")[0] for problem in intent.problems) == [
        "intent 'max_concurrency ",
        "intent 'size x': expected weight or max_concurrency with a whole number from 1 to 1000000000, got '1'",
        "registered worker ",
        "registered worker ",
        "sfr:registered: expected a URL such as ",
    ]


async def test_lost_intent_is_restored_and_newer_intent_stays(intents: Intents, client: FakeAsyncRedis) -> None:
    """Registrations, overrides and drains are written again unless newer ones exist."""
    await intents.register(Registration(A, 2, ttl_s=30))
    await intents.register(Registration(B, 2))
    await intents.override(A, {"weight": 7, "max_concurrency": 3})
    await intents.drain(B)
    before = await intents.read()
    await client.flushall()
    await intents.register(Registration(B, 9))
    await intents.restore(before)
    after = await intents.read()
    assert (after.overrides, after.draining) == (before.overrides, before.draining)
    assert after.registrations[B] == Registration(B, 9)
    assert (after.registrations[A].weight, after.registrations[A].ttl_s is not None) == (2, True)


async def test_intents_leave_with_their_worker(redis: RedisClient, intents: Intents, client: FakeAsyncRedis) -> None:
    """Drain, override and registration are deleted, except those of a worker that has registered again."""
    term = await Leadership(redis).lead("me", 3)
    assert term is not None
    for url in (A, B):
        await intents.register(Registration(url))
        await intents.override(url, {"weight": 2, "max_concurrency": 2})
        await intents.drain(url)
    now = datetime.now(UTC)
    await Records(redis).record(term, now, [WorkerRecord(Worker(A)), WorkerRecord(Worker(B))], [], changed=True)
    await intents.remove(A)
    await Records(redis).record(term, now, [], [A, B], changed=True)
    assert await intents.registered() == {B}
    assert await client.smembers("sfr:drain") == {B}
    assert set(await client.hkeys("sfr:intent")) == {f"weight {B}", f"max_concurrency {B}"}


async def test_another_spelling_in_redis_means_the_same_worker(
    redis: RedisClient, intents: Intents, client: FakeAsyncRedis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator's `SADD sfr:drain http://A:1/` drains http://a:1; a registration, weight or cap matches likewise."""
    caplog.set_level("INFO")
    await Leadership(redis).lead("me", 3)
    await intents.override(A, {"weight": 2})
    await client.sadd("sfr:drain", "http://A:1/", "http://user:secret@a")
    await client.sadd("sfr:registered", "HTTP://a.:01/run_code")
    await client.hset("sfr:registered:HTTP://a.:01/run_code", "max_concurrency", "4")
    await client.pexpire("sfr:registered:HTTP://a.:01/run_code", 60_000)
    await client.hset("sfr:intent", mapping={"weight http://a:1/": "7", "max_concurrency http://a:1/": "5"})
    standing = (await intents.standing([A]))[A]
    assert (standing.is_draining, standing.override) == (True, Override(7, 5))
    path = tmp_path / "config.yaml"
    path.write_text("")
    members = Discovery(path, load(path), redis)
    for _ in range(2):
        await members.reread()
    assert await client.smembers("sfr:drain") == {A, "http://user:secret@a"}
    assert await client.hgetall("sfr:intent") == {f"weight {A}": "7", f"max_concurrency {A}": "5"}
    assert await client.smembers("sfr:registered") == {A}
    assert 0 < await client.pttl(f"sfr:registered:{A}") <= 60_000
    assert members.wanted([]) == {A: Worker(A, 7, 5, Source.REGISTERED)}
    assert await client.hget("sfr:plan:head", "stale") == "1"
    assert caplog.text.count("What Redis holds for 'http://A:1/' is held for http://a:1 from now on") == 1
    told = "Passed over: sfr:drain: expected a URL such as http://server1:8080, got 'http://***@a'"
    assert caplog.text.count(told) == 1


@pytest.mark.parametrize(
    "word", ["NaN", "1e400", "inf", "-1", "0", "1.5", "0x10", "1_0", "\uff19", "9" * 5000, "\\udcff", ""]
)
async def test_invalid_number_is_reported_and_skipped(intents: Intents, client: FakeAsyncRedis, word: str) -> None:
    """This holds for any text written with redis-cli as a weight or a cap."""
    await client.hset("sfr:intent", mapping={f"weight {A}": word, f"max_concurrency {A}": word})
    await client.sadd("sfr:registered", B)
    await client.hset(f"sfr:registered:{B}", "weight", word or "x")
    intent = await intents.read()
    assert (intent.overrides, intent.registrations, len(intent.problems)) == ({}, {}, 3)


@pytest.mark.parametrize("key", ["sfr:registered", "sfr:drain", "sfr:intent"])
async def test_key_of_another_type_removes_no_worker_and_is_logged_once(
    redis: RedisClient,
    intents: Intents,
    client: FakeAsyncRedis,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    key: str,
) -> None:
    """After `SET sfr:drain http://a:1` the last intents stay, and one log line names the key."""
    await Leadership(redis).lead("me", 3)
    await intents.register(Registration(A, 3))
    path = tmp_path / "config.yaml"
    path.write_text("")
    members = Discovery(path, load(path), redis)
    await members.reread()
    await client.set(key, "http://a:1")
    for _ in range(3):
        await members.reread()
        await Leadership(redis).lead("me", 3)
    assert members.wanted([]) == {A: Worker(A, 3, source=Source.REGISTERED)}
    assert redis.available
    assert len(caplog.messages) == 1
    assert f"stay as they were: {key}: " in caplog.text


async def test_registration_of_another_type_costs_only_itself(intents: Intents, client: FakeAsyncRedis) -> None:
    """The other registrations are read, and one problem names the key."""
    await intents.register(Registration(A))
    await client.sadd("sfr:registered", B)
    await client.set(f"sfr:registered:{B}", "x")
    intent = await intents.read()
    assert intent.registrations == {A: Registration(A)}
    (problem,) = intent.problems
    assert problem.startswith(f"sfr:registered:{B}: WRONGTYPE")
