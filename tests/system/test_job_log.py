"""Log lines of failed jobs from real gunicorn."""

import asyncio
import json
from collections import Counter
from hashlib import sha256
from typing import Any

import aiohttp

from tests.support.eventually import eventually
from tests.support.load import JOB
from tests.support.programs import Router, System
from tests.support.worker import ScriptedWorker, always

JOBS = 300


def failed(router: Router) -> list[dict[str, Any]]:
    """Return the complete log lines about failed jobs."""
    lines = [json.loads(line) for line in router.output.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line["message"].startswith("Job ")]


async def test_each_failed_job_has_one_line_from_any_process(system: System, workers: list[ScriptedWorker]) -> None:
    """Each of many failed jobs has one line with its id, its key's name, and each attempt's worker and cause."""
    (worker, *_) = workers
    worker.script = always(503)
    held = system.folder / "keys"
    held.write_text(f"{sha256(b'a-secret').hexdigest()}  trainer-1\n")
    system.configure([worker.url], api_keys=str(held), breaker={"failures": 10**6}, retry={"attempts": 2})
    system.env["LOG_FORMAT"] = "json"
    key = {"authorization": "Bearer a-secret"}
    async with system.sidecar(), system.router(2) as router, aiohttp.ClientSession(headers=key) as session:
        await router.sees(healthy=1)

        async def send(number: int) -> int:
            named = {"x-request-id": f"job-{number}"}
            async with session.post(f"{router.url}/run_code", json=JOB, headers=named) as response:
                return response.status

        assert set(await asyncio.gather(*map(send, range(JOBS)))) == {503}
        await eventually(lambda: len(failed(router)) >= JOBS, what="all lines")
        lines = failed(router)
    assert Counter(line["request_id"] for line in lines) == {f"job-{number}": 1 for number in range(JOBS)}
    assert {(line["key_name"], line["path"], line["status"]) for line in lines} == {("trainer-1", "/run_code", 503)}
    assert {line["verdict"] for line in lines} == {"all_failed"}
    for line in lines:
        assert line["attempts"]
        for attempt in line["attempts"]:
            assert attempt == {"worker_url": worker.url, "cause": "returned 503: Service Unavailable"}
        assert line["seconds"] > 0
    assert "a-secret" not in router.output
    assert str(JOB["code"]) not in router.output
