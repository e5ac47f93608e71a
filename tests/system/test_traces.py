"""Traces of a whole system: the spans that gunicorn's processes export, and the headers that workers get."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator

import aiohttp
import pytest
from multidict import CIMultiDict

from tests.support.collector import Collector
from tests.support.eventually import eventually
from tests.support.load import JOB, post_jobs
from tests.support.programs import System
from tests.support.scrape import scrape
from tests.support.worker import Gate, ScriptedWorker, always

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
async def collector(system: System) -> AsyncIterator[Collector]:
    """A collector for this system's routers, which export after 100 ms instead of 5 s."""
    system.env["OTEL_BSP_SCHEDULE_DELAY"] = "100"
    async with Collector() as listening:
        yield listening


async def post(url: str, path: str = "/run_code", **headers: str) -> int:
    """Send one job with these headers (_ stands for -) and return the status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession(headers=named) as session, session.post(url + path, json=JOB) as response:
        await response.read()
        return response.status


async def test_job_with_a_retry_is_one_span_with_two_children(
    system: System, workers: list[ScriptedWorker], collector: Collector
) -> None:
    """The job's span has the client's as its parent, and each worker gets its attempt's span and the tracestate."""
    bad, good, _ = workers
    bad.script = always(503)
    labelled = [{"url": worker.url, "labels": ["gpu"]} for worker in (bad, good)]
    system.configure(labelled, traces={"endpoint": collector.url})
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=2)
        while not bad.jobs:
            collector.spans.clear()
            good.jobs.clear()
            headers = {"traceparent": SAMPLED, "tracestate": "vendor=1", "x_request_id": "mine", "x_other": "kept"}
            headers["x_router_labels"] = "gpu"
            assert await post(f"{router.url}/t/run-7", **headers) == 200
            await eventually(collector.jobs, what="the job's span")
    (job,) = collector.jobs()
    assert (job.name, job.kind, job.service) == ("POST /run_code", "SPAN_KIND_SERVER", "sandboxfusion-router")
    assert (job.trace, job.parent, job.state, job.is_error) == (TRACE, PARENT, "vendor=1", False)
    assert job.attributes == {
        "http.request.method": "POST",
        "url.path": "/run_code",
        "http.response.status_code": 200,
        "sfr.request_id": "mine",
        "sfr.tenant": "run-7",
        "sfr.pool": "gpu",
        "sfr.verdict": "result",
        "sfr.attempts": 2,
    }
    first, second = collector.attempts(job)
    assert len(collector.spans) == 3
    assert (first.kind, first.is_error, second.is_error) == ("SPAN_KIND_CLIENT", True, False)
    told = [
        [attempt.attributes[f"sfr.{key}"] for key in ("attempt", "worker", "verdict")] for attempt in (first, second)
    ]
    assert told == [[1, bad.url, "fault"], [2, good.url, "result"]]
    assert [attempt.attributes["http.response.status_code"] for attempt in (first, second)] == [503, 200]
    waited_ms = [int(attempt.attributes["sfr.wait_ms"]) for attempt in (first, second)]
    assert min(waited_ms) >= 0
    assert sum(waited_ms) <= 1000 * job.seconds
    assert job.seconds >= first.seconds + second.seconds
    for worker, attempt in ((bad, first), (good, second)):
        (received,) = worker.jobs
        assert received.headers["traceparent"] == f"00-{TRACE}-{attempt.id}-01"
        assert received.headers["tracestate"] == "vendor=1"
        assert received.head.lower().count("\ntrace") == 2
        assert (received.headers["x-request-id"], received.headers["x-other"]) == ("mine", "kept")


async def test_jobs_without_a_parent_or_whose_parent_is_not_sampled(
    system: System, workers: list[ScriptedWorker], collector: Collector
) -> None:
    """A job without a valid parent begins a trace, as does each line of a batch; an unsampled one is not exported."""
    only = workers[0]
    system.configure([only.url], traces={"endpoint": collector.url})
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=1)
        assert await post(router.url, traceparent=UNSAMPLED, x_request_id="mine") == 200
        assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-00", only.jobs[-1].headers["traceparent"])
        assert await post(router.url) == 200
        assert await post(router.url, traceparent="nonsense") == 200
        async with aiohttp.ClientSession() as session:
            twice = [("traceparent", SAMPLED), ("traceparent", SAMPLED)]
            async with session.post(f"{router.url}/run_code", json=JOB, headers=CIMultiDict(twice)) as response:
                assert response.status == 200
        assert await post(router.url, "/run_code/batch") == 200
        await eventually(lambda: len(collector.spans) == 8, what="four jobs' spans")
    jobs = collector.jobs()
    assert len({job.trace for job in jobs} | {TRACE}) == 5
    assert {job.parent for job in jobs} == {""}
    heard = [received.headers["traceparent"].split("-")[1:3] for received in only.jobs[1:]]
    assert heard == [[job.trace, attempt.id] for job in jobs for attempt in collector.attempts(job)]


