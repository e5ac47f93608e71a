"""docs/redis.md, schema.py, the Lua scripts and a live Redis have the same schema."""

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis

from router.fleet.intents import Intents, Registration
from router.fleet.journal.failed_job import FailedJob
from router.fleet.journal.failures import Failures
from router.fleet.journal.history import FleetHistory, Marks
from router.fleet.journal.points import Point
from router.fleet.keys import Keys
from router.fleet.leadership import Term
from router.fleet.redis_client import RedisClient
from router.fleet.schema import SCHEMA
from router.fleet.sizes import FleetSizes, Lessons
from router.fleet.tenants import Tenants
from router.http.headers import read_worker_head
from router.jobs.sooner.transport import Transport, WorkersAnswer
from router.scheduling.inbox import Inbox
from router.scheduling.messages import Arrival, Call, Orphan, Rules, RunOver
from router.scheduling.redis_scheduler import RedisScheduler
from tests.support.eventually import eventually
from tests.support.faults import close_at_once
from tests.support.load import post_job, post_jobs
from tests.support.programs import System, Valkey
from tests.support.worker import ScriptedWorker, always, hang

# Part of the transaction that reads the time to live, because an ejection may happen between two calls.
_TIMES_EJECTED = "return redis.call('TYPE', KEYS[1]).ok == 'hash' and redis.call('HGET', KEYS[1], 'times')"
ANSWER = WorkersAnswer("http://a", 1, read_worker_head(200, []), b"{}")
ROOT = Path(__file__).parents[2]
SCRIPTS = {path.relative_to(ROOT): path.read_text() for path in sorted((ROOT / "router").glob("*/lua/*.lua"))}
# How long leases of the calls below last, and how long their jobs wait: longer than a busy machine takes to look.
LEASE_MS, WAIT_MS = 5_000, 60_000


