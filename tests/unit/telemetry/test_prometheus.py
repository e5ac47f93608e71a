"""How requests are counted on /metrics: the application in this process, scripted workers, no Redis."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from router.composition import create_app
from router.config.load import parse
from router.fleet.stats import BOUNDS_S, TenantStats, TenantUsage
from router.policy.tenants import OTHER
from router.telemetry.prometheus import BulkHistogram, most_used
from router.telemetry.recorder import Timing
from tests.support.eventually import eventually
from tests.support.load import JOB
from tests.support.scrape import scrape
from tests.support.serving import served
from tests.support.worker import Exchange, Gate, ScriptedWorker, always, hang

TIMES = st.lists(st.one_of(st.floats(0, 1000), st.sampled_from(BOUNDS_S)), max_size=30)
SANDBOX_ERROR = {"status": "SandboxError"}


@pytest.fixture
async def url(workers: list[ScriptedWorker]) -> AsyncIterator[str]:
    """A router before three scripted workers with room for one job each."""
    settings = {
        "workers": [worker.url for worker in workers],
        "default_max_concurrency": 1,
        "queue": {"timeout": 0.3, "max_waiting": 2},
        "breaker": {"failures": 1000},
        "max_body_mb": 0.01,
        "client_body_timeout": 0.5,
        "redis": {"url": "redis://127.0.0.1:1/0"},
    }
    async with served(create_app(parse(json.dumps(settings), "t"))) as address:
        yield address


async def requests(url: str) -> Mapping[tuple[str, ...], float]:
    """Return the number of requests by endpoint, status and verdict."""
    return (await scrape(url)).values("sfr_requests_total")


async def send(url: str, method: str = "POST", **options: object) -> int:
    """Send one request to /run_code; return its answer's status."""
    options = {"json": JOB, **options} if "data" not in options else options
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{url}/run_code", **options) as response,  # type: ignore[arg-type]
    ):
        await response.read()
        return response.status


@pytest.mark.parametrize(
    ("status", "body", "answered", "verdict"),
    [
        (200, {"status": "Success"}, "200", "result"),
        (404, {}, "404", "result"),
        (500, {}, "500", "error"),
        (200, SANDBOX_ERROR, "200", "sandbox_error"),
        (503, {}, "503", "all_failed"),
    ],
)
async def test_workers_answers_count_by_their_verdicts(
    url: str, workers: list[ScriptedWorker], status: int, body: object, answered: str, verdict: str
) -> None:
    """A worker's own error and the failure of all workers have different verdicts."""
    for worker in workers:
        worker.script = always(status, body)
    assert await send(url) == int(answered)
    assert await requests(url) == {("/run_code", answered, verdict): 1}


async def test_attempts_and_retries_count_by_cause(url: str, workers: list[ScriptedWorker]) -> None:
    """With one worker away and one that answers 502, each failure is an attempt and a retry."""
    await workers[0].die()
    workers[1].script = always(502)
    for _ in range(3):
        assert await send(url) == 200
    counts = await scrape(url)
    faults = float(len(workers[1].jobs))
    attempts = {kind: count for (kind,), count in counts.values("sfr_attempts_total").items() if count}
    retries = {kind: count for (kind,), count in counts.values("sfr_retries_total").items() if count}
    assert attempts == {"result": 3, "fault": faults, **retries}
    assert retries["fault"] == faults
    assert retries["not_sent"] >= 1
    assert counts.values("sfr_worker_time_seconds_count") == {(): sum(attempts.values())}
    assert counts.values("sfr_request_duration_seconds_count") == {("/run_code",): 3}


async def test_refused_requests_count_with_the_reason_s_status(url: str) -> None:
    """A refused request is no job, so it has no duration."""
    assert await send(url, "GET") == 405
    assert await send(url, headers={"x-router-deadline-ms": "soon"}) == 400
    assert await send(url, data=b"x" * 20_000) == 413
    assert await raw(url, b"POST /run_code HTTP/1.1\r\n\r\n") == 400
    assert await raw(url, b"POST /run_code HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n") == 408
    counts = await scrape(url)
    assert counts.values("sfr_requests_total") == {
        ("/run_code", "405", "bad_request"): 1,
        ("/run_code", "400", "bad_request"): 1,
        ("/run_code", "413", "bad_request"): 1,
        ("other", "400", "bad_request"): 1,
        ("other", "408", "bad_request"): 1,
    }
    assert counts.total("sfr_request_duration_seconds_count") == 0


async def test_invalid_lines_of_a_batch_count_too(url: str) -> None:
    """Jobs, invalid lines and a batch refused as a whole count with their own statuses."""
    lines = [json.dumps(JOB), "not JSON", '{"code": "%s"}' % ("x" * 20_000), json.dumps(JOB)]
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/run_code/batch", data="\n".join(lines)) as response:
            answered = Counter(json.loads(line)["status"] for line in (await response.read()).splitlines())
        async with session.get(f"{url}/run_code/batch") as response:
            assert response.status == 405
    assert answered == {200: 2, 422: 1, 413: 1}
    assert await requests(url) == {
        ("/run_code", "200", "result"): 2,
        ("/run_code", "422", "bad_request"): 1,
        ("/run_code", "413", "bad_request"): 1,
        ("/run_code/batch", "405", "bad_request"): 1,
    }


