"""The fleet's journal in Redis: the stream of what has happened. Its ids are moments by Redis' own clock."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from router.fleet.journal.model import Asked, Event, Page, Since, Told, is_wanted
from router.fleet.redis_client import RedisClient, RedisUnavailable, RefusedCommand
from router.fleet.schema import EVENTS_KEPT

# One call reads so many: a small part of what Redis answers within a call's time limit.
_EVENTS_A_CALL = 500
# So many of the latest events are looked through for one that was told already.
_LOOKED_AT = 1000
_BEFORE_ALL = "0-0"

# An entry of a stream as the Redis client reads it.
_Entry = tuple[str, dict[str, str]]


class Events:
    """Reads and writes the journal of one fleet. Every method raises RedisUnavailable."""

    def __init__(self, redis: RedisClient, kept: int = EVENTS_KEPT) -> None:
        self._redis = redis
        self._key = redis.keys.events
        self._write = redis.register("events", EVENTS_KEPT=kept, LOOKED_AT=_LOOKED_AT)

    async def write(self, events: Iterable[tuple[Event, float]]) -> None:
        """Write events, each with a time in seconds: it is left out if its like was written within that time."""
        words = [
            (each.kind, each.subject, each.text, each.by, json.dumps(each.more), int(apart_s * 1000))
            for each, apart_s in events
        ]
        await self._redis.ask(self._write(json.dumps(words)))

    async def read(self, asked: Asked) -> Page:
        """Return the events that are asked for. Raises ValueError if `since` cannot be read."""
        wanted = is_wanted(asked.kinds, asked.worker)
        if asked.since is None:
            return await self._last(asked.limit, wanted)
        return await self._since(Since.read(asked.since), asked.limit, wanted)

    async def _last(self, limit: int, is_wanted: Callable[[Event], bool]) -> Page:
        found: list[Told] = []
        newest, end = _BEFORE_ALL, "+"
        while len(found) < limit:
            entries = await self._range("XREVRANGE", end, "-")
            if newest == _BEFORE_ALL and entries:
                newest = entries[0][0]
            found += [told for told in map(_told, entries) if is_wanted(told.event)]
            if len(entries) < _EVENTS_A_CALL:
                break
            end = f"({entries[-1][0]}"
        return Page(found[:limit][::-1], newest)

    async def _since(self, since: Since, limit: int, is_wanted: Callable[[Event], bool]) -> Page:
        found: list[Told] = []
        seen = since.after or f"{await self._moment_ms(since)}-0"
        begin = f"({seen}" if since.after else seen
        while True:
            entries = await self._range("XRANGE", begin, "+")
            for told in map(_told, entries):
                seen = told.id
                if is_wanted(told.event):
                    found.append(told)
                    if len(found) == limit:
                        return Page(found, seen)
            if len(entries) < _EVENTS_A_CALL:
                return Page(found, seen)
            begin = f"({seen}"

    async def _moment_ms(self, since: Since) -> int:
        if since.ago_ms is None:
            return since.at_ms or 0
        seconds, micros = await self._redis.transaction(("TIME",))
        return max(0, int(seconds) * 1000 + int(micros) // 1000 - since.ago_ms)

    async def _range(self, command: str, begin: str, end: str) -> list[_Entry]:
        (answer,) = await self._redis.ask_each((command, self._key, begin, end, "COUNT", str(_EVENTS_A_CALL)))
        if isinstance(answer, RefusedCommand):
            raise RedisUnavailable(f"{self._key}: {answer.reason}")
        entries: list[_Entry] = answer
        return entries


def _told(entry: _Entry) -> Told:
    """Return an entry of the stream. What redis-cli has added may lack any field."""
    name, fields = entry
    kind, subject, text, by = (fields.get(field, "") for field in ("kind", "subject", "text", "by"))
    return Told(name, Event(kind, subject, text, by, _more(fields.get("more", ""))))


def _more(text: str) -> dict[str, Any]:
    try:
        more = json.loads(text)
    except ValueError:
        return {}
    return more if isinstance(more, dict) else {}
