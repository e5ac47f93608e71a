"""What one process knows of the sizes of jobs, with a fake Redis that others write to, or without one."""

import asyncio
import json
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from router.fleet.model import Worker, WorkerRecord
from router.fleet.records import FleetState
from router.fleet.redis_client import RedisClient
from router.fleet.sizes import FleetSizes, Lessons, Mean, Speeds
from router.fleet.snapshot import Snapshot
from router.jobs.body_budget import BodyBudget
from router.jobs.job import Job
from router.jobs.options import NO_OPTIONS, JobOptions
from router.jobs.sooner.sizes import (
    FRESH_S,
    MAX_KNOWN,
    MAX_TENANTS_KNOWN,
    MAX_UNTOLD,
    NOTHING_KNOWN_MS,
    UNKNOWN_FRESH_S,
    Sizes,
)
from router.policy.deadline import LimitReader
from router.policy.large_json import finished
from tests.support.jobs import ADMITTED

FAST, SLOW = "http://fast", "http://slow"


class CountedSizes(FleetSizes):
    """Counts the round trips of look-ups."""

    asked = 0

    async def means(self, keys: Collection[str]) -> list[Mean | None]:
        """Ask, and count it."""
        self.asked += 1
        return await super().means(keys)


class Process:
    """One router process' sizes; `now` is its clock."""

    def __init__(self, server: FakeServer, most: int = 1000) -> None:
        self.now = 0.0
        redis = RedisClient(FakeAsyncRedis(server=server, decode_responses=True), "sfr", timeout_s=5)
        records = WorkerRecord(Worker(FAST)), WorkerRecord(Worker(SLOW), speed=0.5)
        view: Any = SimpleNamespace(snapshot=Snapshot(FleetState(records)))
        self.fleet, self.speeds = CountedSizes(redis, most), Speeds(redis)
        self.sizes = Sizes(view, self.fleet, lambda: self.now)

    async def told(self, *jobs: Job) -> list[int | None]:
        """Return what is expected of the jobs, after a look-up if one is needed."""
        if any(self.sizes.expected_ms(job) is None for job in jobs):
            await self.sizes.look_up(jobs)
        return [self.sizes.expected_ms(job) for job in jobs]


def job(stdin: str = "1", tenant: str = "", options: JobOptions = NO_OPTIONS, code: str = "") -> Job:
    """Return a job with this input."""
    body = json.dumps({"code": code, "stdin": stdin}).encode()
    share = BodyBudget(2**30).share()
    return Job(
        *(b"POST", "/run_code", b"/run_code", b"", body, b"1", _stays, share, ADMITTED),
        tenant=tenant,
        options=options,
    )


async def _stays() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def server() -> FakeServer:
    """A fake Redis."""
    return FakeServer()


@pytest.fixture
async def process(server: FakeServer) -> Process:
    """A process with that Redis."""
    return Process(server)


async def test_a_process_knows_what_others_have_learned(server: FakeServer, process: Process) -> None:
    """The code differs and the input is the same, so the size is; the client's own key and word win."""
    other = Process(server)
    other.sizes.learn(job("a"), FAST, 700)
    other.sizes.learn(job("b", options=JobOptions(size_key="k")), FAST, 300)
    await other.sizes.tell()
    named, hinted = JobOptions(size_key="k"), JobOptions(expected_ms=5, size_key="k")
    assert await process.told(job("a", code="x"), job("c", options=named), job("a", options=hinted)) == [700, 300, 5]
    assert process.fleet.asked == 1
    assert await process.told(job("a")) == [700]
    assert process.fleet.asked == 1


async def test_a_job_that_is_cut_off_takes_at_least_so_long(process: Process) -> None:
    """Else a job that always reaches its limit would count as a usual one; of its worker's speed it says nothing."""
    process.sizes.learn(job("a"), SLOW, 4000, is_cut=True)
    process.sizes.learn(job("b"), FAST, 3000)
    process.sizes.learn(job("b"), FAST, 1000, is_cut=True)
    await process.sizes.tell()
    assert await process.told(job("a"), job("b")) == [2000, 3000]
    assert await process.speeds.ratios([FAST, SLOW]) == {}


async def test_sizes_are_those_of_a_worker_of_normal_speed(process: Process) -> None:
    """A worker of half the speed takes twice as long for the same size."""
    process.sizes.learn(job("a"), SLOW, 1000)
    process.sizes.learn(job("a"), FAST, 500)
    await process.sizes.tell()
    assert await process.told(job("a")) == [500]


async def test_unknown_jobs_are_alike(server: FakeServer, process: Process) -> None:
    """They count as their tenant's median over the fleet; where there is none, all count the same."""
    assert await process.told(job("a"), job("b", "run-7")) == [NOTHING_KNOWN_MS, NOTHING_KNOWN_MS]
    other = Process(server)
    for number, took_ms in enumerate((100, 200, 90_000)):
        other.sizes.learn(job(f"x{number}", "run-7"), FAST, took_ms)
    await other.sizes.tell()
    process.now += UNKNOWN_FRESH_S + 1
    assert await process.told(job("a"), job("b", "run-7")) == [NOTHING_KNOWN_MS, 200]


async def test_the_default_tenant_has_one_name(process: Process) -> None:
    """A client that names it and one that names nobody share their sizes."""
    process.sizes.learn(job("a", "default"), FAST, 70)
    await process.sizes.tell()
    assert await process.told(job("a")) == [70]


