"""Where jobs are placed: by their labels, language and memory, as far as the fleet's workers differ in them."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from router.fleet.model import Worker, WorkerRecord
from router.fleet.records import FleetState
from router.fleet.snapshot import Snapshot
from router.http.response import Phase
from router.jobs.job import Job
from router.policy.placement import ANYWHERE, Placement
from router.policy.tenants import TenantRule
from router.scheduling.pending import NoSuchLabel, TooLarge
from tests.support.timeless import timeless
from tests.unit.jobs.test_dispatcher import Bench, Workers, fails, says

PLAIN = Worker("http://a")
GPU = Worker("http://b", labels=("gpu", "ib"))
PYTHON = Worker("http://c", languages=("python", "cuda"))
CPP = Worker("http://d", labels=("gpu",), languages=("cpp",))
SMALL = Worker("http://e", labels=("small",), memory_mb=2000)
LARGE = Worker("http://f", labels=("large",), memory_mb=64_000)
RULES = {"default": TenantRule(labels=("ib",)), "render": TenantRule(labels=("gpu",)), "plain": TenantRule()}


def bench_with(fleet: list[Worker], job: dict[str, Any], *workers: Any, tenant: str = "", **more: Any) -> Bench:
    """A dispatcher whose next job has this body, and `labels` if they are among `more`."""
    labels, path = more.pop("labels", ()), more.pop("path", "/run_code")
    bench = Bench(Workers(*workers or [says()]), tenant=tenant, fleet=fleet, **more)
    bench.job = msgspec.structs.replace(bench.job, body=json.dumps(job).encode(), labels=labels, path=path)
    return bench


@pytest.mark.parametrize(
    ("fleet", "job", "more", "placement"),
    [
        ([PLAIN, GPU], {"language": "cpp", "memory_limit_MB": 10**6}, {}, ANYWHERE),
        ([PLAIN, GPU], {}, {"labels": ("ib", "gpu")}, Placement(pool="gpu,ib")),
        ([PLAIN, PYTHON], {"language": "cuda"}, {}, Placement(pool=";cuda")),
        ([PLAIN, PYTHON], {"language": "scala"}, {}, Placement(pool=";scala")),
        ([PLAIN, PYTHON], {"code": "no language"}, {}, ANYWHERE),
        ([PYTHON, CPP], {"cells": []}, {"path": "/run_jupyter"}, Placement(pool=";python")),
        ([PYTHON, CPP], {"language": "cpp"}, {"labels": ("gpu",)}, Placement(pool="gpu;cpp")),
        ([SMALL, LARGE], {"memory_limit_MB": 512, "language": "cpp"}, {}, Placement(memory_mb=512)),
        ([SMALL, LARGE], {"memory_limit_MB": -1}, {}, Placement(memory_mb=1024)),
        ([SMALL, LARGE], {}, {"settings": {"default_job_memory_mb": 100}}, Placement(memory_mb=100)),
        ([SMALL, PLAIN], {"memory_limit_MB": 10**6}, {}, Placement(memory_mb=10**6)),
        ([SMALL, PLAIN], {"memory_limit_MB": 10**30}, {}, Placement(memory_mb=2**30)),
        ([SMALL], {"id": 1}, {"path": "/get_prompt_by_id"}, ANYWHERE),
        ([GPU, PLAIN], {}, {"tenants": RULES}, Placement(pool="ib")),
        ([GPU, PLAIN], {}, {"tenants": RULES, "tenant": "plain"}, Placement("plain")),
        ([GPU], {}, {"tenants": RULES, "tenant": "render", "labels": ("ib",)}, Placement("render", "gpu,ib")),
        ([GPU], {}, {"tenants": RULES, "tenant": "another"}, Placement("another", "ib")),
    ],
)
def test_job_is_placed_where_it_can_run(
    fleet: list[Worker], job: dict[str, Any], more: dict[str, Any], placement: Placement
) -> None:
    """Labels always count; a language and memory only where a worker of the fleet lists or counts them."""

    async def law() -> None:
        bench = bench_with(fleet, job, **more)
        await bench.run()
        (asked,) = bench.leases.asked
        assert asked.placement == placement

    timeless(law())


@pytest.mark.parametrize(
    ("fleet", "job", "more", "status", "detail"),
    [
        ([PLAIN], {}, {"labels": ("tpu",)}, 503, "No worker has the label tpu"),
        ([GPU], {}, {"labels": ("gpu", "tpu")}, 503, "No worker has the label tpu"),
        ([PLAIN], {}, {"tenants": RULES}, 503, "No worker has the label ib"),
        ([PYTHON, CPP], {"language": "scala"}, {}, 503, "No worker runs the language scala"),
        (
            [PYTHON, CPP],
            {"language": "cuda"},
            {"labels": ("gpu",)},
            503,
            "No worker has the label gpu and runs the language cuda",
        ),
        ([SMALL, LARGE], {}, {"labels": ("small", "large")}, 503, "No worker has the label large, small"),
        (
            [SMALL, LARGE],
            {"memory_limit_MB": 2001},
            {"labels": ("small",)},
            422,
            "The job takes 2001 MB of memory; the largest worker that could run it has 2000 MB",
        ),
        (
            [SMALL],
            {},
            {"settings": {"default_job_memory_mb": 4000}},
            422,
            "The job takes 4000 MB of memory; the largest worker that could run it has 2000 MB",
        ),
    ],
)
def test_job_that_no_worker_can_run_is_refused_at_once(
    fleet: list[Worker], job: dict[str, Any], more: dict[str, Any], status: int, detail: str
) -> None:
    """It never waits, and its answer names what is missing."""

    async def law() -> None:
        bench = bench_with(fleet, job, **more)
        answer = await bench.run()
        assert (answer.status, json.loads(answer.body)["detail"]) == (status, detail)
        assert (bench.leases.asked, bench.answered()) == ([], [status])

    timeless(law())


def test_retry_keeps_its_place() -> None:
    """A job that failed on one worker runs on another of the same pool."""

    async def law() -> None:
        bench = bench_with([GPU, PYTHON], {"language": "cuda"}, fails(Phase.DIED), says())
        assert (await bench.run()).status == 200
        assert [asked.placement for asked in bench.leases.asked] == [Placement(pool=";cuda")] * 2

    timeless(law())


def test_large_job_is_placed_by_its_excerpt() -> None:
    """What stands behind a megabyte of files counts."""

    async def law() -> None:
        bench = bench_with([PYTHON, SMALL, CPP], {"files": {"a": "x" * 10**6}, "language": "cpp", "memory_limit_MB": 9})
        assert isinstance(bench.job, Job)
        assert bench.job.is_large
        await bench.run()
        assert [asked.placement for asked in bench.leases.asked] == [Placement(pool=";cpp", memory_mb=9)]

    timeless(law())


@pytest.mark.parametrize(
    ("before", "after", "rules", "moved", "refused"),
    [
        ([PLAIN], [PLAIN, PYTHON], {}, [Placement("render", ";go", 0)], []),
        ([PLAIN], [PLAIN, SMALL], {}, [Placement("render", "", 1500)], []),
        ([SMALL, PLAIN], [PLAIN], {}, [Placement("render")], []),
        ([PLAIN, GPU], [PLAIN, GPU], RULES, [Placement("render", "gpu")], []),
        ([PLAIN], [GPU], {}, [], []),
        ([LARGE], [replace(LARGE, memory_mb=1000)], {}, [], [TooLarge]),
        ([PLAIN], [PLAIN], RULES, [Placement("render", "gpu")], [NoSuchLabel]),
        ([PLAIN], [CPP], {}, [Placement("render", ";go")], [NoSuchLabel]),
    ],
)
def test_pending_job_is_placed_anew(
    before: list[Worker], after: list[Worker], rules: dict[str, TenantRule], moved: list[Placement], refused: list[type]
) -> None:
    """When what workers or tenants have changes, it asks for where it can run now; if nowhere, it is refused later."""

    async def law() -> None:
        bench = bench_with(before, {"language": "go", "memory_limit_MB": 1500}, tenant="render")
        bench.leases.script = [None]
        bench.began()
        records = tuple(WorkerRecord(worker) for worker in after)
        bench.view.snapshot = Snapshot(FleetState(records, tenants=rules))
        bench.view.on_placing()
        await asyncio.sleep(9.9)
        assert (bench.leases.moved, bench.leases.refused) == (moved, [])
        await asyncio.sleep(0.2)
        assert [type(each) for each in bench.leases.refused] == refused
        assert [answer.status for answer in bench.given if answer] == [422 if TooLarge in refused else 503] * len(
            refused
        )

    timeless(law())


def test_job_that_is_tried_again_goes_where_it_can_run_by_then() -> None:
    """Its worker may list other languages when the attempt has failed."""

    async def law() -> None:
        bench = bench_with([PLAIN], {"language": "go"})
        bench.workers.script = []
        bench.began()
        await asyncio.sleep(0.01)
        bench.view.snapshot = Snapshot(FleetState((WorkerRecord(PLAIN), WorkerRecord(PYTHON))))
        bench.view.on_placing()
        assert bench.leases.moved == []
        bench.workers.held.pop()(fails(Phase.DIED))
        await asyncio.sleep(0.01)
        assert [asked.placement for asked in bench.leases.asked] == [ANYWHERE, Placement(pool=";go")]

    timeless(law())


def test_pending_job_waits_for_a_worker_that_is_back_soon() -> None:
    """An agent that starts again leaves the fleet for a moment."""

    async def law() -> None:
        bench = bench_with([PLAIN, CPP], {"language": "cpp"}, labels=("gpu",))
        bench.leases.script = [None]
        bench.began()
        for records in ((WorkerRecord(PLAIN),), (WorkerRecord(PLAIN), WorkerRecord(CPP))):
            bench.view.snapshot = Snapshot(FleetState(records))
            bench.view.on_placing()
            await asyncio.sleep(5)
        await asyncio.sleep(60)
        assert (bench.leases.moved, bench.leases.refused) == ([Placement(pool="gpu"), Placement(pool="gpu;cpp")], [])

    timeless(law())