async def raw(url: str, head: bytes) -> int:
    """Send exactly these bytes; return the answer's status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
    writer.write(head)
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


async def test_refused_jobs_and_their_waits_count(url: str, workers: list[ScriptedWorker]) -> None:
    """With three running jobs two time out in the queue and one finds it full; the running ones are shown."""
    gate = Gate()
    for worker in workers:
        worker.script = gate
    running = [asyncio.create_task(send(url)) for _ in range(3)]
    await eventually(lambda: sum(worker.running for worker in workers) == 3, what="three jobs")
    waiting = [asyncio.create_task(send(url)) for _ in range(3)]
    statuses = Counter(await asyncio.gather(*waiting))
    counts = await scrape(url)
    assert statuses == {504: 2, 503: 1}
    assert (counts.total("sfr_jobs_running"), counts.total("sfr_processes")) == (3, 1)
    assert counts.values("sfr_queue_wait_seconds_count") == {(): 5}
    assert round(counts.total("sfr_queue_wait_seconds_sum"), 2) >= 0.6  # timers are accurate to a millisecond
    gate.open()
    assert await asyncio.gather(*running) == [200, 200, 200]
    assert await requests(url) == {
        ("/run_code", "200", "result"): 3,
        ("/run_code", "504", "queue_timeout"): 2,
        ("/run_code", "503", "queue_full"): 1,
    }


async def test_clients_that_leave_or_whose_deadline_passes_count(url: str, workers: list[ScriptedWorker]) -> None:
    """A client that hangs up counts as 499; one whose deadline passes counts as 504."""
    for worker in workers:
        worker.script = hang
    # Of one tenant, the second job would take over the run that the first one has left.
    each = ({"x-router-deadline-ms": "600", "x-router-tenant": f"run-{number}"} for number in range(3))
    assert [await send(url, headers=headers) for headers in each] == [504] * 3
    impatient = asyncio.create_task(send(url))
    await eventually(lambda: _waits(url), what="a pending job")
    impatient.cancel()
    await eventually(lambda: _counts_left(url), what="an empty queue after its client left")
    assert await requests(url) == {("/run_code", "504", "deadline"): 3, ("/run_code", "499", "client_left"): 1}


async def _waits(url: str) -> bool:
    return (await scrape(url)).total("sfr_jobs_waiting") == 1


async def _counts_left(url: str) -> bool:
    return ("/run_code", "499", "client_left") in await requests(url)


async def test_answer_that_breaks_off_counts(url: str, workers: list[ScriptedWorker]) -> None:
    """Its attempt counts as a result, and the missing rest separately."""

    async def breaks_off(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n{" + b" " * 3_000_000)
        exchange.close()

    for worker in workers:
        worker.script = breaks_off
    with pytest.raises(aiohttp.ClientPayloadError):
        await send(url)
    assert (await scrape(url)).total("sfr_answers_cut_total") == 1


async def test_values_of_redis_are_missing_without_it(url: str) -> None:
    """There are no false zeros; the configured fleet and the outage are shown."""
    assert await send(url) == 200
    counts = await scrape(url)
    assert {family.name for family in counts.families}.isdisjoint({"sfr_queue_length", "sfr_worker_leases"})
    assert set(counts.by_worker("sfr_worker_cap").values()) == {1}
    assert set(counts.by_worker("sfr_worker_speed").values()) == {1}
    assert counts.total("sfr_processes_degraded") == 1
    assert counts.total("sfr_redis_failures_total") >= 1


async def test_open_metrics_are_served_on_request(url: str) -> None:
    """Newer Prometheus servers ask for them."""
    accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.3"
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/metrics", headers={"accept": accept}) as response,
    ):
        assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert (await response.text()).endswith("# EOF\n")


@given(TIMES, TIMES)
def test_bulk_histogram_equals_observing_one_by_one(first: list[float], second: list[float]) -> None:
    """Times added in bulk are in the same buckets as times observed one by one, even those on a bound."""
    registry = CollectorRegistry()
    bulk = BulkHistogram("bulk", "-", registry=registry, buckets=BOUNDS_S)
    single = BulkHistogram("single", "-", registry=registry, buckets=BOUNDS_S)
    for times in (first, second):
        timing = Timing()
        for seconds in times:
            timing.add(seconds)
            single.observe(seconds)
        bulk.add(timing)
    shown = {family.name: [sample[1:3] for sample in family.samples] for family in registry.collect()}
    *bulk_buckets, (_, bulk_sum) = shown["bulk"]
    *single_buckets, (_, single_sum) = shown["single"]
    assert bulk_buckets == single_buckets
    assert abs(bulk_sum - single_sum) < 1e-6


def tenant(busy_ms: int) -> TenantUsage:
    """Return a tenant that has used so much, with a running job and two waiting ones."""
    return TenantUsage(1, 2, TenantStats(3, 1, busy_ms, 5))


def test_tenants_beyond_the_limit_share_a_series() -> None:
    """Those that have used most have their own; the rest is added up, with what Redis has under that name already."""
    tenants = {"a": tenant(10), "b": tenant(1000), OTHER: tenant(5000), "c": tenant(100), "d": tenant(0)}
    assert most_used(tenants, 4) == tenants
    assert most_used(tenants, 2) == {
        "b": tenant(1000),
        "c": tenant(100),
        OTHER: TenantUsage(3, 6, TenantStats(9, 3, 5010, 15)),
    }


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "d", OTHER]), st.integers(0, 10**6)), st.integers(1, 6))
def test_series_of_tenants_are_few_and_lose_nothing(used: dict[str, int], most: int) -> None:
    """However many tenants there are, and whether or not one is called like the rest."""
    shown = most_used({name: tenant(ms) for name, ms in used.items()}, most)
    assert len(shown.keys() - {OTHER}) <= most
    assert sum(each.stats.busy_ms for each in shown.values()) == sum(used.values())
    assert sum(each.waiting for each in shown.values()) == 2 * len(used)
