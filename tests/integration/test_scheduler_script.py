"""What only the script has: lifetimes of keys, costs, mistakes with redis-cli, health checks, large fleets."""

from typing import Any

import pytest
from redis import Redis

from router.config.bounds import MAX_COUNT, MAX_WEIGHT
from router.fleet.model import Health, Member, Worker
from router.policy.strategy import Strategy
from router.policy.verdict import Blame
from router.scheduling.messages import (
    BROKEN_WITHIN_MS,
    CLAIM_WITHIN_MS,
    PROCESS_TTL_MS,
    REST_MAX_MS,
    SETTLE_MS,
    SILENCE_MS,
    Arrival,
    Beat,
    Call,
    Check,
    Ended,
    Reply,
    Rules,
)
from tests.support.lua_scheduler import LuaScheduler

ONE, OTHER = "http://one", "http://other"
NOW = 1_000_000


def script(redis: "Redis", *workers: Worker, **rules: Any) -> LuaScheduler:
    """Return the settled script over a healthy fleet."""
    made = LuaScheduler(redis, Rules(**rules))
    made.set_fleet([Member(worker) for worker in workers])
    made.step(Call("p"), NOW - SETTLE_MS)
    return made


def ask(
    script: LuaScheduler, number: int, *tried: str, process: str = "p", now: int = NOW, bound_ms: int = 60_000
) -> Reply:
    """Let a job arrive that has tried the workers `tried`."""
    return script.step(Call(process, arrived=(Arrival(number, bound_ms, 60_000, 0, tried),)), now)


def test_without_a_fleet_nothing_is_done(redis: "Redis") -> None:
    """If no sidecar has written the fleet, the reply says so and nothing is written."""
    reply = LuaScheduler(redis, Rules()).step(Call("p", arrived=(Arrival(1, 1000, 1000),), beat=Beat()), NOW)
    assert reply == Reply(has_fleet=False)
    assert redis.dbsize() == 0


