"""Odd input over real sockets: huge numbers, unparsable bodies, and workers that hang or answer 999."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from router.composition import create_app
from router.config.load import parse
from tests.support.serving import served
from tests.support.worker import ScriptedWorker, always, hang

KB = 2**10
FILLER = b"x" * (40 * KB)


@asynccontextmanager
async def routed(workers: list[ScriptedWorker], **more: object) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """A router before these workers, and a client."""
    given = {
        "workers": [worker.url for worker in workers],
        "redis": {"url": "redis://127.0.0.1:1/0"},
        "retry": {"budget_percent": 1000},
        "timeout": 10,
        "max_body_mb": 1,
        "max_buffered_mb": 1,
        **more,
    }
    settings = parse(json.dumps(given), "t")
    async with served(create_app(settings)) as url, aiohttp.ClientSession() as session:
        yield url, session


ODD = {
    "1e308": b'{"run_timeout": 1e308, "compile_timeout": 1e308, "code": "%s"}' % FILLER,
    "1e999": b'{"run_timeout": 1e999, "code": "%s"}' % FILLER,
    "infinite": b'{"run_timeout": Infinity, "code": "%s"}' % FILLER,
    "below 0": b'{"run_timeout": -1e308, "compile_timeout": -Infinity, "code": "%s"}' % FILLER,
    "NaN": b'{"run_timeout": NaN, "code": "%s"}' % FILLER,
    "5,000 digits": b'{"run_timeout": 1%s, "code": "%s"}' % (b"0" * 5000, FILLER),
    "deeply nested": b'{"run_timeout": 1, "a": %s%s}' % (b"[" * 20_000, b"]" * 20_000),
    "deeply nested, large": b'{"run_timeout": 1, "a": %s%s}' % (b"[" * 60_000, b"]" * 60_000),
    "without an end": b'{"run_timeout": 1, "a": %s' % (b'{"a":' * 8_000),
    "large, without an end": b'{"run_timeout": "%s' % (b"\\" * 100_001),
    "no UTF-8": b'{"run_timeout": 1, "code": "%s\xff"}' % FILLER,
    "UTF-16": '{"run_timeout": 1}'.encode("utf-16") + b" \0" * (20 * KB),
    "nothing but space": b" " * (100 * KB),
    "no JSON": b"run_timeout" + FILLER,
}


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("name", ODD)
async def test_odd_body_is_answered_and_releases_its_bytes(
    workers: list[ScriptedWorker], name: str, is_known: bool
) -> None:
    """The worker judges the body, and the next job finds room."""
    async with routed(workers) as (url, session):
        for number in range(30):
            fields = {} if is_known else {"x-request-id": f"{number}"}
            async with session.post(f"{url}/run_code", data=ODD[name], headers=fields) as response:
                assert response.status == 200
        async with session.post(f"{url}/run_code", data=b'{"code": "%s"}' % (b"x" * (900 * KB))) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("deadline", "status"),
    [("9" * 5000, 200), ("9" * 19, 200), ("0" * 4000 + "5000", 200), ("0" * 5000, 400), ("-1", 400), ("1e3", 400)],
)
async def test_deadline_is_any_whole_number(workers: list[ScriptedWorker], deadline: str, status: int) -> None:
    """A deadline of any length is accepted, and anything else gets 400, in a batch, too."""
    async with routed(workers) as (url, session):
        for path in ("/run_code", "/run_code/batch"):
            async with session.post(f"{url}{path}", data=b"{}", headers={"x-router-deadline-ms": deadline}) as response:
                assert response.status == status
                await response.read()


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("a b", "x-router-labels: expected names with commas between, such as gpu,ib; got 'a b'"),
        ("gpu,,ib", "x-router-labels: expected names with commas between, such as gpu,ib; got ''"),
        ("gpu;cpp", "x-router-labels: expected names with commas between, such as gpu,ib; got 'gpu;cpp'"),
        (",".join(f"l{number}" for number in range(65)), "x-router-labels: expected 64 names at most, got 65"),
    ],
)
async def test_labels_are_a_list_of_names(workers: list[ScriptedWorker], labels: str, told: str) -> None:
    """Anything else gets 400 that names it, in a batch, too, and no worker sees the job."""
    async with routed(workers) as (url, session):
        for path in ("/run_code", "/run_code/batch"):
            async with session.post(f"{url}{path}", data=b"{}", headers={"x-router-labels": labels}) as response:
                assert (response.status, (await response.json())["detail"]) == (400, told)
    assert not any(worker.jobs for worker in workers)


async def test_label_that_no_worker_has_is_named(workers: list[ScriptedWorker]) -> None:
    """Labels may come in several header fields: they are one list."""
    async with routed(workers) as (url, session):
        headers = [("x-router-labels", "gpu"), ("x-router-labels", "ib")]
        async with session.post(f"{url}/run_code", data=b"{}", headers=headers) as response:
            assert (response.status, (await response.json())["detail"]) == (503, "No worker has the label gpu")


@pytest.mark.parametrize("status", [0, 99, 600, 999])
async def test_answer_with_an_invalid_status_is_retried(workers: list[ScriptedWorker], status: int) -> None:
    """The client gets another worker's answer or an error, and never waits for ever."""
    workers[0].script = always(status)
    async with routed(workers) as (url, session):
        for _ in range(4):
            async with asyncio.timeout(5), session.post(f"{url}/run_code", data=b"{}") as response:
                assert response.status == 200
        for worker in workers:
            worker.script = always(status)
        async with asyncio.timeout(5), session.post(f"{url}/run_code", data=b"{}") as response:
            assert (response.status, len((await response.json())["attempts"])) == (503, 3)


