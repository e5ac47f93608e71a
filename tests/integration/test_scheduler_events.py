"""What the scheduler's script writes into the journal: each decision of the breaker and the quarantine, each once."""

import json
from typing import Any

from redis import Redis

from router.fleet.model import Health, Member, Worker
from router.policy.verdict import Blame
from router.scheduling.messages import PROCESS_TTL_MS, SETTLE_MS, Arrival, Beat, Call, Ended, Rules
from tests.support.lua_scheduler import START, LuaScheduler

A, B = "http://a", "http://b"
RULES = Rules(failures=2, base_ms=1000, max_ejected_percent=100)


def script(redis: Redis) -> LuaScheduler:
    """Return the settled script over two workers."""
    made = LuaScheduler(redis, RULES)
    made.set_fleet([Member(Worker(A, max_concurrency=8)), Member(Worker(B, max_concurrency=8))])
    made.step(Call("p"), START - SETTLE_MS)
    return made


def fail(scheduler: LuaScheduler, number: int, url: str, blame: Blame, now: int, **fields: Any) -> None:
    """Let an attempt end under the lease `number` on this worker."""
    scheduler.redis.zadd(f"sfr:leases:{url}", {f"p:{number}": now + 60_000})
    scheduler.step(Call("p", ended=(Ended(url, number, blame, cause="timed out", **fields),)), now)


def events(redis: Redis) -> list[dict[str, str]]:
    """Return all events, the oldest first."""
    entries: Any = redis.xrange("sfr:events")
    return [fields for _, fields in entries]


def test_ejection_and_return_are_told_once(redis: Redis) -> None:
    """The event has the cause, for how long, and the process whose call decided; a further failure adds none."""
    scheduler = script(redis)
    for number in range(3):
        fail(scheduler, number, A, Blame.FAULT, START)
    (ejected,) = events(redis)
    assert (ejected["kind"], ejected["subject"], ejected["by"]) == ("worker_ejected", A, "p")
    assert ejected["text"].endswith("it gets no jobs for 1 s, after 2 failed jobs in a row, the last: timed out")
    assert json.loads(ejected["more"])["until_unix_s"] == (START + 1000) / 1000
    later = START + 1000
    trial = None
    for number in range(10, 20):
        reply = scheduler.step(Call("p", arrived=(Arrival(number, 9000, 9000),)), later)
        trial = next((grant for grant in reply.granted if grant.url == A), trial)
    assert trial is not None
    scheduler.step(Call("p", ended=(Ended(A, trial.number, Blame.OK),)), later)
    assert [event["kind"] for event in events(redis)] == ["worker_ejected", "worker_returned"]


def test_failed_trial_is_told_as_one(redis: Redis) -> None:
    """The next ejection is longer, and the event says that the trial failed."""
    scheduler = script(redis)
    for number in range(2):
        fail(scheduler, number, A, Blame.FAULT, START)
    redis.hset(f"sfr:breaker:{A}", "trial", "p:7")
    fail(scheduler, 7, A, Blame.FAULT, START + 1000)
    assert events(redis)[-1]["text"].endswith("it gets no jobs for 2 s, after a failed trial job: timed out")


def test_ejected_worker_that_fails_its_checks_returns_by_them(redis: Redis) -> None:
    """The end of its ejection is told, too."""
    scheduler = script(redis)
    for number in range(2):
        fail(scheduler, number, A, Blame.FAULT, START)
    scheduler.set_fleet([Member(Worker(A), Health.UNHEALTHY), Member(Worker(B))])
    scheduler.step(Call("p"), START)
    assert "it is unhealthy by now" in events(redis)[-1]["text"]


def test_quarantine_is_told_with_tenant_and_workers(redis: Redis) -> None:
    """A job that breaks two workers is told once, however often it is tried after that."""
    scheduler = script(redis)
    for number, url in ((1, A), (2, B), (3, B)):
        now = START + 10_000 * number
        name = f"p:{number} run-7 0"
        redis.zadd(f"sfr:leases:{url}", {name: now + 60_000})
        death = Ended(url, number, Blame.DIED, job="poison", cause="closed", ms=100, tenant="run-7")
        scheduler.step(Call("p", ended=(death,)), now)
    (told,) = [event for event in events(redis) if event["kind"] == "job_quarantined"]
    assert told["subject"] == "run-7"
    assert json.loads(told["more"])["workers"] == [A, B]
    assert f"broke down while they ran it: {A}, {B}" in told["text"]


def test_process_without_a_heartbeat_is_told_once(redis: Redis) -> None:
    """The first other process that has a heartbeat after that tells it."""
    scheduler = script(redis)
    for process, at in (("lost", 0), ("p", 1), ("p", PROCESS_TTL_MS), ("q", PROCESS_TTL_MS)):
        scheduler.step(Call(process, beat=Beat()), START + at)
    assert [(event["kind"], event["subject"]) for event in events(redis)] == [("router_silent", "lost")]


def test_no_process_is_told_as_silent_after_an_outage(redis: Redis) -> None:
    """If Redis was away, no heartbeats came: the first process that is back tells nothing of the others."""
    scheduler = script(redis)
    for process, at in (("p", 0), ("q", 0), ("p", PROCESS_TTL_MS), ("q", PROCESS_TTL_MS)):
        scheduler.step(Call(process, beat=Beat()), START + at)
    assert events(redis) == []
    assert set(redis.zrange("sfr:processes", 0, -1)) == {"p", "q"}


def test_unusable_journal_harms_no_call(redis: Redis) -> None:
    """If redis-cli has made the journal another type, workers are ejected as ever."""
    scheduler = script(redis)
    redis.set("sfr:events", "x")
    for number in range(2):
        fail(scheduler, number, A, Blame.FAULT, START)
    assert redis.zscore("sfr:ejected", A)
