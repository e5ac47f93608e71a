"""What only the script has: lifetimes of keys, costs, slips with redis-cli, health checks, large fleets."""

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
    """Return the script over a healthy fleet, its memory settled."""
    made = LuaScheduler(redis, Rules(**rules))
    made.set_fleet([Member(worker) for worker in workers])
    made.step(Call("p"), NOW - SETTLE_MS)
    return made


def ask(
    script: LuaScheduler, number: int, *tried: str, process: str = "p", now: int = NOW, bound_ms: int = 60_000
) -> Reply:
    """Let a job arrive that has tried these workers."""
    return script.step(Call(process, arrived=(Arrival(number, bound_ms, 60_000, 0, tried),)), now)


def test_without_a_fleet_nothing_is_done(redis: "Redis") -> None:
    """If no sidecar has written the fleet, the scheduler says so and writes nothing."""
    reply = LuaScheduler(redis, Rules()).step(Call("p", arrived=(Arrival(1, 1000, 1000),), beat=Beat()), NOW)
    assert reply == Reply(has_fleet=False)
    assert redis.dbsize() == 0


def test_heartbeat_is_shown_and_fades(redis: "Redis") -> None:
    """A process' hash has its last heartbeat, its leases and its pending jobs, as long as the process lives."""
    scheduler = script(redis, Worker(ONE))
    scheduler.step(Call("p", beat=Beat(running=2, waiting=3)), NOW)
    assert redis.hgetall("sfr:process:p") == {"heartbeat": str(NOW // 1000), "leases": "2", "waiting": "3"}
    assert 0 < redis.pttl("sfr:process:p") <= PROCESS_TTL_MS


def test_grants_to_a_process_that_dies_fade(redis: "Redis") -> None:
    """No process takes them, so that they would stay for ever."""
    scheduler = script(redis, Worker(ONE, max_concurrency=1))
    scheduler.step(Call("q", beat=Beat()), NOW)
    assert ask(scheduler, 1).granted
    assert ask(scheduler, 1, process="q").queued
    scheduler.step(Call("p", ended=(Ended(ONE, 1, Blame.OK),)), NOW)
    assert redis.llen("sfr:grants:q") == 1
    assert PROCESS_TTL_MS < redis.pttl("sfr:grants:q") <= PROCESS_TTL_MS + CLAIM_WITHIN_MS


def test_failures_fade_and_an_ejection_stays(redis: "Redis") -> None:
    """Failures long ago do not count as a row. An ejection stays known until the worker has done well."""
    scheduler = script(redis, Worker(ONE), Worker(OTHER), failures=2)
    for number, lifetime_ms in ((1, 2 * scheduler.rules.max_ms), (2, -1)):
        scheduler.step(Call("p", ended=(Ended(ONE, number, Blame.FAULT),)), NOW)
        left_ms = redis.pttl(f"sfr:breaker:{ONE}")
        assert left_ms == -1 if lifetime_ms == -1 else lifetime_ms / 2 < left_ms <= lifetime_ms


def test_other_strategy_finds_its_own_order(redis: "Redis") -> None:
    """Processes of an old and a new configuration share one Redis: each call's strategy decides."""
    by_turn = script(redis, Worker(ONE), Worker(OTHER))
    first, second = (ask(by_turn, number).granted[0] for number in (1, 2))
    assert {first.url, second.url} == {ONE, OTHER}
    by_turn.step(Call("p", ended=(Ended(first.url, first.number, Blame.OK),)), NOW)
    by_load = LuaScheduler(redis, Rules(strategy=Strategy.LEAST_LOADED))
    assert ask(by_load, 3).granted[0].url == first.url


def test_change_of_the_fleet_costs_one_plan(redis: "Redis") -> None:
    """The first process that sends a new print has the plan made anew; the others that send the same do not."""
    scheduler = script(redis, Worker(ONE))
    scheduler.step(Call("p"), NOW)
    assert [plans(redis, scheduler, Call(process, fleet_print="new"), NOW) for process in ("p", "q", "r")] == [1, 0, 0]


def test_trial_that_opens_costs_one_plan(redis: "Redis") -> None:
    """Further calls make no new plan while no job has come for the trial."""
    scheduler = script(redis, Worker(ONE), Worker(OTHER), failures=1, base_ms=1000)
    scheduler.step(Call("p"), NOW)
    fault = Call("p", ended=(Ended(ONE, 9, Blame.FAULT),))
    asked = ((fault, NOW), (Call("p"), NOW + 999), (Call("p"), NOW + 1000), (Call("p"), NOW + 1001))
    assert [plans(redis, scheduler, call, moment) for call, moment in asked] == [1, 0, 1, 0]


def plans(redis: "Redis", scheduler: LuaScheduler, call: Call, now: int) -> int:
    """Return how often this call makes the plan anew."""
    redis.config_resetstat()
    scheduler.step(call, now)
    return int(redis.info("commandstats").get("cmdstat_smembers", {"calls": 0})["calls"]) // 2  # fleet, and who drains


def test_head_tells_how_many_rest(redis: "Redis") -> None:
    """And how many are out of reach, also after a new plan. With a count too high each call would look for rests."""
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
    """Return whether a health check gets a lease on this worker; else it must be refused."""
    reply = scheduler.step(Call("sidecar", checks=(Check(number, url, 60_000),)), NOW)
    granted = [(grant.number, grant.url) for grant in reply.granted]
    assert (granted, reply.refused) in (([(number, url)], ()), ([], (number,)))
    return bool(granted)


def test_check_gets_its_worker_if_that_has_room(redis: "Redis") -> None:
    """Also one that gets no jobs; but none that is full, turns jobs away, or is ejected."""
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
def test_one_worker_of_many_that_a_job_has_not_tried_is_found(redis: "Redis", strategy: Strategy) -> None:
    """However many tried workers come before it, and wherever the search begins."""
    workers = [Worker(f"http://w{number:02}") for number in range(20)]
    scheduler = script(redis, *workers, strategy=strategy)
    tried = [worker.url for worker in workers[:-1]]
    for number in range(1, 21):
        (grant,) = ask(scheduler, number, *tried).granted
        assert grant.url == workers[-1].url
        scheduler.step(Call("p", ended=(Ended(grant.url, number, Blame.OK),)), NOW)


@pytest.mark.parametrize("word", ["NaN", "1e400", "inf", "-1", "0", "0.5", "1e9", "0x10", "heavy", "9" * 400, ""])
def test_weight_and_cap_that_are_no_numbers_stop_no_job(redis: "Redis", word: str) -> None:
    """A ring of 10^9 places would stop Redis; a cap of -1 would mean a trial, and one of NaN a full worker."""
    scheduler = script(redis, Worker(ONE))
    redis.hset(f"sfr:worker:{ONE}", mapping={"weight": word, "max_concurrency": word})
    redis.hset("sfr:plan:head", "stale", "1")
    assert [grant.url for grant in ask(scheduler, 1).granted] == [ONE]
    assert redis.hget("sfr:plan", ONE) == "0 1 0"


def test_largest_weight_and_cap_stand(redis: "Redis") -> None:
    """config.yaml allows them."""
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


def test_keys_of_breakdowns_pass(redis: "Redis") -> None:
    """No key stays for ever because a connection died once."""
    scheduler = script(redis, Worker(ONE))
    assert ask(scheduler, 1).granted
    scheduler.step(Call("p", ended=(Ended(ONE, 1, Blame.DIED, job="bad"),)), NOW)
    for key in (f"sfr:broken:{ONE}", "sfr:deaths"):
        assert 0 < redis.pttl(key) <= BROKEN_WITHIN_MS
    assert 0 < redis.pttl("sfr:suspect:bad") <= scheduler.rules.quarantine_ms


def test_conviction_is_announced_once_and_passes(redis: "Redis") -> None:
    """At once, so that each process refuses the job. When the quarantine is over, nothing is left of it."""
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
    """After `DEL sfr:rests` no worker counts as out of reach."""
    scheduler = script(redis, Worker(ONE))
    assert scheduler.step(Call("p", ended=(Ended(ONE, 9, Blame.AWAY),)), NOW).away == 1
    redis.delete("sfr:rests")
    assert scheduler.step(Call("p"), NOW).away == 0


def test_jobs_that_are_over_leave_nothing_behind(redis: "Redis") -> None:
    """Neither in the queue nor in the index of leases, whether they had a lease or were given up."""
    scheduler = script(redis, Worker(ONE, max_concurrency=1))
    for number in (1, 2, 3):
        ask(scheduler, number, bound_ms=1000)
    scheduler.step(Call("p", left=(3,)), NOW)
    for moment in (NOW + 1000, NOW + 2000):
        scheduler.step(Call("p"), moment)
    assert redis.exists("sfr:queue", "sfr:waiting", "sfr:lapse", f"sfr:leases:{ONE}") == 0


def test_trial_of_a_full_worker_is_put_off_and_says_until_when(redis: "Redis") -> None:
    """Until the first lease there has passed; in seconds, for people."""
    scheduler = script(redis, Worker(ONE, max_concurrency=1), Worker(OTHER), failures=1, base_ms=1000)
    assert ask(scheduler, 1, OTHER, bound_ms=5000).granted
    scheduler.step(Call("p", ended=(Ended(ONE, 9, Blame.FAULT),)), NOW)
    scheduler.step(Call("p"), NOW + 1000)
    assert redis.hget(f"sfr:breaker:{ONE}", "ejected_until") == f"{(NOW + 5000) / 1000:.3f}"


def test_worker_that_leaves_leaves_nothing_behind(redis: "Redis") -> None:
    """Neither the time of its last good job, nor its ejection."""
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
def test_ring_is_no_longer_than_its_weights_make_it(redis: "Redis", weights: tuple[int, ...], length: int) -> None:
    """Weights are divided by their common divisor."""
    script(redis, *(Worker(f"http://w{place}", weight=weight) for place, weight in enumerate(weights)))
    assert redis.hget("sfr:plan:head", "ring") == str(length)


def test_trial_that_finds_its_worker_busy_is_put_off_and_says_until_when(redis: "Redis") -> None:
    """In seconds, for people. Until then the worker gets no other trial."""
    scheduler = script(redis, Worker(ONE), Worker(OTHER), failures=1, base_ms=1000)
    scheduler.step(Call("p", ended=(Ended(ONE, 9, Blame.FAULT),)), NOW)
    assert redis.hget(f"sfr:breaker:{ONE}", "ejected_until") == f"{(NOW + 1000) / 1000:.3f}"
    (trial,) = ask(scheduler, 1, OTHER, now=NOW + 1000).granted
    scheduler.step(Call("p", ended=(Ended(ONE, trial.number, Blame.BUSY),)), NOW + 1100)
    assert redis.hget(f"sfr:breaker:{ONE}", "ejected_until") == f"{(NOW + 1100 + REST_MAX_MS) / 1000:.3f}"
    assert redis.zscore("sfr:ejected", ONE) == NOW + 1100 + REST_MAX_MS
    assert ask(scheduler, 2, OTHER, now=NOW + 1100 + REST_MAX_MS - 1).queued
    assert scheduler.step(Call("p"), NOW + 1100 + REST_MAX_MS).granted[0].url == ONE
