"""Caps, the queue and the breaker hold over all router processes, through crashes of each part."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest
from redis.asyncio import Redis

from router.jobs.dispatcher import LEASE_MARGIN_S
from tests.support.eventually import eventually
from tests.support.load import Answered, post_job, post_jobs, steady_load
from tests.support.programs import Router, System, Valkey, get_json
from tests.support.worker import Gate, ScriptedWorker, always, hang, takes, well


def statuses(answers: list[Answered]) -> Counter[int]:
    """Count the answers by status."""
    return Counter(answer.status for answer in answers)


# Short limits for jobs whose lease a test waits out.
LIMITS = {"compile_timeout": 0.1, "run_timeout": 0.1}


async def leases(redis: Redis) -> int:
    """Return how many leases Redis holds."""
    return sum([await redis.zcard(key) for key in await redis.keys("sfr:leases:*")])


async def waiting(redis: Redis, count: int) -> None:
    """Wait until the queue has `count` jobs."""

    async def is_so() -> bool:
        return await redis.zcard("sfr:queue") == count

    await eventually(is_so, what=f"{count} jobs in the queue")


async def settled(redis: Redis) -> None:
    """Wait until a scheduler that started empty grants leases on workers with a cap."""

    async def is_so() -> bool:
        workers, settles_at = await redis.hmget("sfr:plan:head", ["workers", "settles_at"])
        return workers is not None and settles_at is None

    await eventually(is_so, what="the first leases")


@dataclass
class OneSlot:
    """A worker with one slot, which runs `first` until `gate` opens, and the hosts before it."""

    worker: ScriptedWorker
    gate: Gate
    hosts: list[Router]
    redis: Redis
    first: asyncio.Task[Answered]


@asynccontextmanager
async def taken_slot(
    system: System, worker: ScriptedWorker, valkey: Valkey, processes: tuple[int, ...] = (1,), **settings: object
) -> AsyncIterator[OneSlot]:
    """Start a host with each number of `processes`; the first job runs on the last host."""
    worker.script = gate = Gate()
    system.configure([worker.url], default_max_concurrency=1, **settings)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(system.sidecar())
        hosts = [await stack.enter_async_context(system.router(count)) for count in processes]
        redis = await stack.enter_async_context(valkey.client())
        for host in hosts:
            await host.sees(healthy=1)
        await settled(redis)
        first = asyncio.create_task(post_job(hosts[-1].url))
        await eventually(lambda: worker.running, what="the first job")
        yield OneSlot(worker, gate, hosts, redis, first)


@pytest.mark.parametrize("strategy", ["round_robin", "random", "least_loaded"])
async def test_caps_hold_over_two_hosts_and_no_job_is_lost(
    system: System, workers: list[ScriptedWorker], valkey: Valkey, strategy: str
) -> None:
    """Two gunicorns of two processes each, under uneven load, never exceed a worker's cap."""
    for worker in workers:
        worker.script = takes(0.02)
    caps = (1, 2, 4)
    fleet = [{"url": w.url, "max_concurrency": cap} for w, cap in zip(workers, caps, strict=True)]
    system.configure(fleet, routing_strategy=strategy)
    async with system.sidecar(), system.router(2) as one, system.router(2) as other, valkey.client() as redis:
        await one.sees(healthy=3)
        await other.sees(healthy=3)
        many, few = await asyncio.gather(post_jobs(one.url, 240, 60), post_jobs(other.url, 160, 40))
        await eventually(lambda: _none(redis), what="the leases' end")
    assert statuses(many + few) == {200: 400}
    assert [worker.most_at_once for worker in workers] == list(caps)


async def _none(redis: Redis) -> bool:
    return await leases(redis) == 0 and not await redis.exists("sfr:queue", "sfr:waiting")


async def test_two_hosts_share_one_queue(system: System, workers: list[ScriptedWorker], valkey: Valkey) -> None:
    """Jobs run in the order they arrived at either host, and the answer has the time in the queue."""
    async with taken_slot(system, workers[0], valkey, processes=(1, 1)) as slot:
        jobs = []
        for number in range(1, 9):
            url = slot.hosts[number % 2].url + f"/run_code?number={number}"
            jobs.append(asyncio.create_task(_post(url)))
            await waiting(slot.redis, number)
        slot.gate.open()
        headers = await asyncio.gather(*jobs)
    targets = [job.target for job in slot.worker.jobs]
    assert targets == ["/run_code", *(f"/run_code?number={number}" for number in range(1, 9))]
    assert slot.worker.most_at_once == 1
    assert min(int(header["x-router-queue-ms"]) for header in headers) > 0


