"""The journal: what is written into the stream, and which events are read from it."""

from pathlib import Path

import pytest
from fakeredis import FakeAsyncRedis

from router.fleet.counters import Counters
from router.fleet.journal.events import Events
from router.fleet.journal.model import KINDS, Asked, Event, Page, Since, help_on
from router.fleet.redis_client import RedisClient, RedisUnavailable

ROOT = Path(__file__).parents[4]
LEFT = Event("worker_left", "http://a", "Worker http://a has left", "me", {"source": "dns"})


def event(number: int) -> Event:
    """An event of one worker, told apart by its text."""
    return Event("worker_healthy", "http://b", str(number))


def texts(page: Page) -> list[str]:
    """Return the texts of a page's events."""
    return [told.event.text for told in page.events]


async def test_what_is_written_is_read(redis: RedisClient) -> None:
    """An event comes back with all that it was written with, and the moment that its id names."""
    await Events(redis).write([(LEFT, 0)])
    (told,) = (await Events(redis).read(Asked())).events
    assert told.event == LEFT
    assert int(told.at.timestamp() * 1000) == int(told.id.partition("-")[0])


async def test_pages_follow_each_other(redis: RedisClient) -> None:
    """Without `since` the last events come, the oldest first; since `next`, or an id, only those that are later."""
    events = Events(redis)
    await events.write((event(number), 0) for number in range(1100))
    last = await events.read(Asked(limit=2))
    assert texts(last) == ["1098", "1099"]
    assert texts(await events.read(Asked(since=last.events[0].id))) == ["1099"]
    assert await events.read(Asked(since=last.next)) == Page([], last.next)
    first = await events.read(Asked(since="1h", limit=600))
    second = await events.read(Asked(since=first.next, limit=600))
    assert texts(first) + texts(second) == [str(number) for number in range(1100)]


async def test_what_is_written_is_counted_by_kind(redis: RedisClient) -> None:
    """The counts are those of the whole fleet; what is left out counts for nothing."""
    await Events(redis).write([(LEFT, 0), (event(1), 0), (event(2), 0), (event(3), 60)])
    assert (await Counters(redis).usage([])).events == {"worker_left": 1, "worker_healthy": 2}


async def test_kind_and_worker_choose_events(redis: RedisClient) -> None:
    """Only events of these kinds and about this worker come, however many others stand between."""
    events = Events(redis)
    broken = Event("job_quarantined", "run-7", "refused", more={"workers": ["http://a", "http://c"]})
    await events.write([(LEFT, 0), (broken, 0), *((event(number), 0) for number in range(600))])
    for since in (None, "0-0"):
        assert texts(await events.read(Asked(since, worker="http://a"))) == [LEFT.text, broken.text]
        assert texts(await events.read(Asked(since, kinds=("job_quarantined",)))) == [broken.text]
        assert texts(await events.read(Asked(since, 1, worker="http://b"))) == ["599" if since is None else "0"]


async def test_the_like_of_a_recent_event_is_left_out(redis: RedisClient) -> None:
    """With a time apart, an event is written only if none of its kind and subject was written within that time."""
    events = Events(redis)
    await events.write([(event(1), 60), (event(2), 60), (LEFT, 60), (event(3), 0)])
    assert texts(await events.read(Asked())) == ["1", LEFT.text, "3"]


async def test_the_stream_is_bounded(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """Old events make room for new ones."""
    events = Events(redis, kept=100)
    await events.write((event(number), 0) for number in range(500))
    assert await client.xlen("sfr:events") < 300


async def test_entries_written_by_hand_are_shown(redis: RedisClient, client: FakeAsyncRedis) -> None:
    """An entry without some fields is an event, too; a key of another type is told as what it is."""
    await client.xadd("sfr:events", {"text": "by hand", "more": "[1"})
    (told,) = (await Events(redis).read(Asked())).events
    assert told.event == Event("", "", "by hand")
    await client.set("sfr:events", "x")
    with pytest.raises(RedisUnavailable, match=r"sfr:events: WRONGTYPE"):
        await Events(redis).read(Asked())


@pytest.mark.parametrize("text", ["", "10", "0m", "10 m", "9" * 20 + "d", "yesterday", "5-x"])
def test_unreadable_moments_are_refused(text: str) -> None:
    """The message says what was expected."""
    with pytest.raises(ValueError, match="expected a length of time such as 10m"):
        Since.read(text)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_is_explained(kind: str) -> None:
    """Each kind's help is a section of docs/failures.md, under the kind's name."""
    page, _, anchor = help_on(kind).partition("#")
    assert f"\n### {anchor}\n" in (ROOT / page).read_text()


def test_no_section_explains_a_kind_that_is_none() -> None:
    """The sections on events are those of the kinds, and unknown kinds lead to the page's part on events."""
    page = (ROOT / "docs" / "failures.md").read_text()
    part = page.partition("\n## What events say\n")[2].partition("\n## ")[0]
    assert {line.removeprefix("### ") for line in part.splitlines() if line.startswith("### ")} == KINDS
    assert help_on("unknown").endswith("#what-events-say")
