"""The fleet in Redis: records there and back, tickets, the lead, and what a bad hash does. Redis is a fake."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fakeredis import FakeAsyncRedis

from router.fleet.model import Health, Worker, WorkerRecord
from router.fleet.store import RECORDS_A_CALL, Store, Term
from router.view import FleetView

NOW = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SEEN = WorkerRecord(
    Worker("http://a:1", weight=3, max_concurrency=8), Health.UNHEALTHY, NOW, NOW, 12.5, 3, 0, "timed out after 5 s"
)
NEW = WorkerRecord(Worker("http://b:1"))


@pytest.fixture
async def client() -> AsyncIterator[FakeAsyncRedis]:
    """A fake Redis with Lua, empty."""
    async with FakeAsyncRedis(decode_responses=True) as redis:
        yield redis


@pytest.fixture
def store(client: FakeAsyncRedis) -> Store:
    """A store over the fake."""
    return Store(client, "sfr", timeout_s=5)


@pytest.fixture
async def term(store: Store) -> Term:
    """The lead, taken."""
    term = await store.lead("me", 3)
    assert term is not None
    return term


@pytest.mark.parametrize("record", [SEEN, NEW])
def test_record_survives_its_way_through_a_hash(record: WorkerRecord) -> None:
    """What is written is what is read."""
    assert WorkerRecord.from_hash(record.worker.url, record.to_hash()) == record


async def test_fleet_is_loaded_as_recorded_in_the_order_of_urls(store: Store, term: Term) -> None:
    """Every process sees the same workers in the same order."""
    assert await store.record(term, NOW, [NEW, SEEN], [], changed=True)
    state = await store.load()
    assert state.records == (SEEN, NEW)
    assert (state.written_at, state.leader) == (NOW, f"{term.token} me")


async def test_records_are_read_again_only_after_a_change(store: Store, term: Term) -> None:
    """What each check sees costs the routers nothing; a change of health or membership reaches them."""
    await store.record(term, NOW, [NEW, SEEN], [], changed=True)
    known = await store.load()
    checked = replace(NEW, checked_at=NOW)
    await store.record(term, NOW + SECOND, [checked], [], changed=False)
    same = await store.load(known)
    assert (same.records, same.written_at) == ((SEEN, NEW), NOW + SECOND)
    assert (await store.load()).records == (SEEN, checked)
    well = replace(checked, health=Health.HEALTHY)
    await store.record(term, NOW + 2 * SECOND, [well], [], changed=True)
    assert (await store.load(known)).records == (SEEN, well)


async def test_who_looks_at_the_fleet_sees_the_last_checks(store: Store, term: Term) -> None:
    """The snapshot, which jobs go by, waits for a change of health; what is shown does not."""
    view = FleetView(store, ())
    await store.record(term, NOW, [NEW], [], changed=True)
    await view.refresh()
    checked = replace(NEW, checked_at=NOW)
    await store.record(term, NOW + SECOND, [checked], [], changed=False)
    await view.refresh()
    assert view.snapshot.state.records == (NEW,)
    assert (await view.latest()).state.records == (checked,)


async def test_records_are_read_again_where_redis_has_lost_its_mark(
    store: Store, term: Term, client: FakeAsyncRedis
) -> None:
    """A Redis that is new, or an old copy of itself, is read whole."""
    await store.record(term, NOW, [NEW, SEEN], [], changed=True)
    known = await store.load()
    await client.hdel("sfr:fleet", "changed_at")
    await store.record(term, NOW + SECOND, [], [SEEN.worker.url], changed=False)
    assert (await store.load(known)).records == (NEW,)


async def test_removed_worker_leaves_set_and_hash(store: Store, term: Term, client: FakeAsyncRedis) -> None:
    """Nothing is left of a worker that has left."""
    await store.record(term, NOW, [NEW, SEEN], [], changed=True)
    await store.record(term, NOW, [], [SEEN.worker.url], changed=True)
    assert (await store.load()).records == (NEW,)
    assert await client.keys("sfr:worker:*") == ["sfr:worker:http://b:1"]


async def test_large_fleet_is_written_in_parts_and_told_once(store: Store, term: Term, client: FakeAsyncRedis) -> None:
    """More records than one call takes all arrive, and one message tells of them."""
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("sfr:changes")
        many = [WorkerRecord(Worker(f"http://w{number}")) for number in range(RECORDS_A_CALL * 2 + 1)]
        assert await store.record(term, NOW, many, [], changed=True)
        assert len((await store.load()).records) == len(many)
        messages = [await pubsub.get_message(timeout=1) for _ in range(3)]
    assert [message["type"] for message in messages if message] == ["subscribe", "message"]


async def test_hash_that_nobody_can_read_is_a_worker_of_which_nothing_is_known(
    store: Store, term: Term, client: FakeAsyncRedis
) -> None:
    """A slip with redis-cli hides one worker's state, not the fleet."""
    await store.record(term, NOW, [NEW, SEEN], [], changed=False)
    await client.hset("sfr:worker:http://a:1", "weight", "heavy")
    await client.delete("sfr:worker:http://b:1")
    assert (await store.load()).records == (
        WorkerRecord(Worker("http://a:1")),
        WorkerRecord(Worker("http://b:1", source="")),
    )


async def test_one_sidecar_leads_and_renews(store: Store, term: Term) -> None:
    """The leader keeps its token, another gets none; a lead given up passes on with the next token."""
    assert await store.lead("me", 3) == term
    assert await store.lead("other", 3) is None
    await store.resign(Term(99, "other"))
    assert await store.lead("other", 3) is None
    await store.resign(term)
    assert await store.lead("other", 3) == Term(term.token + 1, "other")


async def test_token_is_never_given_twice(store: Store, term: Term, client: FakeAsyncRedis) -> None:
    """After a loss of Redis' memory, a sidecar that goes on leading has a new term, and writes all again."""
    await client.flushall()
    after = await store.lead("me", 3)
    assert after is not None
    assert after.token > term.token


async def test_outdated_leader_writes_nothing(store: Store, term: Term) -> None:
    """The fencing token is checked in the same step that writes."""
    await store.resign(term)
    successor = await store.lead("other", 3)
    assert successor is not None
    assert not await store.record(term, NOW, [SEEN], [], changed=True)
    assert (await store.load()).records == ()
    assert await store.record(successor, NOW, [SEEN], [], changed=True)


async def test_last_finished_job_is_told_by_redis_own_clock(store: Store, client: FakeAsyncRedis) -> None:
    """How long ago, not when: nobody compares two clocks."""
    assert await store.finished_s_ago("http://a:1") is None
    seconds, _ = await client.time()
    await client.zadd("sfr:finished", {"http://a:1": (seconds - 50) * 1000})
    ago_s = await store.finished_s_ago("http://a:1")
    assert ago_s is not None
    seconds_later, _ = await client.time()
    assert 50 <= ago_s <= 50 + seconds_later - seconds + 1


async def test_every_key_has_the_prefix(client: FakeAsyncRedis) -> None:
    """Two fleets share a Redis by their prefixes."""
    store = Store(client, "{mine}", timeout_s=5)
    term = await store.lead("me", 3)
    assert term is not None
    await store.record(term, NOW, [SEEN], [], changed=True)
    assert all(str(key).startswith("{mine}:") for key in await client.keys("*"))