async def _post(url: str) -> dict[str, str]:
    async with aiohttp.ClientSession() as session, session.post(url, json={}) as response:
        assert response.status == 200
        metadata = (await response.json())["router_metadata"]
        assert metadata["queue_ms"] == int(response.headers["x-router-queue-ms"])
        return dict(response.headers)


async def test_full_queue_503_and_long_wait_504(system: System, workers: list[ScriptedWorker], valkey: Valkey) -> None:
    """Past queue.timeout a job gets 504, past queue.max_waiting 503 at once, both with Retry-After and no attempt."""
    queue = {"timeout": 2, "max_waiting": 1}
    async with taken_slot(system, workers[0], valkey, processes=(2,), queue=queue) as slot:
        url = slot.hosts[0].url
        late = asyncio.create_task(post_job(url))
        await waiting(slot.redis, 1)
        full = await post_job(url)
        assert (full.status, full.body) == (503, {"detail": "1 jobs wait already"})
        assert full.headers["retry-after"] == "1"
        timed_out = await late
        assert (timed_out.status, timed_out.body) == (504, {"detail": "No worker had room within 2 s"})
        assert timed_out.headers["retry-after"] == "1"
        assert timed_out.seconds >= 2
        await waiting(slot.redis, 0)
        slot.gate.open()
        assert (await slot.first).status == 200
    assert len(slot.worker.jobs) == 1


