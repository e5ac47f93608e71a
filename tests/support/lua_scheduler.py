"""The scheduler's script on a real Valkey, with a clock that the test sets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from redis import Redis

from router.fleet.model import Member
from router.fleet.schema import Keys
from router.scheduling.messages import Call, Grant, Reply, Rules
from router.scheduling.redis_scheduler import script_text
from router.scheduling.rests import Rest

URLS = tuple(f"http://w{number}" for number in range(5))
PROCESSES = ("p", "q", "r")
A, B, C = THREE = ("http://a", "http://b", "http://c")
# The moment (ms) at which the scheduler has settled.
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
    """What is in Redis: leases by URL with their moments, the queue, and the breakers' failures, times and trial.

    `asked` are the pending jobs of the key `waiting`. `until` and `ejected` are the ends of ejections, for people and
    for the script; `ejected` also holds the moment at which a trial that is never reported ends. `causes` belong to the
    last ejections. `room` and `lapse` are the indexes of workers with room and of leases that expire. `quarantined` are
    jobs with the end of their quarantine, `rests` the workers that turn jobs away.
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


class LuaScheduler:
    """The script with a clock that the test sets."""

    def __init__(self, redis: "Redis", rules: Rules) -> None:
        self.redis = redis
        self.rules = rules
        self._script = redis.register_script(script_text(Keys("sfr")))

    def step(self, call: Call, now: int) -> Reply:
        """Run the script once at the moment `now` (ms)."""
        args: list[Any] = [msgspec.json.encode(call), msgspec.json.encode(self.rules), now]
        return msgspec.json.decode(self._script(keys=["sfr:plan"], args=args), type=Reply)

    def set_fleet(self, members: list[Member]) -> None:
        """Write the fleet like the sidecar and the operator do; the sidecar marks the plan as stale."""
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
        """Write the drains like an operator with redis-cli does, without marking the plan as stale."""
        self.redis.delete("sfr:drain")
        for member in members:
            if member.is_draining:
                self.redis.sadd("sfr:drain", member.worker.url)

    def state(self) -> State:
        """Read the state in one round trip."""
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
        """Take all grants out of the processes' lists."""
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
