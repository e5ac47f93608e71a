"""Events that are written in the atomic step that decides them: each once, whoever asks again. Redis is a fake."""

from dataclasses import replace

from fakeredis import FakeAsyncRedis

from router.fleet.intents import Intents, Registration
from router.fleet.journal import sentences
from router.fleet.journal.events import Events
from router.fleet.journal.model import Asked, Event
from router.fleet.leadership import Leadership, Term
from router.fleet.model import Health, WorkerRecord
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient
from tests.support.records import NEW, NOW

URL = NEW.worker.url
SICK = replace(NEW, health=Health.UNHEALTHY, failures=2, last_error="timed out after 5 s")
WELL = replace(NEW, health=Health.HEALTHY)
JOINED, LEFT = sentences.joined(URL, "dns", "me"), sentences.left(URL, "dns", "me")


async def kinds(redis: RedisClient) -> list[str]:
    """Return the kinds of all events, the oldest first."""
    return [told.event.kind for told in (await Events(redis).read(Asked("0-0"))).events]


async def write(redis: RedisClient, term: Term, record: WorkerRecord | None, *events: Event) -> bool:
    """Write what the leader has seen of the worker; None: it has left."""
    records, gone = ([], [URL]) if record is None else ([record], [])
    return await Records(redis).record(term, NOW, records, gone, changed=True, events={URL: events})


async def test_lead_is_told_when_it_changes(redis: RedisClient, term: Term, client: FakeAsyncRedis) -> None:
    """A sidecar that leads again says nothing new; another one does. A memory that begins is told, too."""
    assert await Leadership(redis).lead("me", 3) == term
    await Leadership(redis).resign(term)
    await Leadership(redis).lead("me", 3)
    await client.delete("sfr:sidecar")
    await Leadership(redis).lead("other", 3)
    assert await kinds(redis) == ["redis_emptied", "sidecar_changed", "sidecar_changed"]


async def test_worker_s_life_is_told_step_by_step(redis: RedisClient, term: Term) -> None:
    """Events come in the order in which they happened, each with what is known of it."""
    await write(redis, term, SICK, JOINED, sentences.checked(SICK, "me"))
    await write(redis, term, WELL, sentences.checked(WELL, "me"), sentences.checked(SICK, "me"))
    await write(redis, term, None, LEFT)
    page = await Events(redis).read(Asked("0-0", worker=URL))
    told = [told.event.kind.removeprefix("worker_") for told in page.events]
    assert told == ["joined", "unhealthy", "healthy", "unhealthy", "left"]
    assert page.events[1].event.text.endswith("gets no jobs, after 2 failed checks: timed out after 5 s")


async def test_records_that_are_written_again_tell_nothing_again(redis: RedisClient, term: Term) -> None:
    """The answer to a call may be lost, and then the leader makes the same call once more."""
    for _ in range(2):
        await write(redis, term, WELL, JOINED, sentences.checked(WELL, "me"))
    for _ in range(2):
        await write(redis, term, None, LEFT)
    assert [kind for kind in await kinds(redis) if kind.startswith("worker")] == [
        *("worker_joined", "worker_healthy", "worker_left"),
    ]


async def test_former_leader_tells_nothing(redis: RedisClient, term: Term, client: FakeAsyncRedis) -> None:
    """Its events are refused with its records."""
    await client.delete("sfr:sidecar")
    assert await Leadership(redis).lead("other", 3)
    assert not await write(redis, term, WELL, JOINED)
    assert "worker_joined" not in await kinds(redis)


async def test_drain_is_told_if_it_changes_something(redis: RedisClient) -> None:
    """The event says whose doing it is. An agent repeats its wish, and a registration begins undrained: no events."""
    intents = Intents(redis)
    for _ in range(2):
        await intents.drain(URL, "the admin token, from 10.0.0.9")
    for _ in range(2):
        await intents.resume(URL, "me on vm")
    await intents.drain(URL)
    await intents.register(Registration(URL))
    events = [told.event for told in (await Events(redis).read(Asked())).events]
    assert [(event.kind, event.by) for event in events] == [
        *(("worker_drained", "the admin token, from 10.0.0.9"), ("worker_resumed", "me on vm"), ("worker_drained", "")),
    ]


async def test_unusable_journal_harms_no_record(redis: RedisClient, term: Term, client: FakeAsyncRedis) -> None:
    """If redis-cli has made the journal another type, workers are recorded, drained and led as ever."""
    await client.set("sfr:events", "x")
    assert await write(redis, term, WELL, JOINED)
    await Intents(redis).drain(URL)
    assert (await Intents(redis).read()).draining == {URL}
    assert [record.health for record in (await Records(redis).load()).records] == [Health.HEALTHY]
