"""What the sidecar writes of each worker, and what routers read of it; Redis is a fake."""

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from fakeredis import FakeAsyncRedis

from router.fleet.leadership import Leadership, Term
from router.fleet.model import Ejection, Health, Worker, WorkerRecord
from router.fleet.records import RECORDS_A_CALL, FleetState, Records
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.policy.tenants import TenantRule
from tests.support.records import NEW, NOW, SECOND, SEEN


async def test_fleet_is_loaded_as_recorded_in_the_order_of_urls(redis: RedisClient, term: Term) -> None:
    """Every process sees the same workers in the same order."""
    assert await Records(redis).record(term, NOW, [NEW, SEEN], [], changed=True)
    state = await Records(redis).load()
    assert state.records == (SEEN, NEW)
    assert (state.written_at, state.leader) == (NOW, f"{term.token} me")


@pytest.mark.parametrize("key", ["sfr:fleet", "sfr:sidecar", "sfr:ejected", "sfr:quarantine"])
async def test_key_of_another_type_makes_redis_unavailable_until_it_is_mended(
    key: str, client: FakeAsyncRedis, redis: RedisClient, term: Term
) -> None:
    """Whichever command Redis refuses, the fleet is not half read, and is read again afterwards."""
    await Records(redis).record(term, NOW, [SEEN], [], changed=True)
    await client.delete(key)
    await client.lpush(key, "a slip with redis-cli")
    with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
        await Records(redis).load()
    assert not redis.available
    await client.delete(key)
    assert (await Records(redis).load()).records == (SEEN,)
    assert redis.available


async def test_records_are_read_again_only_after_a_change(redis: RedisClient, term: Term) -> None:
    """A check costs the routers nothing; a change of health or membership reaches them."""
    await Records(redis).record(term, NOW, [NEW, SEEN], [], changed=True)
    known = await Records(redis).load()
    checked = replace(NEW, checked_at=NOW)
    await Records(redis).record(term, NOW + SECOND, [checked], [], changed=False)
    same = await Records(redis).load(known)
    assert (same.records, same.written_at) == ((SEEN, NEW), NOW + SECOND)
    assert (await Records(redis).load()).records == (SEEN, checked)
    well = replace(checked, health=Health.HEALTHY)
    await Records(redis).record(term, NOW + 2 * SECOND, [well], [], changed=True)
    assert (await Records(redis).load(known)).records == (SEEN, well)


async def test_records_are_read_again_if_redis_has_lost_its_mark(
    redis: RedisClient, term: Term, client: FakeAsyncRedis
) -> None:
    """A new Redis, or an old copy of it, is read completely."""
    await Records(redis).record(term, NOW, [NEW, SEEN], [], changed=True)
    known = await Records(redis).load()
    await client.hdel("sfr:fleet", "changed_at")
    await Records(redis).record(term, NOW + SECOND, [], [SEEN.worker.url], changed=False)
    assert (await Records(redis).load(known)).records == (NEW,)


@pytest.mark.parametrize(
    "slip", [{"times": "many"}, {"ejected_until": "1e300"}, {"ejected_until": "nan"}, {"failures": "1.5"}]
)
async def test_invalid_breaker_ejects_without_a_cause(
    redis: RedisClient, term: Term, client: FakeAsyncRedis, slip: dict[str, str]
) -> None:
    """A mistake with redis-cli does not hide the fleet."""
    await Records(redis).record(term, NOW, [NEW], [], changed=True)
    fields: dict[Any, Any] = {"times": 1, "cause": "x"}
    await client.hset(f"sfr:breaker:{NEW.worker.url}", mapping=fields | slip)
    await client.zadd("sfr:ejected", {NEW.worker.url: 7})
    assert (await Records(redis).load()).ejected == {NEW.worker.url: Ejection(0.0, score=7)}


async def test_removed_worker_leaves_set_and_hash(redis: RedisClient, term: Term, client: FakeAsyncRedis) -> None:
    """Nothing of a removed worker is left."""
    await Records(redis).record(term, NOW, [NEW, SEEN], [], changed=True)
    await Records(redis).record(term, NOW, [], [SEEN.worker.url], changed=True)
    assert (await Records(redis).load()).records == (NEW,)
    assert await client.keys("sfr:worker:*") == ["sfr:worker:http://b:1"]