def test_heartbeat_is_shown_and_expires(redis: "Redis") -> None:
    """A process' hash has its last heartbeat, leases and pending jobs as long as the process lives."""
    scheduler = script(redis, Worker(ONE))
    scheduler.step(Call("p", beat=Beat(running=2, waiting=3)), NOW)
    assert redis.hgetall("sfr:process:p") == {
        "heartbeat": str(NOW // 1000),
        "leases": "2",
        "waiting": "3",
        "notes": "1",
    }
    assert 0 < redis.pttl("sfr:process:p") <= PROCESS_TTL_MS


def test_grants_to_a_dead_process_expire(redis: "Redis") -> None:
    """Grants that no process takes do not stay for ever."""
    scheduler = script(redis, Worker(ONE, max_concurrency=1))
    scheduler.step(Call("q", beat=Beat()), NOW)
    assert ask(scheduler, 1).granted
    assert ask(scheduler, 1, process="q").queued
    scheduler.step(Call("p", ended=(Ended(ONE, 1, Blame.OK),)), NOW)
    assert redis.llen("sfr:grants:q") == 1
    assert PROCESS_TTL_MS < redis.pttl("sfr:grants:q") <= PROCESS_TTL_MS + CLAIM_WITHIN_MS


def test_failures_expire_and_an_ejection_stays(redis: "Redis") -> None:
    """Old failures stop counting as a row, but an ejection stays until the worker has done well."""
    scheduler = script(redis, Worker(ONE), Worker(OTHER), failures=2)
    for number, lifetime_ms in ((1, 2 * scheduler.rules.max_ms), (2, -1)):
        scheduler.step(Call("p", ended=(Ended(ONE, number, Blame.FAULT),)), NOW)
        left_ms = redis.pttl(f"sfr:breaker:{ONE}")
        assert left_ms == -1 if lifetime_ms == -1 else lifetime_ms / 2 < left_ms <= lifetime_ms


def test_each_call_uses_its_own_strategy(redis: "Redis") -> None:
    """Processes with an old and a new configuration can share one Redis."""
    by_turn = script(redis, Worker(ONE), Worker(OTHER))
    first, second = (ask(by_turn, number).granted[0] for number in (1, 2))
    assert {first.url, second.url} == {ONE, OTHER}
    by_turn.step(Call("p", ended=(Ended(first.url, first.number, Blame.OK),)), NOW)
    by_load = LuaScheduler(redis, Rules(strategy=Strategy.LEAST_LOADED))
    assert ask(by_load, 3).granted[0].url == first.url


def test_change_of_the_fleet_costs_one_plan(redis: "Redis") -> None:
    """The first process with a new fingerprint of the fleet causes a plan; others with the same one do not."""
    scheduler = script(redis, Worker(ONE))
    scheduler.step(Call("p"), NOW)
    assert [plans(redis, scheduler, Call(process, fleet_print="new"), NOW) for process in ("p", "q", "r")] == [1, 0, 0]


def test_trial_that_opens_costs_one_plan(redis: "Redis") -> None:
    """While no job has arrived for the trial, further calls make no new plan."""
    scheduler = script(redis, Worker(ONE), Worker(OTHER), failures=1, base_ms=1000)
    scheduler.step(Call("p"), NOW)
    fault = Call("p", ended=(Ended(ONE, 9, Blame.FAULT),))
    asked = ((fault, NOW), (Call("p"), NOW + 999), (Call("p"), NOW + 1000), (Call("p"), NOW + 1001))
    assert [plans(redis, scheduler, call, moment) for call, moment in asked] == [1, 0, 1, 0]


def plans(redis: "Redis", scheduler: LuaScheduler, call: Call, now: int) -> int:
    """Return how often this call makes a new plan."""
    redis.config_resetstat()
    scheduler.step(call, now)
    return int(redis.info("commandstats").get("cmdstat_smembers", {"calls": 0})["calls"]) // 2  # workers and drain


def test_plan_head_counts_resting_workers(redis: "Redis") -> None:
    """The counts of resting and unreachable workers stay right, because a count too high makes each call search."""
    scheduler = script(redis, Worker(ONE), Worker(OTHER))
    for number, url, blame in ((9, ONE, Blame.AWAY), (8, OTHER, Blame.BUSY), (7, OTHER, Blame.AWAY)):
        scheduler.step(Call("p", ended=(Ended(url, number, blame),)), NOW)
        now_away = 1 + (number == 7)
        assert redis.hmget("sfr:plan:head", "resting", "away") == [str(2 - (number == 9)), str(now_away)]
    scheduler.step(Call("p", fleet_print="new"), NOW)
    assert redis.hmget("sfr:plan:head", "resting", "away") == ["2", "2"]
    scheduler.set_fleet([Member(Worker(OTHER))])
    scheduler.step(Call("p"), NOW)
    assert redis.hmget("sfr:plan:head", "resting", "away") == ["1", "1"]
    for moment in (NOW + REST_MAX_MS, NOW + 2 * SILENCE_MS + REST_MAX_MS):
        scheduler.step(Call("p"), moment)
    assert redis.hmget("sfr:plan:head", "resting", "away") == ["0", "0"]


def checked(scheduler: LuaScheduler, url: str, number: int = 50) -> bool:
    """Return whether a health check gets a lease on this worker; otherwise it must be refused."""
    reply = scheduler.step(Call("sidecar", checks=(Check(number, url, 60_000),)), NOW)
    granted = [(grant.number, grant.url) for grant in reply.granted]
    assert (granted, reply.refused) in (([(number, url)], ()), ([], (number,)))
    return bool(granted)


def test_check_gets_a_lease_on_a_worker_with_room(redis: "Redis") -> None:
    """A check may also use an unhealthy worker, but none that is full, turns jobs away or is ejected."""
    scheduler = script(redis, Worker(ONE, max_concurrency=1), Worker(OTHER), Worker("http://ill"), failures=1)
    scheduler.set_fleet(
        [Member(Worker(ONE, max_concurrency=1)), Member(Worker(OTHER)), Member(Worker("http://ill"), Health.UNHEALTHY)]
    )
    assert checked(scheduler, "http://ill")
    assert checked(scheduler, ONE)
    assert not checked(scheduler, ONE, 51)
    assert checked(scheduler, OTHER)
    assert checked(scheduler, OTHER, 52)
    scheduler.step(Call("p", ended=(Ended(OTHER, 9, Blame.BUSY),)), NOW)
    assert not checked(scheduler, OTHER)
    scheduler.step(Call("sidecar", ended=(Ended(ONE, 50, Blame.NONE),)), NOW)
    scheduler.step(Call("p", ended=(Ended(ONE, 9, Blame.FAULT),)), NOW)
    assert not checked(scheduler, ONE)


@pytest.mark.parametrize("strategy", list(Strategy))
def test_only_untried_worker_of_many_is_found(redis: "Redis", strategy: Strategy) -> None:
    """The only worker that a job has not tried is found, wherever the search starts."""
    workers = [Worker(f"http://w{number:02}") for number in range(20)]
    scheduler = script(redis, *workers, strategy=strategy)
    tried = [worker.url for worker in workers[:-1]]
    for number in range(1, 21):
        (grant,) = ask(scheduler, number, *tried).granted
        assert grant.url == workers[-1].url
        scheduler.step(Call("p", ended=(Ended(grant.url, number, Blame.OK),)), NOW)


@pytest.mark.parametrize("word", ["NaN", "1e400", "inf", "-1", "0", "0.5", "1e9", "0x10", "heavy", "9" * 400, ""])
def test_invalid_weight_and_cap_stop_no_job(redis: "Redis", word: str) -> None:
    """Unchecked, a huge weight would stop Redis, a cap of -1 mean a trial, and one of NaN a full worker."""
    scheduler = script(redis, Worker(ONE))
    redis.hset(f"sfr:worker:{ONE}", mapping={"weight": word, "max_concurrency": word})
    redis.hset("sfr:plan:head", "stale", "1")
    assert [grant.url for grant in ask(scheduler, 1).granted] == [ONE]
    assert redis.hget("sfr:plan", ONE) == "0 1 0"


def test_largest_weight_and_cap_are_kept(redis: "Redis") -> None:
    """The largest values that config.yaml allows are not treated as mistakes."""
    scheduler = script(redis, Worker(ONE, MAX_WEIGHT, MAX_COUNT))
    assert ask(scheduler, 1).granted
    assert redis.hget("sfr:plan", ONE) == f"{MAX_COUNT} {MAX_WEIGHT} 0"


def test_worker_of_another_type_stops_no_job(redis: "Redis") -> None:
    """`SET sfr:worker:http://one x` hides one worker, and jobs go to the other."""
    scheduler = script(redis, Worker(ONE), Worker(OTHER))
    redis.set(f"sfr:worker:{ONE}", "x")
    redis.hset("sfr:plan:head", "stale", "1")
    assert [grant.url for grant in ask(scheduler, 1).granted] == [OTHER]


def test_drain_of_another_type_stops_no_job(redis: "Redis") -> None:
    """`SET sfr:drain http://one` drains no worker, and jobs still get leases."""
    scheduler = script(redis, Worker(ONE))
    redis.delete("sfr:drain")
    redis.set("sfr:drain", ONE)
    redis.hset("sfr:plan:head", "stale", "1")
    assert [grant.url for grant in ask(scheduler, 1).granted] == [ONE]


def test_keys_of_breakdowns_expire(redis: "Redis") -> None:
    """No key stays for ever because a connection died once."""
    scheduler = script(redis, Worker(ONE))
    assert ask(scheduler, 1).granted
    scheduler.step(Call("p", ended=(Ended(ONE, 1, Blame.DIED, job="bad"),)), NOW)
    for key in (f"sfr:broken:{ONE}", "sfr:deaths"):
        assert 0 < redis.pttl(key) <= BROKEN_WITHIN_MS
    assert 0 < redis.pttl("sfr:suspect:bad") <= scheduler.rules.quarantine_ms


def test_conviction_is_announced_once_and_expires(redis: "Redis") -> None:
    """Each process hears at once which job to refuse, and nothing is left when the quarantine is over."""
    scheduler = script(redis, Worker(ONE), Worker(OTHER), quarantine_ms=5000)
    with redis.pubsub(ignore_subscribe_messages=True) as news:  # type: ignore[no-untyped-call]
        news.subscribe("sfr:changes")
        for url in (ONE, OTHER, OTHER):
            scheduler.step(Call("p", ended=(Ended(url, 9, Blame.DIED, job="bad"),)), NOW)
            redis.publish("sfr:changes", url)
        redis.publish("sfr:changes", "end")
        heard = []
        while "end" not in heard:
            if message := news.get_message(timeout=None):
                heard.append(message["data"])
    assert heard == [ONE, "quarantine", OTHER, OTHER, "end"]
    for moment, is_left in ((NOW + 4999, True), (NOW + 5000, False)):
        scheduler.step(Call("p", beat=Beat()), moment)
        assert redis.exists("sfr:quarantine") == is_left


def test_operator_who_deletes_the_rests_ends_them(redis: "Redis") -> None:
    """After `DEL sfr:rests` no worker counts as unreachable."""
    scheduler = script(redis, Worker(ONE))
    assert scheduler.step(Call("p", ended=(Ended(ONE, 9, Blame.AWAY),)), NOW).away == 1
    redis.delete("sfr:rests")
    assert scheduler.step(Call("p"), NOW).away == 0


def test_ended_jobs_leave_no_key(redis: "Redis") -> None:
    """Neither the queue nor the index of leases keeps a job that had a lease or was given up."""
    scheduler = script(redis, Worker(ONE, max_concurrency=1))
    for number in (1, 2, 3):
        ask(scheduler, number, bound_ms=1000)
    scheduler.step(Call("p", left=(3,)), NOW)
    for moment in (NOW + 1000, NOW + 2000):
        scheduler.step(Call("p"), moment)
    assert redis.exists("sfr:queue", "sfr:waiting", "sfr:lapse", f"sfr:leases:{ONE}") == 0


def test_postponed_trial_of_a_full_worker_shows_its_time(redis: "Redis") -> None:
    """`ejected_until` shows, in seconds, when the first lease there expires."""
    scheduler = script(redis, Worker(ONE, max_concurrency=1), Worker(OTHER), failures=1, base_ms=1000)
    assert ask(scheduler, 1, OTHER, bound_ms=5000).granted
    scheduler.step(Call("p", ended=(Ended(ONE, 9, Blame.FAULT),)), NOW)
    scheduler.step(Call("p"), NOW + 1000)
    assert redis.hget(f"sfr:breaker:{ONE}", "ejected_until") == f"{(NOW + 5000) / 1000:.3f}"


def test_removed_worker_leaves_no_key(redis: "Redis") -> None:
    """A removed worker keeps neither the time of its last good job nor its ejection."""
    workers = [Worker(ONE), Worker(OTHER), Worker("http://third")]
    scheduler = script(redis, *workers, failures=1)
    for moment, worker in enumerate(workers):
        scheduler.step(Call("p", ended=(Ended(worker.url, 8, Blame.OK),)), NOW + moment)
    scheduler.step(Call("p", ended=(Ended(ONE, 7, Blame.FAULT),)), NOW)
    assert redis.zrange("sfr:finished", 0, -1) == [worker.url for worker in workers]
    scheduler.set_fleet([Member(Worker(OTHER))])
    scheduler.step(Call("p", fleet_print="new"), NOW)
    assert redis.zrange("sfr:finished", 0, -1) == [OTHER]
    assert redis.exists("sfr:ejected", f"sfr:breaker:{ONE}") == 0


@pytest.mark.parametrize(("weights", "length"), [((100, 100), 2), ((2, 4), 3), ((3, 3, 6), 4), ((1, 100), 101)])
def test_ring_is_as_short_as_possible(redis: "Redis", weights: tuple[int, ...], length: int) -> None:
    """Weights are divided by their greatest common divisor."""
    script(redis, *(Worker(f"http://w{place}", weight=weight) for place, weight in enumerate(weights)))
    assert redis.hget("sfr:plan:head", "ring") == str(length)


def test_postponed_trial_of_a_busy_worker_shows_its_time(redis: "Redis") -> None:
    """`ejected_until` shows the postponed end in seconds, and until then the worker gets no other trial."""
    scheduler = script(redis, Worker(ONE), Worker(OTHER), failures=1, base_ms=1000)
    scheduler.step(Call("p", ended=(Ended(ONE, 9, Blame.FAULT),)), NOW)
    assert redis.hget(f"sfr:breaker:{ONE}", "ejected_until") == f"{(NOW + 1000) / 1000:.3f}"
    (trial,) = ask(scheduler, 1, OTHER, now=NOW + 1000).granted
    scheduler.step(Call("p", ended=(Ended(ONE, trial.number, Blame.BUSY),)), NOW + 1100)
    assert redis.hget(f"sfr:breaker:{ONE}", "ejected_until") == f"{(NOW + 1100 + REST_MAX_MS) / 1000:.3f}"
    assert redis.zscore("sfr:ejected", ONE) == NOW + 1100 + REST_MAX_MS
    assert ask(scheduler, 2, OTHER, now=NOW + 1100 + REST_MAX_MS - 1).queued
    assert scheduler.step(Call("p"), NOW + 1100 + REST_MAX_MS).granted[0].url == ONE
