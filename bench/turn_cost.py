"""What whose turn it is costs: Redis' CPU for a job over tenants and pools, by calls of one shape, one after another.

With room for all, and with all slots taken. Each call ends some jobs and lets as many come, as a busy router's calls
do. bench.lease_cost has real processes; here nothing but the script's own work differs between two rows.

`python -m bench.turn_cost [ROUNDS]`
"""

import asyncio
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from redis import Redis

from bench.support.fleet import urls
from bench.support.report import show
from router.fleet.keys import Keys
from router.policy.verdict import Blame
from router.scheduling.messages import SETTLE_MS, Arrival, Beat, Call, Ended, Grant, Reply, Rules
from router.scheduling.redis_scheduler import script_text
from tests.support import last_release
from tests.support.programs import Valkey

DEFAULT_ROUNDS = 3
WORKERS = 96
# A heartbeat of a process comes twice a second, which is after so many of a busy router's calls.
BEAT_EVERY = 50
JOBS_A_CALL = 16
JOBS, WARM_UP_JOBS = 12_000, 2000
# No job waits or runs too long for the benchmark.
LONG_MS = 10**9
WAITING = 2000
RULES = Rules(max_waiting=10**6)


@dataclass(frozen=True)
class Load:
    """Whose jobs they are, and for how many pools: each worker is in one of them. No tenant: all are of `default`.

    `is_before`: the script is that of the last release, which knows neither.
    """

    is_full: bool
    tenants: int
    pools: int
    is_before: bool = False

    def arrival(self, number: int) -> Arrival:
        """Return the job of this number."""
        tenant = f"run-{number % self.tenants}" if self.tenants else ""
        pool = f"kind-{number // max(1, self.tenants) % self.pools}" if self.pools > 1 else ""
        return Arrival(number, LONG_MS, LONG_MS, tenant=tenant, pool=pool)


LOADS = [
    Load(is_full, *rest)
    for is_full in (False, True)
    for rest in ((0, 1, True), (0, 1), (1, 1), (100, 1), (1000, 1), (1, 16), (100, 16))
]


class Caller:
    """One process that calls the script."""

    def __init__(self, redis: Redis, load: Load) -> None:
        self._redis = redis
        self._load = load
        self._script = redis.register_script(last_release.SCHEDULER if load.is_before else script_text(Keys("sfr")))
        self._numbers = count(1)
        self._running: list[Grant] = []
        redis.flushall()
        cap = 1 if load.is_full else 2 * JOBS_A_CALL
        for place, url in enumerate(urls(WORKERS)):
            redis.sadd("sfr:workers", url)
            fields: dict[Any, Any] = {
                "health": "healthy",
                "max_concurrency": cap,
                "labels": f"kind-{place % load.pools}",
            }
            redis.hset(f"sfr:worker:{url}", mapping=fields)
        redis.hset("sfr:fleet", "written_at", "now")
        self._now = 1_000_000
        self._call(Call("p", beat=Beat()))
        self._now += SETTLE_MS
        self._call(Call("p", beat=Beat(), arrived=self._arrived(WORKERS + WAITING if load.is_full else JOBS_A_CALL)))

    def turn_over(self, jobs: int) -> None:
        """Let so many jobs end and as many come."""
        for step in range(jobs // JOBS_A_CALL):
            over, self._running = self._running[:JOBS_A_CALL], self._running[JOBS_A_CALL:]
            ended = tuple(Ended(grant.url, grant.number, Blame.OK, tenant=grant.tenant) for grant in over)
            beat = None if step % BEAT_EVERY else Beat()
            self._call(Call("p", ended=ended, arrived=self._arrived(JOBS_A_CALL), beat=beat))

    def _arrived(self, jobs: int) -> tuple[Arrival, ...]:
        return tuple(self._load.arrival(next(self._numbers)) for _ in range(jobs))

    def _call(self, call: Call) -> None:
        self._now += 1
        args: list[Any] = [msgspec.json.encode(call), msgspec.json.encode(RULES), self._now]
        self._running += msgspec.json.decode(self._script(keys=["sfr:plan"], args=args), type=Reply).granted


def cpu_us_a_job(redis: Redis, load: Load) -> float:
    """Return what Redis spends on one job of this load."""
    caller = Caller(redis, load)
    caller.turn_over(WARM_UP_JOBS)
    before = _cpu_s(redis)
    caller.turn_over(JOBS)
    return (_cpu_s(redis) - before) / JOBS * 1e6


def _cpu_s(redis: Redis) -> float:
    cpu = redis.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


def show_costs(costs: Sequence[Sequence[float]]) -> None:
    """Print medians."""
    rows = [
        ["all slots taken" if load.is_full else "room for all", _whose(load), load.pools, median]
        for load, median in zip(LOADS, map(statistics.median, costs), strict=True)
    ]
    show(["Redis", "tenants", "pools", "CPU µs/job"], rows)


def _whose(load: Load) -> int | str:
    return "last release" if load.is_before else load.tenants or "none named"


async def main(rounds: int) -> None:
    """Measure all loads in turn in each round."""
    with TemporaryDirectory() as folder:
        async with Valkey(Path(folder)) as valkey:
            redis = Redis.from_url(valkey.url, decode_responses=True)
            rows = [[cpu_us_a_job(redis, load) for load in LOADS] for _ in range(rounds)]
            redis.close()
    show_costs(list(zip(*rows, strict=True)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS))
