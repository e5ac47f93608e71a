"""The scheduler's script on a real Valkey, with a clock that the test sets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from redis import Redis

from router.fleet.keys import Keys
from router.fleet.model import Member
from router.policy.tenants import TenantRule
from router.policy.verdict import Blame
from router.scheduling.local.rests import Rest
from router.scheduling.local.slow_start import Start
from router.scheduling.messages import Arrival, Call, Ended, Grant, PackedCall, Reply, Rules, packed
from router.scheduling.redis_scheduler import script_library, script_text

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
TENANTS = ("default", "run-7", "eval", "me_2")
POOLS = ("", "gpu", "gpu,ib;python", ";cpp")
LINES = tuple((tenant, pool) for tenant in TENANTS for pool in POOLS)
RULES = {
    "max_waiting": 12,
    "aging_ms": 3000,
    "failures": 2,
    "base_ms": 1000,
    "max_ms": 3000,
    "max_ejected_percent": 50.0,
    "budget_per_second": 2.0,
    "quarantine_ms": 5000,
    "hedge_percent": 20.0,
    "slow_start_ms": 1000,
    "reuse_bytes": 20,
}


@dataclass(frozen=True)
class State:
    """What is in Redis: leases by URL with their moments, the queue, and the breakers' failures, times and trial.

    `lines` are the pending jobs by tenant and pool, `orders` those of lines whose longest go first; `running` are the
    leases of each tenant.

    `asked` are the pending jobs of the key `waiting`. `until` and `ejected` are the ends of ejections, for people and
    for the script; `ejected` also holds the moment at which a trial that is never reported ends. `causes` belong to the
    last ejections. `room` and `lapse` are the indexes of workers with room and of leases that expire. `quarantined` are
    jobs with the end of their quarantine, `rests` the workers that turn jobs away, `reserved` those whose memory a line
    waits for, `out` those that are unhealthy or ejected, `starts` those that have come back.
    """

    leases: dict[str, dict[str, int]]
    lines: dict[tuple[str, str], list[tuple[int, str]]]
    orders: dict[tuple[str, str], list[str]]
    running: dict[str, dict[str, int]]
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
    reserved: dict[str, str]
    starts: dict[str, Start]
    out: set[str]


def loaded(redis: "Redis") -> Callable[[list[Any]], Any]:
    """Load the script as a library, and return what calls it with arguments."""
    script = script_library(Keys("sfr"))
    client: Any = redis
    client.function_load(script.text, replace=True)
    return lambda args: client.execute_command("FCALL", script.name, 1, "sfr:plan", *args, NEVER_DECODE=True)


def by_text(redis: "Redis") -> Callable[[list[Any]], Any]:
    """Return what calls the script, as a script, with arguments."""
    client: Any = redis
    text = script_text(Keys("sfr"))
    return lambda args: client.execute_command("EVAL", text, 1, "sfr:plan", *args, NEVER_DECODE=True)


class LuaScheduler:
    """The script with a clock that the test sets: as a library, or as a script that keeps nothing between its runs."""

    def __init__(self, redis: "Redis", rules: Rules, *, is_script: bool = False) -> None:
        self.redis = redis
        self.rules = rules
        self._call = by_text(redis) if is_script else loaded(redis)

    def step(self, call: Call, now: int) -> Reply:
        """Run the script once at the moment `now` (ms)."""
        args: list[Any] = [msgspec.json.encode(packed(call)), msgspec.json.encode(self.rules), now]
        return msgspec.msgpack.decode(self._call(args), type=Reply)

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
                "labels": ",".join(member.worker.labels),
                "languages": ",".join(member.worker.languages),
                "memory_mb": member.worker.memory_mb or "",
                "speed": member.speed,
            }
            redis.hset(f"sfr:worker:{member.worker.url}", mapping=fields)
        redis.hset("sfr:fleet", "written_at", "now")
        redis.hset("sfr:plan:head", "stale", 1)

    def set_tenants(self, tenants: Mapping[str, TenantRule]) -> None:
        """Write the tenants' rules as the sidecar does."""
        self.redis.delete("sfr:tenants")
        if tenants:
            rules = {name: msgspec.json.encode(rule) for name, rule in tenants.items()}
            self.redis.hset("sfr:tenants", mapping=rules)  # type: ignore[arg-type]
        self.redis.hset("sfr:plan:head", "stale", 1)

    def set_drain(self, members: list[Member]) -> None:
        """Write the drains like an operator with redis-cli does, without marking the plan as stale."""
        self.redis.delete("sfr:drain")
        for member in members:
            if member.is_draining:
                self.redis.sadd("sfr:drain", member.worker.url)

    def rooms(self) -> dict[str, set[str]]:
        """Return the workers with room of each open pool."""
        redis: Any = self.redis
        keys = {pool: f"sfr:room:{text.split()[0]}" for pool, text in redis.hgetall("sfr:pools").items()}
        return {
            pool: {member.rpartition(" ")[2] for member in redis.zrange(key.removesuffix(":0"), 0, -1)}
            for pool, key in keys.items()
        }

    def state(self) -> State:
        """Read the state in one round trip."""
        pipeline = self.redis.pipeline(transaction=False)
        for url in URLS:
            pipeline.zrange(f"sfr:leases:{url}", 0, -1, withscores=True)
            pipeline.hgetall(f"sfr:breaker:{url}")
        for tenant in TENANTS:
            pipeline.zrange(f"sfr:running:{tenant}", 0, -1, withscores=True)
        for tenant, pool in LINES:
            is_plain = (tenant, pool) == ("default", "")
            pipeline.zrange("sfr:queue" if is_plain else f"sfr:queue:{pool}/{tenant}", 0, -1, withscores=True)
        for tenant, pool in LINES:
            pipeline.zrange(f"sfr:order:{tenant}/{pool}", 0, -1)
        for index in ("ejected", "lapse", "room", "quarantine"):
            pipeline.zrange(f"sfr:{index}", 0, -1, withscores=True)
        pipeline.hkeys("sfr:waiting")
        pipeline.get("sfr:ticket")
        pipeline.hgetall("sfr:rests")
        pipeline.hgetall("sfr:reserved")
        pipeline.hgetall("sfr:starts")
        *found, ejected, lapse, room, quarantined, asked, ticket, resting, reserved, starts = pipeline.execute()
        by_line, by_order, found = found[-2 * len(LINES) : -len(LINES)], found[-len(LINES) :], found[: -2 * len(LINES)]
        by_url, by_tenant = found[: 2 * len(URLS)], found[2 * len(URLS) :]
        leases = {url: _moments(held) for url, held in zip(URLS, by_url[::2], strict=True) if held}
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
            {line: [(int(at), name) for name, at in jobs] for line, jobs in zip(LINES, by_line, strict=True) if jobs},
            {line: names for line, names in zip(LINES, by_order, strict=True) if names},
            {tenant: _moments(held) for tenant, held in zip(TENANTS, by_tenant, strict=True) if held},
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
            reserved,
            {url: Start(*map(int, text.split())) for url, text in starts.items() if text != "out"},
            {url for url, text in starts.items() if text == "out"},
        )

    def grants(self) -> tuple[dict[str, list[Grant]], dict[str, list[str]]]:
        """Take all out of the processes' lists: the grants, and the keys of runs that are over for which they wait."""
        pipeline = self.redis.pipeline(transaction=False)
        for process in PROCESSES:
            pipeline.lrange(f"sfr:grants:{process}", 0, -1)
        pipeline.delete(*(f"sfr:grants:{process}" for process in PROCESSES))
        *lists, _ = pipeline.execute()
        grants: dict[str, list[Grant]] = {}
        woken: dict[str, list[str]] = {}
        for process, texts in zip(PROCESSES, lists, strict=True):
            for text in texts:
                if text.startswith("{"):
                    woken.setdefault(process, []).append(msgspec.json.decode(text)["key"])
                else:
                    grants.setdefault(process, []).append(msgspec.json.decode(text, type=Grant))
        return grants, woken


def _moments(held: list[tuple[str, float]]) -> dict[str, int]:
    return {name: int(moment) for name, moment in held}


def _rest(text: str) -> Rest:
    limit, until, is_asked, rest_ms, is_away, silence = (int(word) for word in text.split())
    return Rest(limit, until, bool(is_asked), rest_ms, bool(is_away), silence)


def unpacked(text: bytes) -> Call:
    """Return the call that RedisScheduler has sent."""
    sent = msgspec.json.decode(text, type=PackedCall)
    came: Any = zip(*(sent.came[place::5] for place in range(5)), strict=True)
    done: Any = zip(*(sent.done[place::3] for place in range(3)), strict=True)
    arrived = (Arrival(number, bound, wait, tenant=tenant, pool=pool) for number, bound, wait, tenant, pool in came)
    ended = (Ended(url, number, Blame.OK, tenant=tenant) for url, number, tenant in done)
    fields = {name: getattr(sent, name) for name in Call.__struct_fields__}
    return Call(**fields | {"arrived": (*sent.arrived, *arrived), "ended": (*sent.ended, *ended)})
