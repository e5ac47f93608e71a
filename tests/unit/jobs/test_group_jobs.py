"""Jobs of groups over real sockets: the application in this process, scripted workers, no Redis."""

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import pytest

from router.composition import create_app
from router.config.load import parse
from tests.support.eventually import eventually
from tests.support.serving import served
from tests.support.worker import RESULT, Exchange, ScriptedWorker

FAILED = {"status": "Failed", "run_result": {"status": "Finished", "return_code": 1, "stdout": '"Success"'}}


def routed(worker: ScriptedWorker) -> AbstractAsyncContextManager[str]:
    """Return a router before this worker, which runs one job at a time."""
    given = {
        "workers": [{"url": worker.url, "max_concurrency": 1}],
        "redis": {"url": "redis://127.0.0.1:1/0"},
        "retry": {"attempts": 1, "sandbox_error": 0},
    }
    return served(create_app(parse(json.dumps(given), "t")))


async def by_code(exchange: Exchange) -> None:
    """Fail if the code says so."""
    await exchange.answer(200, FAILED if json.loads(exchange.request.body)["code"] == "bad" else RESULT)


async def post_batch(url: str, *jobs: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    """Send these jobs as a batch that stops on failure; return the lines in the order of the jobs."""
    text = "\n".join(map(json.dumps, jobs))
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/run_code/batch?stop_on=failure", data=text, headers=headers) as response,
    ):
        lines = [json.loads(line) for line in (await response.read()).splitlines()]
    return sorted(lines, key=lambda line: int(line["index"]))


async def post(url: str, code: str, group: str = "g", **headers: str) -> tuple[int, dict[str, Any]]:
    """Send one job of a group that stops on failure."""
    fields = {"x-router-group": group, "x-router-stop-on": "failure", **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/run_code", json={"code": code}, headers=fields) as response,
    ):
        return response.status, await response.json()


async def test_batch_that_stops_on_failure_runs_no_job_after_it(worker: ScriptedWorker) -> None:
    """The others are answered at once; the pages count them, and not as errors."""
    worker.script = by_code
    async with routed(worker) as url:
        lines = await post_batch(url, {"code": "good"}, {"code": "bad"}, *[{"code": "good"}] * 200)
        async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
            page = await response.text()
    assert [line["status"] for line in lines] == [200, 200, *[424] * 200]
    assert lines[2]["body"] == {
        "detail": "Skipped: another job of its group has failed",
        "router_metadata": {"skipped": True},
    }
    assert len(worker.jobs) == 2
    assert 'sfr_requests_total{endpoint="/run_code",status="424",verdict="skipped"} 200.0' in page


async def test_lines_of_one_group_stop_without_the_others(worker: ScriptedWorker) -> None:
    """Lines that name the same group form one; those that name none form one, too."""
    worker.script = by_code
    jobs = [("a", "bad"), ("b", "good"), ("a", "good"), ("", "bad"), ("b", "good"), ("", "good")]
    hints = [{"router": {"group": group}} if group else {} for group, _ in jobs]
    async with routed(worker) as url:
        for _ in range(2):  # a later batch has groups of its own
            bodies = [{"code": code, **hint} for (_, code), hint in zip(jobs, hints, strict=True)]
            lines = await post_batch(url, *bodies)
            assert [line["status"] for line in lines] == [200, 200, 424, 200, 200, 424]
            assert lines[2]["body"]["router_metadata"] == {"skipped": True, "group": "a"}
        assert (await post(url, "good", "a"))[0] == 200


async def test_requests_of_one_group_stop(worker: ScriptedWorker) -> None:
    """Pending ones are answered when one fails, later ones at once; another tenant's group of this name goes on."""
    gate = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await gate.wait()
        await by_code(exchange)

    worker.script = script
    async with routed(worker) as url:
        failing = asyncio.create_task(post(url, "bad"))
        await eventually(lambda: worker.running == 1, what="a job")
        pending = [asyncio.create_task(post(url, "good")) for _ in range(3)]
        theirs = asyncio.create_task(post(url, "good", **{"x-router-tenant": "them"}))
        await asyncio.sleep(0.1)  # so that all are pending, else they are skipped as later ones
        gate.set()
        assert (await failing)[1]["status"] == "Failed"
        told = [await job for job in pending]
        assert (await theirs)[0] == 200
        told.append(await post(url, "good"))
    assert (
        told
        == [
            (
                424,
                {
                    "detail": "Skipped: a job of group g has failed",
                    "router_metadata": {"skipped": True, "group": "g"},
                },
            )
        ]
        * 4
    )
    assert len(worker.jobs) == 2


@pytest.mark.parametrize(
    ("status", "answer", "stops"),
    [
        (200, FAILED, True),
        (200, {"message": "", "status": "Failed"}, True),
        (200, {**FAILED, "compile_result": {"status": "Error"}}, True),
        (200, {**FAILED, "stdout": "x" * 2_000_000}, True),
        (200, {**RESULT, "stdout": '"Failed"'}, False),
        (200, {**RESULT, "inner": {"status": "Failed"}}, False),
        (200, {"status": "SandboxError"}, False),
        (422, {"status": "Failed"}, False),
        (500, {"status": "Failed"}, False),
    ],
)
async def test_group_stops_for_what_the_code_did_alone(
    worker: ScriptedWorker, status: int, answer: dict[str, Any], *, stops: bool
) -> None:
    """A worker's error, or a bad request, says nothing of the code."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, answer)

    worker.script = script
    async with routed(worker) as url:
        await post(url, "x")
        worker.script = by_code
        assert (await post(url, "good"))[0] == (424 if stops else 200)


async def test_batch_s_header_names_a_group_of_several_requests(worker: ScriptedWorker) -> None:
    """Jobs of the batch whose lines name no group are of the same group as single requests."""
    worker.script = by_code
    async with routed(worker) as url:
        await post(url, "bad")
        lines = await post_batch(
            url, {"code": "good"}, {"code": "good", "router": {"group": "g"}}, **{"x-router-group": "g"}
        )
    assert [line["status"] for line in lines] == [424, 200]


async def test_request_that_stops_on_failure_has_to_name_its_group(worker: ScriptedWorker) -> None:
    """The refusal names both header fields."""
    async with (
        routed(worker) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/run_code", json={}, headers={"x-router-stop-on": "failure"}) as response,
    ):
        assert response.status == 400
        assert (await response.json())["detail"] == "x-router-stop-on: expected x-router-group with it"
