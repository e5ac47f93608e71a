"""scheduler.lua on a real Valkey, under a clock that the test sets."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from redis import Redis

from router.fleet.model import Member
from router.scheduling.messages import CONSTANTS, Call, Grant, Reply, Rules
from router.scheduling.rests import Rest

_SCRIPT = Path(__file__).parents[2] / "router" / "scheduling" / "lua" / "scheduler.lua"
CLOCK = "local time = redis.call('TIME')"
TEST_CLOCK = "local time = {math.floor(ARGV[#ARGV] / 1000), ARGV[#ARGV] % 1000 * 1000}"
# Evidence passes by Redis' own clock; here by the test's.
EXPIRY = "redis.call('PEXPIRE', suspect, rules.quarantine_ms)"
TEST_EXPIRY = "redis.call('ZADD', 'passing', now + rules.quarantine_ms, suspect)"
URLS = tuple(f"http://w{number}" for number in range(5))
PROCESSES = ("p", "q", "r")
A, B, C = THREE = ("http://a", "http://b", "http://c")
# When a memory has settled.
START = 1_000_000
Ask = Callable[[Call, int], Reply]
SetFleet = Callable[[list[Member]], None]
Make = Callable[[Rules, int], Ask]
MakeMembers = Callable[[list[Member], Rules], tuple[Ask, SetFleet]]
JOBS = ("a", "b", "c")
RULES = {
    "max_waiting": 12,
    "failures": 2,
    "base_ms": 1000,
    "max_ms": 3000,
    "max_ejected_percent": 50.0,
    "budget_per_second": 2.0,
    "quarantine_ms": 5000,
}


@dataclass(frozen=True)
class State:
    """What is in Redis: leases by URL with their moments, the line, and failures, times and trial of the breakers.

    `until` and `ejected` say when ejections end, once to be read by people, once for the script; the latter also when
    a trial that is not heard of ends. `causes` are those of the last ejections. `room` and `lapse` are the indexes: who
    has room, whose leases pass when. `quarantined` are jobs and until when, `rests` the workers that turn jobs away.
    """

    leases: dict[str, dict[str, int]]
    queue: list[tuple[int, str]]
    asked: set[str]
    ticket: int
    breakers: dict[str, tuple[int, int, str]]
    until: dict[str, float]
    ejected: dict[str, float]
    causes: dict[str, str]
    room: set[str]
    lapse: dict[str, float]
    quarantined: dict[str, float]
    rests: dict[str, Rest]


class Script:
    """scheduler.lua with a settable clock."""

    def __init__(self, redis: "Redis", rules: Rules) -> None:
        self.redis = redis
        self.rules = rules
        self._script = redis.register_script(_timed_script())

    def step(self, call: Call, now: int) -> Reply:
        """Run it once."""
        if passed := self.redis.zrangebyscore("passing", "-inf", now):
            self.redis.delete(*passed)
        args: list[Any] = [msgspec.json.encode(call), "sfr", msgspec.json.encode(self.rules), *CONSTANTS, now]
        return msgspec.json.decode(self._script(keys=["sfr:plan"], args=args), type=Reply)

    def set_fleet(self, members: list[Member]) -> None:
        """Write the fleet as the sidecar and the operator do; the sidecar says that it has changed."""
        self.set_drain(members)
        redis = self.redis
        redis.delete("sfr:workers")
        for member in reversed(members):
            redis.sadd("sfr:workers", member.worker.url)
            fields: dict[Any, Any] = {
                "health": member.health.value,
                "weight": member.worker.weight,
                "max_concurrency": member.cap or "",
            }
            redis.hset(f"sfr:worker:{member.worker.url}", mapping=fields)
        redis.hset("sfr:fleet", "written_at", "now")
        redis.hset("sfr:plan:head", "stale", 1)

    def set_drain(self, members: list[Member]) -> None:
        """Write who is draining, as the operator does, who tells nobody."""
        self.redis.delete("sfr:drain")
        for member in members:
            if member.is_draining:
                self.redis.sadd("sfr:drain", member.worker.url)

    def state(self) -> State:
        """Read leases, line and breakers, in one round trip."""
        pipeline = self.redis.pipeline(transaction=False)
        for url in URLS:
            pipeline.zrange(f"sfr:leases:{url}", 0, -1, withscores=True)
            pipeline.hgetall(f"sfr:breaker:{url}")
        for index in ("queue", "ejected", "lapse", "room", "quarantine"):
            pipeline.zrange(f"sfr:{index}", 0, -1, withscores=True)
        pipeline.hkeys("sfr:waiting")
        pipeline.get("sfr:ticket")
        pipeline.hgetall("sfr:rests")
        *by_url, queue, ejected, lapse, room, quarantined, asked, ticket, resting = pipeline.execute()
        leases = {
            url: {name: int(at) for name, at in held} for url, held in zip(URLS, by_url[::2], strict=True) if held
        }
        breakers = {
            url: (int(fields.get("failures", 0)), int(fields.get("times", 0)), fields.get("trial", ""))
            for url, fields in zip(URLS, by_url[1::2], strict=True)
            if fields
        }
        until = {
            url: round(float(fields["ejected_until"]) * 1000, 3)
            for url, fields in zip(URLS, by_url[1::2], strict=True)
            if fields.get("trial") == ""
        }
        causes = {url: fields["cause"] for url, fields in zip(URLS, by_url[1::2], strict=True) if fields.get("cause")}
        return State(
            leases,
            [(int(ticket), name) for name, ticket in queue],
            set(asked),
            int(ticket or 0),
            breakers,
            until,
            dict(ejected),
            causes,
            {member.rpartition(" ")[2] for member, _ in room},
            dict(lapse),
            dict(quarantined),
            {url: _rest(text) for url, text in resting.items()},
        )

    def grants(self) -> dict[str, list[Grant]]:
        """Take what lies in the processes' grant lists."""
        pipeline = self.redis.pipeline(transaction=False)
        for process in PROCESSES:
            pipeline.lrange(f"sfr:grants:{process}", 0, -1)
        pipeline.delete(*(f"sfr:grants:{process}" for process in PROCESSES))
        *lists, _ = pipeline.execute()
        given = zip(PROCESSES, lists, strict=True)
        return {process: [msgspec.json.decode(text, type=Grant) for text in texts] for process, texts in given if texts}


def _rest(text: str) -> Rest:
    limit, until, is_asked, rest_ms, is_away, silence = (int(word) for word in text.split())
    return Rest(limit, until, bool(is_asked), rest_ms, bool(is_away), silence)


def _timed_script() -> str:
    """Return scheduler.lua under the test's clock; read each time, for `make mutants` changes it."""
    text = _SCRIPT.read_text()
    assert CLOCK in text
    assert EXPIRY in text
    return text.replace(CLOCK, TEST_CLOCK).replace(EXPIRY, TEST_EXPIRY)