async def test_large_fleet_is_written_in_parts_and_announced_once(
    redis: RedisClient, term: Term, client: FakeAsyncRedis
) -> None:
    """More records than one call takes are all written, and one message announces them."""
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("sfr:changes")
        many = [WorkerRecord(Worker(f"http://w{number}")) for number in range(RECORDS_A_CALL * 2 + 1)]
        assert await Records(redis).record(term, NOW, many, [], changed=True)
        assert len((await Records(redis).load()).records) == len(many)
        messages = [await pubsub.get_message(timeout=1) for _ in range(3)]
    assert [message["type"] for message in messages if message] == ["subscribe", "message"]


async def test_invalid_hash_is_a_worker_of_unknown_state(
    redis: RedisClient, term: Term, client: FakeAsyncRedis
) -> None:
    """A mistake with redis-cli hides one worker's state, not the fleet."""
    await Records(redis).record(term, NOW, [NEW, SEEN], [], changed=False)
    await client.hset("sfr:worker:http://a:1", "weight", "heavy")
    await client.delete("sfr:worker:http://b:1")
    assert (await Records(redis).load()).records == (
        WorkerRecord(Worker("http://a:1")),
        WorkerRecord(Worker("http://b:1", source="")),
    )


@pytest.mark.parametrize("word", ["NaN", "1e400", "inf", "-1", "0x10", "1.5", "heavy", "9" * 5000, "1000000000000"])
@pytest.mark.parametrize(
    "field", ["weight", "max_concurrency", "latency_ms", "failures", "successes", "health", "since"]
)
async def test_invalid_number_hides_one_worker_s_state(
    redis: RedisClient, term: Term, client: FakeAsyncRedis, field: str, word: str
) -> None:
    """Every value that is read can be used in arithmetic, in a ring and in JSON."""
    await Records(redis).record(term, NOW, [NEW, SEEN], [], changed=False)
    await client.hset("sfr:worker:http://a:1", field, word)
    seen, new = (await Records(redis).load()).records
    assert new == NEW
    assert seen == WorkerRecord(Worker("http://a:1")) or (field == "latency_ms" and seen.latency_ms == float(word))
    msgspec.json.encode(seen)
    json.dumps(seen.latency_ms, allow_nan=False)


@pytest.mark.parametrize("word", ["yesterday", "2026-11-01T12:30:00", "2026-11-01", ""])
async def test_invalid_moment_stops_no_process(
    redis: RedisClient, term: Term, client: FakeAsyncRedis, word: str
) -> None:
    """A moment without a zone is in UTC, and other text counts as missing."""
    await Records(redis).record(term, NOW, [SEEN], [], changed=False)
    await client.hset("sfr:fleet", "written_at", word)
    await client.hset("sfr:worker:http://a:1", "since", word)
    state = await Records(redis).load()
    for moment in (state.written_at, state.records[0].since):
        assert moment is None or moment.tzinfo is not None


async def test_key_of_another_type_hides_one_worker_until_the_next_check(
    redis: RedisClient, term: Term, client: FakeAsyncRedis
) -> None:
    """`SET sfr:worker:http://a:1 x` hides no other worker, and the sidecar's next write repairs it."""
    await Records(redis).record(term, NOW, [NEW, SEEN], [], changed=False)
    await client.set("sfr:worker:http://a:1", "x")
    assert (await Records(redis).load()).records == (WorkerRecord(Worker("http://a:1")), NEW)
    assert await Records(redis).record(term, NOW, [SEEN], [], changed=False)
    assert (await Records(redis).load()).records == (SEEN, NEW)


async def test_drain_of_another_type_hides_no_fleet(redis: RedisClient, term: Term, client: FakeAsyncRedis) -> None:
    """`SET sfr:drain http://b:1` drains no worker, and the sidecar's writes still reach the routers."""
    await client.set("sfr:drain", "http://b:1")
    assert await Records(redis).record(term, NOW, [NEW, SEEN], [], changed=True)
    assert await Records(redis).record(term, NOW, [], [SEEN.worker.url], changed=True)
    state = await Records(redis).load()
    assert (state.records, state.draining, redis.available) == ((NEW,), frozenset(), True)


async def test_member_that_is_no_url_is_ignored(redis: RedisClient, term: Term, client: FakeAsyncRedis) -> None:
    """It gets no job and breaks no response head."""
    await Records(redis).record(term, NOW, [NEW], [], changed=False)
    await client.sadd("sfr:workers", "a b", "http://\u00e9", "http://a..b", "")
    assert (await Records(redis).load()).records == (NEW,)


