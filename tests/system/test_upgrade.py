"""A rolling upgrade: for a while, routers of the last release and of this one share a Redis, a queue and a fleet."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from router.policy.tenants import DEFAULT
from tests.support.eventually import eventually
from tests.support.last_release.router import LastReleaseRouter
from tests.support.load import post_jobs
from tests.support.programs import Router, System, Valkey
from tests.support.worker import ScriptedWorker, always, takes

CAPS = (1, 2, 4)


@dataclass
class Mixed:
    """A fleet with caps of 1, 2 and 4, before it a host of this release and two processes of the last one."""

    new: Router
    old: list[LastReleaseRouter]
    redis: Redis

    async def run(self, each: int, tenant: str = DEFAULT) -> list[int]:
        """Run so many jobs for each process of both releases, with far more at once than there are slots.

        The jobs of this release are those of `tenant`.
        """
        new = asyncio.create_task(post_jobs(f"{self.new.url}/t/{tenant}", 2 * each, 40))
        old = await asyncio.gather(*(process.run(each, 20) for process in self.old))
        return [answer.status for answer in await new] + [status for of in old for status in of]

    async def has_no_trace_of_jobs(self) -> bool:
        """Return whether no lease and no pending job is left in Redis."""
        keys = [key async for key in self.redis.scan_iter("sfr:*")]
        # The last release does not take its leases out of the tenants' indexes. They pass at their moments.
        indexes = [key for key in keys if key.startswith("sfr:running:")]
        running = [await self.redis.zcount(key, time.time() * 1000, "+inf") for key in indexes]
        return not any(running) and not [
            key for key in keys if key.startswith(("sfr:leases", "sfr:queue", "sfr:waiting"))
        ]


@asynccontextmanager
async def mixed(system: System, workers: list[ScriptedWorker], valkey: Valkey) -> AsyncIterator[Mixed]:
    """Start both releases before three workers."""
    for worker in workers:
        worker.script = takes(0.02)
    fleet = [{"url": worker.url, "max_concurrency": cap} for worker, cap in zip(workers, CAPS, strict=True)]
    system.configure(fleet, retry={"budget_per_second": 1000})
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(system.sidecar())
        new = await stack.enter_async_context(system.router(2))
        await new.sees(healthy=3)
        redis = await stack.enter_async_context(valkey.client())
        names = ("last-1", "last-2")
        old = [await stack.enter_async_context(LastReleaseRouter(redis, name)) for name in names]
        yield Mixed(new, old, redis)


async def test_caps_and_tickets_are_one_over_two_releases(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Under load of both, every cap is reached and none passed, each job has a ticket of its own, and none is lost."""
    async with mixed(system, workers, valkey) as both:
        statuses = await both.run(200)
        await eventually(both.has_no_trace_of_jobs, what="the leases' end")
        tickets = [ticket for process in both.old for ticket in process.tickets]
        last_ticket = await both.redis.get("sfr:ticket")
    assert Counter(statuses) == {200: 800}
    assert [worker.most_at_once for worker in workers] == list(CAPS)
    assert len(set(tickets)) == 400
    # All jobs together have taken so many: so none of this release has a ticket of the other.
    assert last_ticket == "800"


async def test_tenants_have_their_line_beside_the_last_release(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Jobs of a tenant, whose line the last release does not know, and jobs of that release all run within the caps."""
    async with mixed(system, workers, valkey) as both:
        statuses = await both.run(100, tenant="run-7")
        await eventually(both.has_no_trace_of_jobs, what="the leases' end")
    assert Counter(statuses) == {200: 400}
    assert [worker.most_at_once for worker in workers] == list(CAPS)


async def test_breaker_counts_what_both_releases_saw(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """A worker that fails job after job is ejected for both, and no job of either fails by it."""
    async with mixed(system, workers, valkey) as both:
        bad = workers[2]
        bad.script = always(500)
        statuses = await both.run(20)
        await eventually(lambda: both.redis.zscore("sfr:ejected", bad.url), what="the ejection")
        by_then = len(bad.jobs)
        statuses += await both.run(40)
    assert Counter(statuses) == {200: 240}
    assert len(bad.jobs) == by_then


async def test_last_release_leaves_all_it_had_to_the_new_one(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """One of its processes ends well, the other is killed with jobs running and pending: all slots come free again."""
    async with mixed(system, workers, valkey) as both:
        ends_well, dies = both.old
        for worker in workers:
            worker.script = takes(0.2)
        unfinished = asyncio.create_task(dies.run(100, 20))
        new = asyncio.create_task(post_jobs(both.new.url, 100, 20))
        assert Counter(await ends_well.run(40, 20)) == {200: 40}
        await ends_well.leave()
        await dies.die()
        unfinished.cancel()
        assert Counter(answer.status for answer in await new) == {200: 100}
        await eventually(both.has_no_trace_of_jobs, what="the end of all leases")
        for worker in workers:
            worker.most_at_once = 0
        assert Counter(answer.status for answer in await post_jobs(both.new.url, 40, 20)) == {200: 40}
        assert [worker.most_at_once for worker in workers] == list(CAPS)
