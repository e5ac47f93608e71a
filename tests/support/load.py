"""Clients that send many jobs at once and keep each answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

JOB = {"code": "print(1)", "language": "python"}
# How long a client of a steady load rests after each answer: other tests need the CPU, too.
REST_S = 0.05


@dataclass(frozen=True)
class Answered:
    """One job's answer as its client got it."""

    status: int
    body: Any
    seconds: float
    headers: Mapping[str, str]

    @property
    def worker_url(self) -> str:
        """The worker that gave the answer."""
        url: str = self.body["router_metadata"]["worker_url"]
        return url


async def post_jobs(router_url: str, count: int, at_once: int, *, keep_alive: bool = True) -> list[Answered]:
    """Send `count` jobs, `at_once` at a time; without `keep_alive` each uses a new connection."""
    connector = aiohttp.TCPConnector(limit=at_once, force_close=not keep_alive)
    async with aiohttp.ClientSession(connector=connector) as session:
        return await asyncio.gather(*(_post(session, router_url) for _ in range(count)))


async def post_batch(router_url: str, count: int) -> list[dict[str, Any]]:
    """Send a batch of `count` jobs and return its lines in the order they arrived."""
    body = json.dumps(JOB).encode() + b"\n"
    async with (
        aiohttp.ClientSession(read_bufsize=2**20) as session,
        session.post(f"{router_url}/run_code/batch", data=body * count) as response,
    ):
        return [json.loads(line) for line in (await response.read()).splitlines()]


@asynccontextmanager
async def steady_load(router_url: str, at_once: int) -> AsyncIterator[list[Answered]]:
    """Let `at_once` clients send job after job while the block runs; the list holds all answers after it."""
    answers: list[Answered] = []
    is_over = asyncio.Event()

    async def client(session: aiohttp.ClientSession) -> None:
        while not is_over.is_set():
            answers.append(await _post(session, router_url))
            await asyncio.sleep(REST_S)

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as clients:
        for _ in range(at_once):
            clients.create_task(client(session))
        try:
            yield answers
        finally:
            is_over.set()


async def post_job(router_url: str, **more: Any) -> Answered:
    """Send one job over a new connection; `more` goes into its body."""
    async with aiohttp.ClientSession() as session:
        return await _post(session, router_url, {**JOB, **more})


async def _post(session: aiohttp.ClientSession, router_url: str, job: Mapping[str, Any] = JOB) -> Answered:
    start = asyncio.get_running_loop().time()
    async with session.post(f"{router_url}/run_code", json=job) as response:
        body = await response.json()
    return Answered(response.status, body, asyncio.get_running_loop().time() - start, response.headers)
