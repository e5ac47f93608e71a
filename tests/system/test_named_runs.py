"""Runs that share one fleet under names of their own, as their clients give these: by URL, key, SDK and batch."""

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import aiohttp
import pytest
from sandbox_fusion import RunCodeRequest, RunStatus, run_code, run_code_async, run_concurrent

from tests.support.faults import echo
from tests.support.load import post_batch
from tests.support.programs import Router, System
from tests.support.worker import ScriptedWorker

LIMITS = {"compile_timeout": 0.2, "run_timeout": 0.2}
TRIES = 3


async def as_verl(url: str, code: str) -> Mapping[str, Any]:
    """Call as verl's reward code does; its settings take this URL and nothing else. Return the answer.

    Each try has a connection of its own, waits compile_timeout + run_timeout + 10 s, and follows 504 alone.
    """
    job = {"code": code, "language": "python", "memory_limit_MB": 1024, "stdin": "", **LIMITS}
    timeout = aiohttp.ClientTimeout(total=sum(LIMITS.values()) + 10)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), timeout=timeout) as session:
        for _ in range(TRIES):
            headers = {"content-type": "application/json", "accept": "application/json"}
            async with session.post(url, json=job, headers=headers) as response:
                if response.status == 504:
                    continue
                response.raise_for_status()
                answer: Mapping[str, Any] = await response.json()
                return answer
    raise AssertionError("three times 504")


def tenants(answers: list[Mapping[str, Any]]) -> list[str | None]:
    """Return the tenant that each answer tells."""
    return [answer["router_metadata"].get("tenant") for answer in answers]


@pytest.fixture
def echoing(workers: list[ScriptedWorker]) -> list[str]:
    """Three workers whose jobs print their code; their URLs."""
    for worker in workers:
        worker.script = echo
    return [worker.url for worker in workers]


async def test_runs_of_verl_and_the_sdk_are_told_apart_by_their_urls(
    system: System, echoing: list[str], workers: list[ScriptedWorker]
) -> None:
    """Each gets its own results; a run without a name is as ever. Workers see no prefix."""
    system.configure(echoing, default_max_concurrency=2)
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        urls = [f"{router.url}{prefix}/run_code" for prefix in ("/t/run-7", "/t/run-8", "")]
        answers = await asyncio.gather(*(as_verl(url, f"{url} {number}") for number in range(30) for url in urls))
        assert tenants(list(answers)) == ["run-7", "run-8", None] * 30
        wanted = [f"{url} {number}" for number in range(30) for url in urls]
        assert [answer["run_result"]["stdout"] for answer in answers] == wanted
        await _runs_by_sdk(f"{router.url}/t/run-7/")
        assert await _tenants_of_batch(router) == ["run-9"] * 20
        async with aiohttp.ClientSession() as session, session.get(f"{router.url}/t/run-7/v1/ping") as response:
            assert (response.status, await response.json()) == (200, "pong")
    jobs = [job for worker in workers for job in worker.jobs]
    assert len(jobs) == 90 + 41 + 20
    assert {job.target for job in jobs} == {"/run_code"}
    assert not any("x-router" in job.head.lower() for job in jobs)


async def _runs_by_sdk(endpoint: str) -> None:
    """Run 40 jobs by the SDK's threads and one by its coroutine."""
    requests = [RunCodeRequest(code=f"sample-{number}", language="python", **LIMITS) for number in range(40)]
    kwargs = [{"endpoint": endpoint}] * len(requests)
    results = await asyncio.to_thread(run_concurrent, run_code, args=[[each] for each in requests], kwargs=kwargs)
    results.append(await run_code_async(requests[0], endpoint=endpoint))
    assert [result.status for result in results] == [RunStatus.Success] * 41
    assert [result.run_result.stdout for result in results] == [each.code for each in (*requests, requests[0])]


async def _tenants_of_batch(router: Router) -> list[str | None]:
    lines = await post_batch(f"{router.url}/t/run-9", 20)
    return tenants([line["body"] for line in lines])


async def test_runs_with_keys_are_told_apart_by_their_keys(system: System, echoing: list[str]) -> None:
    """A key in the URL, as Basic authorization, names the run; neither a prefix nor a header can name another one."""
    held = system.folder / "keys"
    keys = {"first-key": "run-7", "second-key": "Team B", "third-key": ""}
    held.write_text("".join(f"{sha256(key.encode()).hexdigest()} {name}\n" for key, name in keys.items()))
    system.configure(echoing, api_keys=str(held))
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        named = {key: f"http://any:{key}@127.0.0.1:{router.port}" for key in keys}
        urls = [f"{base}{prefix}/run_code" for base in named.values() for prefix in ("", "/t/run-8")]
        answers = await asyncio.gather(*(as_verl(url, "1") for url in urls * 4))
        assert tenants(list(answers)) == ["run-7", "run-7", "Team-B", "Team-B", None, None] * 4
        result = await asyncio.to_thread(
            run_code, RunCodeRequest(code="by SDK", language="python"), f"{named['first-key']}/t/run-8/"
        )
        assert result.run_result.stdout == "by SDK"
        basic = {"authorization": "Basic " + b64encode(b"any:second-key").decode(), "x-router-tenant": "run-7"}
        job = {"code": "1", "language": "python"}
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{router.url}/run_code", json=job, headers=basic) as response:
                assert response.headers["x-router-tenant"] == "Team-B"
            async with session.post(f"{router.url}/t/run-7/run_code", json=job) as response:
                assert response.status == 401
        assert "-key" not in router.output