async def test_outdated_leader_writes_nothing(redis: RedisClient, term: Term) -> None:
    """The fencing token is checked in the same step that writes."""
    await Leadership(redis).resign(term)
    successor = await Leadership(redis).lead("other", 3)
    assert successor is not None
    assert not await Records(redis).record(term, NOW, [SEEN], [], changed=True)
    assert (await Records(redis).load()).records == ()
    assert await Records(redis).record(successor, NOW, [SEEN], [], changed=True)


async def test_last_finished_job_s_age_is_by_redis_own_clock(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """The age needs no comparison of two hosts' clocks."""
    assert await Records(redis).finished_s_ago("http://a:1") is None
    seconds, _ = await client.time()
    await client.zadd("sfr:finished", {"http://a:1": (seconds - 50) * 1000})
    ago_s = await Records(redis).finished_s_ago("http://a:1")
    assert ago_s is not None
    seconds_later, _ = await client.time()
    assert 50 <= ago_s <= 50 + seconds_later - seconds + 1


async def test_tenants_are_read_again_only_after_a_change(
    redis: RedisClient, term: Term, client: FakeAsyncRedis
) -> None:
    """Rules of many tenants cost nothing while none changes."""
    await Records(redis).record(term, NOW, [NEW], [], changed=True)
    await client.hset("sfr:tenants", mapping={"run-7": '{"weight":3}', "default": "{}"})
    await client.hset("sfr:fleet", "tenants_at", "7")
    known = await Records(redis).load()
    assert known.tenants == {"run-7": TenantRule(weight=3), "default": TenantRule()}
    await client.hset("sfr:tenants", "run-7", '{"weight":4}')
    assert (await Records(redis).load(known)).tenants == known.tenants
    await client.hset("sfr:fleet", "tenants_at", "8")
    assert (await Records(redis).load(known)).tenants["run-7"] == TenantRule(weight=4)


async def test_tenants_stay_until_a_sidecar_publishes_some(
    redis: RedisClient, term: Term, client: FakeAsyncRedis
) -> None:
    """Those of config.yaml hold beside a sidecar of the last release, the last known ones after Redis was emptied."""
    await Records(redis).record(term, NOW, [NEW], [], changed=True)
    known = FleetState((), tenants={"run-7": TenantRule(weight=3)})
    loaded = await Records(redis).load(known)
    assert (loaded.tenants, loaded.schema) == (known.tenants, 1)
    await client.hset("sfr:fleet", mapping={"tenants_at": "7", "schema": "2"})
    loaded = await Records(redis).load(known)
    assert (loaded.tenants, loaded.schema) == ({}, 2)


async def test_tenants_key_of_another_type_keeps_the_known_rules(
    redis: RedisClient, term: Term, client: FakeAsyncRedis
) -> None:
    """They are read again as soon as the sidecar has mended the key."""
    await Records(redis).record(term, NOW, [NEW], [], changed=True)
    await client.set("sfr:tenants", "x")
    await client.hset("sfr:fleet", "tenants_at", "7")
    known = await Records(redis).load(FleetState((), tenants={"run-7": TenantRule(weight=3)}))
    assert known.tenants == {"run-7": TenantRule(weight=3)}
    await client.delete("sfr:tenants")
    assert (await Records(redis).load(known)).tenants == {}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("run-7", "weight 3", "tenant 'run-7': Invalid JSON"),
        ("run-7", "[]", "tenant 'run-7': expected keys and values"),
        ("run-7", '{"weight":0}', "tenant 'run-7': weight: expected greater than or equal to 1, got 0"),
        ("run-7", '{"max_running":"5"}', "max_running: expected a valid integer, got '5'"),
        ("run 7", "{}", "Tenant 'run 7': expected a name"),
    ],
)
async def test_rule_that_cannot_be_read_is_left_out_and_named(
    redis: RedisClient,
    term: Term,
    client: FakeAsyncRedis,
    caplog: pytest.LogCaptureFixture,
    name: str,
    text: str,
    told: str,
) -> None:
    """A slip with redis-cli costs one tenant its rule, and nothing else."""
    await Records(redis).record(term, NOW, [NEW], [], changed=True)
    # A newer release may say more of a tenant.
    await client.hset("sfr:tenants", mapping={name: text, "eval": '{"priority":1,"mood":"good"}'})
    await client.hset("sfr:fleet", "tenants_at", "7")
    assert (await Records(redis).load()).tenants == {"eval": TenantRule(priority=1)}
    assert told in caplog.text
