"""Failed jobs on their whole way: from workers on real sockets, through a router, into a real Valkey, to who asks."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from redis import Redis

from router.auth.access import Access
from router.composition import create_app
from router.config.load import parse
from tests.support.eventually import eventually
from tests.support.programs import Valkey
from tests.support.serving import served
from tests.support.worker import Exchange, ScriptedWorker, hang

CODE, INPUT, OUTPUT = "very secret code", "very secret input", "very secret output"
JOB = {"code": CODE, "stdin": INPUT, "language": "cpp", "compile_timeout": 0, "run_timeout": 1}
LARGE = {**JOB, "files": {"a": "x" * 100_000}}
GOOD = {"status": "Success", "run_result": {"status": "Finished", "stdout": OUTPUT}}
WRONG = {"status": "Failed", "run_result": {"status": "Finished", "return_code": 1, "stdout": OUTPUT}}
_MB = 10**6


async def by_header(exchange: Exchange) -> None:
    """Do what the job's header `x-do` says."""
    match exchange.request.headers.get("x-do", ""):
        case "sandbox":
            await exchange.answer(200, {"status": "SandboxError", "message": OUTPUT})
        case "error":
            await exchange.answer(500, {"detail": OUTPUT})
        case "wrong":
            await exchange.answer(200, WRONG)
        case "bad":
            await exchange.answer(422, {"detail": OUTPUT})
        case "cut":
            await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n{" % (9 * _MB) + b" " * 2 * _MB)
            exchange.close()
        case "fault":
            await exchange.answer(502, {"detail": OUTPUT})
        case "hang":
            await hang(exchange)
        case _:
            await exchange.answer(200, GOOD)


@asynccontextmanager
async def routed(valkey: Valkey, *workers: ScriptedWorker, **more: object) -> AsyncIterator[str]:
    """Serve a router of this process before these workers."""
    given = {
        "workers": [worker.url for worker in workers],
        "redis": {"url": valkey.url},
        "retry": {"attempts": 2},
        "breaker": {"failures": 1000},
        "queue": {"without_workers": 0.1},
        "job_grace": 5,
        **more,
    }
    settings = parse(json.dumps(given), "t")
    async with served(create_app(settings, Access.load(settings))) as url:
        yield url


async def post(url: str, do: str, job: Any = JOB, path: str = "/run_code", **headers: str) -> None:
    """Send a job whose id is what it does, and wait for the end of its answer."""
    named = {"x-do": do, "x-request-id": do, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(url + path, json=job, headers=named) as response:
                await response.read()
        except aiohttp.ClientPayloadError:
            assert do == "cut"


async def told(url: str, **search: str) -> list[dict[str, Any]]:
    """Return the failed jobs that the router tells of, without their times."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/admin/failures", params=search) as response:
        assert response.status == 200
        return list((await response.json())["failures"])


async def test_jobs_that_fail_by_others_fault_are_found(
    redis: Redis, lasting_valkey: Valkey, workers: list[ScriptedWorker]
) -> None:
    """Each is found with its attempts; programs that are wrong, bad requests and clients that leave are not there."""
    for worker in workers:
        worker.script = by_header
    async with routed(lasting_valkey, *workers) as url:
        sent = [post(url, do) for do in ("well", "wrong", "bad", "fault", "error", "sandbox", "cut")]
        late = post(url, "hang", LARGE, x_router_tenant="run-7", x_router_deadline_ms="700")
        nowhere = post(url, "nowhere", x_router_labels="gpu", x_router_tenant="run-7")
        await asyncio.gather(*sent, late, nowhere, post(url, "fault", [JOB, JOB], "/run_code/batch"))
        await eventually(lambda: _holds(url, 8), what="all failed jobs")
        found = {each["request_id"]: each for each in await told(url)}
        assert [each["request_id"] for each in await told(url, request_id="hang", tenant="run-7")] == ["hang"]
        assert len(await told(url, request_id="fault")) == 3
        on_one = await told(url, worker=workers[0].url)
        assert on_one == [each for each in await told(url) if workers[0].url in _workers(each)]
    endings = {name: (each["status"], each["outcome"], len(each["attempts"])) for name, each in found.items()}
    assert endings == {
        **dict.fromkeys(("fault", "fault-0", "fault-1"), (503, "all_failed", 2)),
        "error": (500, "error", 2),
        "sandbox": (200, "sandbox_error", 2),
        "cut": (200, "answer_cut", 1),
        "hang": (504, "deadline", 1),
        "nowhere": (503, "no_workers", 0),
    }
    assert {each["language"] for each in found.values()} == {"cpp"}
    assert {name for name, each in found.items() if each["tenant"] == "run-7"} == {"hang", "nowhere"}
    assert found["nowhere"]["detail"] == "No worker has the label gpu"
    assert found["fault"]["attempts"][0]["cause"] == "returned 502: Bad Gateway"
    assert found["hang"]["attempts"][0]["cause"] == "has not answered yet"
    assert 0 < found["hang"]["attempts"][0]["took_ms"] <= found["hang"]["took_ms"]
    assert "very secret" not in str(redis.xrange("sfr:failures"))


async def _holds(url: str, count: int) -> bool:
    return len(await told(url)) >= count


def _workers(failure: dict[str, Any]) -> set[str]:
    return {attempt["worker_url"] for attempt in failure["attempts"]}


async def test_a_job_that_waited_in_vain_tells_for_how_long(
    redis: Redis, lasting_valkey: Valkey, worker: ScriptedWorker
) -> None:
    """Its wait counts although it ended without a lease; the other job has the only slot."""
    assert redis.ping()
    worker.script = hang
    async with routed(lasting_valkey, worker, default_max_concurrency=1) as url:
        await asyncio.gather(*(post(url, f"{number}", x_router_deadline_ms="900") for number in range(2)))
        await eventually(lambda: _holds(url, 2), what="both failed jobs")
        (waited,) = [each for each in await told(url) if each["outcome"] == "queue_timeout"]
    assert waited["attempts"] == []
    assert 0 < waited["queue_ms"] <= waited["took_ms"]