def test_page_shows_the_schema() -> None:
    """The table of docs/redis.md has exactly the schema's rows."""
    page = (ROOT / "docs" / "redis.md").read_text()
    rows = re.findall(r"^\| `(sfr:[^`]+)` \| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert rows == [(key.name, key.type, key.writer, key.holds) for key in SCHEMA]


def test_schema_has_exactly_the_used_keys() -> None:
    """Each key is used in Python through `Keys`, or in a script through its name in capitals."""
    keys = Keys("sfr")
    made = {keys.workers, keys.sidecar, keys.fleet, keys.worker("<url>"), keys.plan, keys.drain}
    made |= {keys.intent, keys.registered, keys.registration("<url>"), keys.leases("<url>"), keys.breaker("<url>")}
    made |= {keys.plan_head, keys.ejected, keys.grants("<process>"), keys.tenants, keys.tenants_intent}
    made |= {keys.events, keys.processes, keys.sizes, keys.speeds, keys.answer("<job>"), keys.process("<id>")}
    made |= {keys.failures, keys.history_hour, keys.history_day, keys.history_mark}
    used = {word for text in SCRIPTS.values() for word in re.findall(r"\b[A-Z_]+\b", code(text))}
    made |= {value for name, value in keys.lua_names().items() if name in used}
    assert {re.sub(r":<\w+>$", ":", key) for key in made - {keys.changes, keys.wishes}} == {
        re.sub(r":<\w+>$", ":", key.name) for key in SCHEMA
    }


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_script_s_header_names_the_keys_that_it_uses(path: Path) -> None:
    """The header also names the arguments, and the script writes out no key itself."""
    header = "".join(re.findall(r"(?:^(?:#!|--).*\n)+", SCRIPTS[path], re.MULTILINE)[:1])
    rows = "".join(re.findall(r"^-- (?:Reads|Writes) (?:.*\n-- {8})*.*\n", header, re.MULTILINE))
    names = Keys("sfr").lua_names().keys()
    told, used = (names & set(re.findall(r"\b[A-Z_]+\b", text)) for text in (rows, code(SCRIPTS[path])))
    assert told == used
    arguments = re.compile(r"(?:KEYS|ARGV)\[\d\]")
    assert set(arguments.findall(header)) - {"KEYS[1]"} == set(arguments.findall(code(SCRIPTS[path])))
    assert "sfr:" not in SCRIPTS[path]


def code(text: str) -> str:
    """Return a script without its comments."""
    return re.sub(r"--.*", "", text)


async def test_live_redis_holds_exactly_the_schema(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """With jobs that run, wait, end and fail, each key exists with its type and time to live."""
    first, second, third = workers
    system.configure(
        [worker.url for worker in workers], default_max_concurrency=1, breaker={"failures": 1}, hedge={"enabled": True}
    )
    async with system.sidecar(), system.router(1) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        held: dict[str, str] = {}
        client = RedisClient(redis, "sfr", timeout_s=5)
        await Intents(client).register(Registration(first.url, ttl_s=60))
        await Intents(client).override(first.url, {"weight": 2})
        await Tenants(client).override("run-7", {"weight": 2})
        await _keep_the_past(client, str(await redis.get("sfr:sidecar")), first.url)
        await eventually(lambda: _is_settled(redis, first.url), what="workers with room, and the wishes in force")
        await _gather(redis, held, set())
        script = RedisScheduler(client, Rules())
        now_ms = (await redis.time())[0] * 1000
        await redis.zadd("sfr:processes", {"somebody": now_ms + 60_000})
        await script(Call("somebody", orphans=(Orphan("1" * 32, 60_000, 1, 7),)))
        await eventually(lambda: _pools_are_seen(redis, script, first.url, held), what="the keys of pools and tenants")
        await redis.zrem("sfr:processes", "somebody")  # its pending jobs go with it
        await redis.hset(f"sfr:worker:{first.url}", mapping={"labels": "", "memory_mb": "", "max_concurrency": 1})
        # A living process that never takes its grants.
        await redis.zadd("sfr:processes", {"other": now_ms + 60_000})
        await redis.zadd("sfr:queue", {"other:1": 0})
        await redis.hset("sfr:waiting", "other:1", f"5000 {now_ms + 60_000} ")
        assert (await post_job(router.url)).status == 200
        first.script = second.script = third.script = always(429)
        waiting = asyncio.create_task(post_job(router.url))
        await eventually(lambda: redis.exists("sfr:rests"), what="a worker without room")
        await _gather(redis, held, set())
        waiting.cancel()
        await asyncio.wait([waiting])
        first.script = second.script = third.script = close_at_once
        await eventually(lambda: _is_refused(router.url), what="a job that breaks workers")
        await _gather(redis, held, set())
        first.script = second.script = hang
        third.script = always(500)
        jobs = asyncio.create_task(post_jobs(router.url, 6, 6))
        try:
            await eventually(lambda: _gather(redis, held, {key.name for key in SCHEMA}), what="every key")
        finally:
            jobs.cancel()
            await asyncio.gather(jobs, return_exceptions=True)
        fields = set(await redis.hkeys(f"sfr:worker:{first.url}"))
    assert held == {key.name: key.type for key in SCHEMA}
    (row,) = [key for key in SCHEMA if key.name == "sfr:worker:<url>"]
    assert fields == set(re.sub(r" \([^)]*\)", "", row.holds).split(", "))


async def _is_settled(redis: Redis, url: str) -> bool:
    """Whether the sidecar has no reason any more to write the worker's record, which the test changes."""
    is_heavy, has_rule = (
        await redis.hget(f"sfr:worker:{url}", "weight") == "2",
        await redis.hexists("sfr:tenants", "run-7"),
    )
    return is_heavy and bool(has_rule) and bool(await redis.exists("sfr:room"))


async def _keep_the_past(client: RedisClient, leader: str, url: str) -> None:
    """Write sizes, an answer and a failed job, as routers do, and the points of a step, as the leading sidecar does."""
    await FleetSizes(client, most=10).learn(Lessons([("a", 5.0, 1)], [(url, 1.0, 1.0, 1)]))
    await Transport(client, Inbox(client, "some process"), "some process").store("some process:1", ANSWER, ttl_s=60)
    await Failures(client).add([(0, FailedJob("a", "run-7", "/run_code", "python", 503, "all_failed"))], now=0)
    token, name = leader.split(" ")
    point = Point(0, 0, 0, 0, None, None, None, None, 0, 0)
    assert await FleetHistory(client).write(Term(int(token), name), Marks(), point, point)


async def _pools_are_seen(redis: Redis, script: RedisScheduler, url: str, held: dict[str, str]) -> bool:
    """Make the keys of pools and tenants; return whether all were seen. The sidecar may undo what the test writes."""
    await _open_pool(redis, script, url)
    await _gather(redis, held, set())
    await _let_tenants_wait(redis, script)
    return await _gather(
        redis, held, {"sfr:reserved", "sfr:aged:<room>", "sfr:order:<line>", "sfr:aging", "sfr:rounds"}
    )


async def _open_pool(redis: Redis, script: RedisScheduler, url: str) -> None:
    """Have a job of a pool come that has tried its only worker, so that this one keeps its room; and keep an answer."""
    await redis.hset(f"sfr:worker:{url}", mapping={"labels": "gpu", "memory_mb": 1000, "max_concurrency": 3})
    await redis.hset("sfr:plan:head", "stale", 1)
    over = (RunOver("hash", 60_000, "answer"),)
    await script(Call("somebody", arrived=(Arrival(99, LEASE_MS, WAIT_MS, 0, (url,), pool="gpu"),), runs_over=over))


async def _let_tenants_wait(redis: Redis, script: RedisScheduler) -> None:
    """Have calls ask for more room than there is, for tenants of different priority, one of which waits for long."""
    await redis.hset("sfr:tenants", "eval", '{"priority":1,"order":"longest_first"}')
    await redis.hset("sfr:plan:head", "stale", 1)
    large = tuple(Arrival(number, LEASE_MS, WAIT_MS, memory_mb=900, tenant="large", pool="gpu") for number in (90, 91))
    await script(Call("somebody", arrived=large))
    tenants = ("run-7", "eval") * 4
    jobs = [Arrival(number, LEASE_MS, WAIT_MS, tenant=name, pool="gpu") for number, name in enumerate(tenants)]
    await script(Call("somebody", arrived=tuple(jobs)))
    impatient = RedisScheduler(RedisClient(redis, "sfr", timeout_s=5), Rules(aging_ms=0))
    jobs = [
        Arrival(number, LEASE_MS, WAIT_MS, tenant=name, pool="gpu") for number, name in ((92, "run-8"), (93, "eval"))
    ]
    await impatient(Call("somebody", arrived=tuple(jobs)))


async def _is_refused(url: str) -> bool:
    async with aiohttp.ClientSession() as session, session.post(f"{url}/run_code", json={"code": "bad"}) as response:
        return response.status == 422


async def _gather(redis: Redis, held: dict[str, str], wanted: set[str]) -> bool:
    """Add to `held` the present keys by their names in the schema; return whether all `wanted` have been seen."""
    await redis.sadd("sfr:drain", "http://nobody")
    for key in await redis.keys("*"):
        async with redis.pipeline(transaction=True) as both:
            both.type(key)
            both.pttl(key)
            both.eval(_TIMES_EJECTED, 1, key)
            kind, lives_ms, times = await both.execute()
        is_passing = lives_ms >= 0
        name = re.sub(r":http://.*", ":<url>", str(key))
        name = re.sub(r":suspect:.*", ":suspect:<job>", re.sub(r":tenant:.*", ":tenant:<name>", name))
        name = re.sub(r":(queue|order):.*", r":\1:<line>", re.sub(r":running:.*", ":running:<tenant>", name))
        name = re.sub(r":(turns|room|aged):.*", r":\1:<room>", name)
        name = re.sub(r":(answer|orphans|reuse):.*", r":\1:<job>", name)
        name = re.sub(r":grants:.*", ":grants:<process>", re.sub(r":process:.*", ":process:<id>", name))
        if name == "sfr:breaker:<url>" and is_passing == (times is None):
            held[name] = "hash with TTL until ejected"
        elif kind != "none":
            held[name] = kind + (" with TTL" if is_passing else "")
    return held.keys() >= wanted