async def test_failed_and_abandoned_jobs_are_exported(
    system: System, workers: list[ScriptedWorker], collector: Collector
) -> None:
    """Spans name a dead worker, a wait without result and a client that left; a stop exports the last of them."""
    held, dead, _ = workers
    gate = Gate()
    held.script = gate
    await dead.die()
    system.configure(
        [held.url, dead.url],
        default_max_concurrency=1,
        health_check_interval=60,
        health_check={"fall": 9},
        queue={"timeout": 2},
        traces={"endpoint": collector.url},
    )
    system.env["OTEL_BSP_SCHEDULE_DELAY"] = "60000"  # exports only at the end
    async with system.router(1) as router:
        running = asyncio.create_task(post(router.url, x_request_id="runs"))
        await eventually(lambda: held.running == 1, what="a running job")
        assert await post(router.url, x_request_id="waits") in {503, 504}
        await eventually(lambda: _wait(router.url, 0), what="an empty queue")
        leaving = asyncio.create_task(post(router.url, x_request_id="leaves"))
        await eventually(lambda: _wait(router.url, 1), what="a pending job")
        leaving.cancel()
        await eventually(lambda: _wait(router.url, 0), what="an empty queue after its client left")
        router.send(signal.SIGTERM)
        gate.open()
        assert await running == 200
        assert await router.ended() == 0
    by_id = {str(job.attributes["sfr.request_id"]): job for job in collector.jobs()}
    assert by_id["runs"].attributes["sfr.verdict"] == "result"
    assert (by_id["leaves"].attributes["http.response.status_code"], by_id["leaves"].is_error) == (499, False)
    assert by_id["waits"].is_error
    assert by_id["waits"].attributes["sfr.verdict"] in {"queue_timeout", "all_failed"}
    away = [
        span for job in by_id.values() for span in collector.attempts(job) if span.attributes["sfr.worker"] == dead.url
    ]
    assert {span.attributes["sfr.verdict"] for span in away} == {"not_sent"}
    assert all(span.is_error and "cannot be reached" in span.said for span in away)


async def _wait(url: str, jobs: int) -> bool:
    return (await scrape(url)).total("sfr_jobs_waiting") == jobs


async def test_collector_that_is_away_costs_no_job_and_logs_once(
    system: System, workers: list[ScriptedWorker], collector: Collector
) -> None:
    """Repeated failures to export log one line; the collector's return logs one more, and spans arrive again."""
    system.configure([workers[0].url], traces={"endpoint": collector.url})
    system.env["OTEL_EXPORTER_OTLP_TIMEOUT"] = "1"
    collector.status = 400
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=1)
        for seen in range(3):
            assert {answer.status for answer in await post_jobs(router.url, 20, 4)} == {200}
            await eventually(lambda seen=seen: collector.requests > seen, what="an attempt")  # type: ignore[misc]
        assert router.output.count("Traces are lost") == 1
        collector.status = 200
        assert await post(router.url) == 200
        await eventually(lambda: "Traces are taken" in router.output, what="the collector's return")
        assert collector.spans
        await collector.__aexit__(None, None, None)
        assert {answer.status for answer in await post_jobs(router.url, 20, 4)} == {200}
        await eventually(lambda: router.output.count("Traces are lost") == 2, what="the lost collector")
        router.send(signal.SIGTERM)
        assert await router.ended(10) == 0
        assert "opentelemetry" not in router.output
        assert "Traceback" not in router.output
        await collector.listen()


async def test_without_an_endpoint_the_client_s_trace_passes_through(
    system: System, workers: list[ScriptedWorker], collector: Collector
) -> None:
    """Nothing is exported, and the worker gets the client's own trace headers."""
    system.configure([workers[0].url])
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=1)
        assert await post(router.url, traceparent=SAMPLED, tracestate="vendor=1") == 200
    (received,) = workers[0].jobs
    assert (received.headers["traceparent"], received.headers["tracestate"]) == (SAMPLED, "vendor=1")
    assert not collector.requests