async def test_look_ups_of_one_turn_go_together(process: Process) -> None:
    """However many jobs arrive at once, Redis is asked once."""
    await asyncio.gather(*[process.sizes.look_up([job(str(number))]) for number in range(50)])
    assert process.fleet.asked == 1
    assert process.sizes.expected_ms(job("7")) == NOTHING_KNOWN_MS


async def test_what_is_known_is_looked_up_again_after_a_while(server: FakeServer, process: Process) -> None:
    """An unknown key sooner than a known one."""
    other = Process(server)
    other.sizes.learn(job("a"), FAST, 100)
    await other.sizes.tell()
    assert await process.told(job("a"), job("b")) == [100, 100]
    for took_ms in (300, 300, 300):
        other.sizes.learn(job("a"), FAST, took_ms)
        other.sizes.learn(job("b"), FAST, 900)
    await other.sizes.tell()
    assert await process.told(job("a"), job("b")) == [100, 100]
    process.now += UNKNOWN_FRESH_S + 1
    assert (process.sizes.expected_ms(job("a")), process.sizes.expected_ms(job("b"))) == (100, None)
    assert await process.told(job("b")) == [900]
    process.now += FRESH_S
    assert await process.told(job("a")) == [250]


async def test_jobs_that_end_meanwhile_are_told_the_next_time(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process under load comes to an end of telling: one call for what it had learned, one for the rest."""
    calls = []

    async def learn(lessons: Lessons) -> list[Mean | None]:
        calls.append([key for key, _, _ in lessons.sizes])
        process.sizes.learn(job(f"later {len(calls)}"), FAST, 100)
        return [None] * len(lessons.sizes)

    monkeypatch.setattr(process.fleet, "learn", learn)
    process.sizes.learn(job("first"), FAST, 100)
    async with asyncio.timeout(5):
        await process.sizes.tell()
        assert len(calls) == 1
        await process.sizes.tell()
    first, second = calls
    assert (len(first), len(second)) == (2, 2)  # a job's key and its tenant's median


async def test_without_redis_a_process_goes_by_what_it_knows(server: FakeServer, process: Process) -> None:
    """No job waits longer than for one answer; what is learned meanwhile is told when Redis is back."""
    server.connected = False
    process.sizes.learn(job("a"), FAST, 100)
    process.sizes.learn(job("b"), FAST, 300)
    await process.sizes.tell()
    assert await process.told(job("a"), job("b"), job("c")) == [100, 300, 300]
    process.now += FRESH_S + 1
    assert await process.told(job("a")) == [100]
    process.sizes.learn(job("a"), FAST, 200)
    server.connected = True
    await process.sizes.tell()
    assert await Process(server).told(job("a"), job("b")) == [150, 300]


async def test_known_sizes_tell_the_speed_of_workers(process: Process) -> None:
    """Only attempts whose size was known count, each with ln(time / size)."""
    for url, took_ms in ((FAST, 100), (FAST, 100), (FAST, 100)):
        process.sizes.learn(job("a"), url, took_ms)
    process.sizes.learn(job("a"), SLOW, 272)
    await process.sizes.tell()
    ratios = await process.speeds.ratios([FAST, SLOW])
    assert [ratios[url].count for url in (FAST, SLOW)] == pytest.approx([2, 1], abs=0.1)
    assert [ratios[url].total for url in (FAST, SLOW)] == pytest.approx([0, 1], abs=0.1)


async def test_memory_is_bounded(server: FakeServer, process: Process) -> None:
    """Neither keys, nor tenants, nor what Redis has not heard grow without end."""
    server.connected = False
    for number in range(MAX_UNTOLD + 100):
        process.sizes.learn(job(str(number), f"t{number % (MAX_TENANTS_KNOWN + 50)}"), FAST, 100)
    held = vars(process.sizes)
    assert (len(held["_known"]), len(held["_recent"])) == (MAX_KNOWN, MAX_TENANTS_KNOWN)
    assert len(held["_untold"].sizes) == MAX_UNTOLD


async def test_a_look_up_of_more_than_a_process_can_know_is_no_fault(server: FakeServer, process: Process) -> None:
    """Those forgotten at once count as unknown."""
    other = Process(server)
    other.sizes.learn(job("0"), FAST, 100)
    other.sizes.learn(job("1"), FAST, 300)
    await other.sizes.tell()
    jobs = [job(str(number)) for number in range(MAX_KNOWN + 1)]
    await process.sizes.look_up(jobs)
    assert {process.sizes.known_ms(each) for each in jobs} == {300}


async def test_a_large_job_is_known_by_its_scan(process: Process) -> None:
    """Without one it counts as unknown, and nothing is learned of it."""
    plain = job("1" * 100_000)
    scan = finished(plain.scan_body(LimitReader({}), is_sized=True))
    process.sizes.learn(plain, FAST, 100)
    assert await process.told(plain) == [NOTHING_KNOWN_MS]
    scanned = Job(**{name: getattr(plain, name) for name in plain.__struct_fields__} | {"scan": scan})
    process.sizes.learn(scanned, FAST, 100)
    await process.sizes.tell()
    assert await process.told(scanned) == [100]


async def test_a_job_takes_a_millisecond_at_least(process: Process) -> None:
    """Neither a size nor a logarithm of 0 exists."""
    process.sizes.learn(job("a"), FAST, 0)
    process.sizes.learn(job("a"), FAST, 0)
    await process.sizes.tell()
    assert await process.told(job("a")) == [1]