HUNG = {
    "/submit": (b'{"id": 1}', {"/submit": {"timeout": 0.2}}),
    "/get_prompts": (b"{}", {"/get_prompts": {"timeout": 0.2}}),
    "/list_datasets": (None, {"/list_datasets": {"timeout": 0.2}}),
    "/common_evaluate_batch": (b'{"total_timeout": "0.1"}', {"/common_evaluate_batch": {"limit": "total_timeout"}}),
    "/fork/run": (b'{"config": {"run_timeout": 0.1}}', {"/fork/run": {"limit": "config.run_timeout"}}),
    "/fork/judge": (b'{"config": {}}', {"/fork/judge": {"limit": "config.run_timeout", "timeout": 0.2}}),
    "/fork/list": (None, {"/fork/list": {"method": "GET", "timeout": 0.2}}),
    "/run_code": (b'{"run_timeout": "0.05", "compile_timeout": false, "x": NaN}', {}),
}


@pytest.mark.parametrize("path", HUNG)
async def test_hung_worker_costs_only_the_endpoint_s_own_bound(workers: list[ScriptedWorker], path: str) -> None:
    """The job is retried long before `timeout`."""
    body, endpoints = HUNG[path]
    workers[0].script = hang
    async with routed(workers, endpoints=endpoints, job_grace=0.1, timeout=600) as (url, session):
        answered = []
        for _ in range(3):
            method = "GET" if body is None else "POST"
            async with asyncio.timeout(30), session.request(method, f"{url}{path}", data=body) as response:
                answered.append((response.status, int(response.headers["x-router-attempt"])))
        assert [status for status, _ in answered] == [200] * 3
        assert max(attempt for _, attempt in answered) == 2


async def test_endpoint_of_a_fork_is_routed_if_it_is_configured(workers: list[ScriptedWorker]) -> None:
    """A configured endpoint takes its own method and needs a key if jobs do; another one gets 404."""
    async with routed(workers) as (url, session), session.post(f"{url}/common_evaluate_batch", data=b"{}") as response:
        assert response.status == 404
    async with routed(workers, endpoints={"/common_evaluate_batch": {}}) as (url, session):
        for _ in range(2):  # the second time its head is cached
            async with session.post(f"{url}/common_evaluate_batch", data=b"{}") as response:
                assert (response.status, response.headers["x-router-attempt"]) == (200, "1")
        async with session.get(f"{url}/common_evaluate_batch") as response:
            assert (response.status, response.headers["allow"]) == (405, "POST")
    assert {job.target for worker in workers for job in worker.jobs} == {"/common_evaluate_batch"}