async def test_client_that_leaves_while_waiting_gives_up_its_place(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """A pending job whose client leaves is never run."""
    async with taken_slot(system, workers[0], valkey) as slot:
        url = slot.hosts[0].url
        leaving = asyncio.create_task(post_job(url))
        await waiting(slot.redis, 1)
        leaving.cancel()
        await waiting(slot.redis, 0)
        slot.gate.open()
        assert (await slot.first).status == 200
        assert (await post_job(url)).status == 200
    assert len(slot.worker.jobs) == 2


async def test_lease_of_a_client_that_left_stays_until_the_worker_answers(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """A job whose client left still occupies its slot until the worker answers."""
    async with taken_slot(system, workers[0], valkey) as slot:
        slot.first.cancel()
        second = asyncio.create_task(post_job(slot.hosts[0].url, code="another"))
        await waiting(slot.redis, 1)
        assert await leases(slot.redis) == 1
        slot.gate.open()
        assert (await second).status == 200
    assert slot.worker.most_at_once == 1


async def test_lease_of_a_timed_out_attempt_lasts_until_it_expires(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """A timed-out attempt gets 503, but its slot is free only when the lease expires."""
    worker = workers[0]
    worker.script = hang
    system.configure([worker.url], default_max_concurrency=1, job_grace=0.3, retry={"attempts": 1})
    async with system.sidecar(), system.router(1) as router, valkey.client() as redis:
        await router.sees(healthy=1)
        timed_out = await post_job(router.url, **LIMITS)
        assert (timed_out.status, timed_out.body["detail"]) == (503, "All workers failed after 1 attempt")
        (passes_at_ms,) = await _moments(redis, worker)
        worker.script = well
        assert (await post_job(router.url)).status == 200
        assert await _now_ms(redis) >= passes_at_ms


async def test_leases_of_a_killed_router_expire(system: System, workers: list[ScriptedWorker], valkey: Valkey) -> None:
    """After SIGKILL to a host its leases expire, and jobs of other hosts get their slots."""
    worker = workers[0]
    worker.script = hang
    system.configure([worker.url], default_max_concurrency=2, job_grace=2)
    async with system.sidecar(), system.router(1) as doomed, system.router(1) as other, valkey.client() as redis:
        await doomed.sees(healthy=1)
        await other.sees(healthy=1)
        lost = asyncio.gather(*(post_job(doomed.url, **LIMITS) for _ in range(2)), return_exceptions=True)
        await eventually(lambda: worker.running == 2, what="two jobs")
        await doomed.kill()
        assert all(isinstance(result, aiohttp.ClientError) for result in await lost)
        moments = await _moments(redis, worker)
        assert len(moments) == 2
        # The jobs' own limits, job_grace and a margin.
        assert max(moments) <= await _now_ms(redis) + 1000 * (0.2 + 2 + LEASE_MARGIN_S)
        worker.script = well
        assert (await post_job(other.url)).status == 200


async def _moments(redis: Redis, worker: ScriptedWorker) -> list[float]:
    """Return the moments at which the worker's leases expire."""
    held = await redis.zrange(f"sfr:leases:{worker.url}", 0, -1, withscores=True)
    return [float(item[1]) for item in held]


async def _now_ms(redis: Redis) -> float:
    seconds, micros = (float(part) for part in await redis.time())
    return seconds * 1000 + micros / 1000


async def test_pending_jobs_of_a_killed_process_soon_stop_blocking(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Pending jobs of a killed process are skipped once its heartbeats have been missing for 3 s."""
    async with taken_slot(system, workers[0], valkey, processes=(1, 1)) as slot:
        doomed, other = slot.hosts
        lost = asyncio.gather(*(post_job(doomed.url) for _ in range(10)), return_exceptions=True)
        await waiting(slot.redis, 10)
        last = asyncio.create_task(post_job(other.url))
        await waiting(slot.redis, 11)
        await doomed.kill()
        slot.gate.open()
        assert (await slot.first).status == 200
        assert (await last).status == 200
        await lost
    assert len(slot.worker.jobs) == 2


async def test_breaker_is_shared_by_the_whole_fleet(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """A failing worker is ejected after five jobs, gets one trial at a time, and returns when it does well."""
    bad = workers[0]
    bad.script = always(502, b"")
    breaker = {"failures": 5, "base_seconds": 1, "max_seconds": 2}
    system.configure([worker.url for worker in workers], breaker=breaker)
    async with system.sidecar(), system.router(2) as one, system.router(2) as other, valkey.client() as redis:
        await one.sees(healthy=3)
        await other.sees(healthy=3)
        first, second = await asyncio.gather(post_jobs(one.url, 100, 4), post_jobs(other.url, 100, 4))
        assert statuses(first + second) == {200: 200}
        # Five in a row, and the jobs under way at that moment.
        assert 5 <= len(bad.jobs) <= 5 + 8
        await one.sees(healthy=2)
        shown = {w["url"]: w["health"] for w in (await get_json(f"{one.url}/"))["workers"]}  # type: ignore[attr-defined]
        assert shown[bad.url] == "ejected"
        fields = await redis.hgetall(f"sfr:breaker:{bad.url}")
        assert (fields["times"], float(fields["ejected_until"]) > (await redis.time())[0] - 1) == ("1", True)
        # Under load each ejection's end lets one trial of the whole fleet through, and the next ejection lasts longer.
        async with steady_load(one.url, 8) as answers:
            await eventually(lambda: _times(redis, bad.url, "3"), what="the third ejection")
            tried = len(bad.jobs)
            bad.script = well
            await eventually(lambda: _is_closed(redis, bad.url), what="the closed breaker")
        assert statuses(answers) == {200: len(answers)}
        assert 7 <= tried <= 13 + 2
        await one.sees(healthy=3)


async def _times(redis: Redis, url: str, times: str) -> bool:
    return await redis.hget(f"sfr:breaker:{url}", "times") == times


async def _is_closed(redis: Redis, url: str) -> bool:
    return not await redis.exists(f"sfr:breaker:{url}")


async def test_no_more_than_half_of_the_fleet_is_ejected(system: System, workers: list[ScriptedWorker]) -> None:
    """If all workers fail, two of three still get jobs."""
    for worker in workers:
        worker.script = always(502, b"")
    system.configure([worker.url for worker in workers], breaker={"failures": 2})
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        answers = await post_jobs(router.url, 60, 6)
        assert statuses(answers) == {503: 60}
        await router.sees(healthy=2)


async def test_drained_worker_finishes_its_jobs_and_gets_no_new_one(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """An SADD to sfr:drain by hand drains a worker, and an SREM resumes it."""
    draining, other, _ = workers
    gate = Gate()
    draining.script = gate
    system.configure([draining.url, other.url], default_max_concurrency=8)
    async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=2)
        running = asyncio.create_task(post_jobs(router.url, 8, 8))
        await eventually(lambda: draining.running == 4, what="jobs on the worker that is to be drained")
        await redis.sadd("sfr:drain", draining.url)
        await eventually(lambda: _is_unplanned(redis, draining.url), what="the plan without it")
        answers = await post_jobs(router.url, 40, 4)
        assert {answer.worker_url for answer in answers} == {other.url}
        gate.open()
        assert statuses(await running) == {200: 8}
        await redis.srem("sfr:drain", draining.url)
        await eventually(lambda: redis.hexists("sfr:plan", draining.url), what="the plan with it again")
        answers = await post_jobs(router.url, 40, 4)
        assert {answer.worker_url for answer in answers} == {draining.url, other.url}


async def test_without_redis_each_process_keeps_its_share_of_the_caps(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """While Redis is away, each of two processes uses half of each cap; leases are registered again on its return."""
    for worker in workers:
        worker.script = takes(0.03)
    system.configure([worker.url for worker in workers], default_max_concurrency=4)
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        assert statuses(await post_jobs(router.url, 60, 30)) == {200: 60}
        await valkey.kill()
        await router.sees_redis("unavailable")
        assert statuses(await post_jobs(router.url, 300, 40)) == {200: 300}
        assert "with 1/2 of each cap" in router.output
        gate = Gate()
        for worker in workers:
            worker.script = gate
        running = asyncio.create_task(post_jobs(router.url, 12, 12, keep_alive=False))
        await eventually(lambda: sum(worker.running for worker in workers) >= 6, what="running jobs")
        await valkey.start()
        await eventually(lambda: router.output.count("the whole fleet's again") == 2, what="the return")
        async with valkey.client() as redis:
            await eventually(lambda: _as_many_as_run(redis, workers), what="the registered leases")
        gate.open()
        assert statuses(await running) == {200: 12}
        assert max(worker.most_at_once for worker in workers) == 4


async def _as_many_as_run(redis: Redis, workers: list[ScriptedWorker]) -> bool:
    return await leases(redis) == sum(worker.running for worker in workers) > 0


async def _is_unplanned(redis: Redis, url: str) -> bool:
    return not await redis.hexists("sfr:plan", url)


@pytest.mark.parametrize("command", ["flushall", "script_flush"])
async def test_wiped_redis_costs_no_job_and_caps_are_right_again_within_2_s(
    system: System, workers: list[ScriptedWorker], valkey: Valkey, command: str
) -> None:
    """Within 2 s of a wiped Redis under full load every process has registered its leases and pending jobs again."""
    for worker in workers:
        worker.script = takes(0.05)
    system.configure([worker.url for worker in workers], default_max_concurrency=4)
    async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        async with steady_load(router.url, 40) as answers:
            await eventually(lambda: len(answers) > 100, what="load")
            assert max(worker.most_at_once for worker in workers) == 4
            await getattr(redis, command)()
            await asyncio.sleep(2)  # the time in this test's name
            for worker in workers:
                worker.most_at_once = worker.running
            seen = len(answers)
            await eventually(lambda: len(answers) > seen + 200, what="more load")
            assert max(worker.most_at_once for worker in workers) <= 4
        assert statuses(answers) == {200: len(answers)}


async def test_sigkilled_process_under_load_frees_its_slots(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """When one of four processes dies under load, no cap is exceeded and its slots become free again."""
    for worker in workers:
        worker.script = takes(0.05)
    system.configure([worker.url for worker in workers], default_max_concurrency=2, job_grace=2)
    async with system.sidecar(), system.router(4) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        load = asyncio.gather(*(_try(router) for _ in range(300)))
        await eventually(lambda: sum(len(worker.jobs) for worker in workers) > 50, what="load")
        os.kill(router.children()[0], signal.SIGKILL)
        outcomes = Counter(await load)
        assert outcomes.keys() <= {200, 0}
        # The dead process may have held any number of connections; jobs that ran before its death were answered.
        assert outcomes[200] > 50 - 3 * 2
        await eventually(lambda: _none(redis), what="the end of the dead process' leases")
        assert max(worker.most_at_once for worker in workers) == 2


async def _try(router: Router) -> int:
    """Return the job's status, or 0 if its connection was cut."""
    try:
        return (await post_job(router.url, **LIMITS)).status
    except aiohttp.ClientError:
        return 0
