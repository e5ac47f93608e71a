"""A router process of the last release as Redis and the workers see it: it speaks that release's calls, and no others.

Nothing here is imported from the present release's scheduling, so that a change of its messages changes nothing here.
"""

import asyncio
import json
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Any, Self

import aiohttp
from redis.asyncio import Redis

from tests.support.eventually import eventually
from tests.support.last_release import SCRIPT
from tests.support.load import JOB

BEAT_S = 0.5
# Longer than any job takes: leases of a process that was killed end by then.
BOUND_MS, WAIT_MS = 5_000, 60_000
ATTEMPTS = 3
# Its rules, as its sample config.yaml has them, but that every retry is within the budget.
RULES = {
    "strategy": "round_robin",
    "max_waiting": 10_000,
    "failures": 5,
    "base_ms": 30_000,
    "max_ms": 300_000,
    "max_ejected_percent": 50.0,
    "budget_percent": 20.0,
    "budget_per_second": 1000.0,
    "quarantine_ms": 300_000,
}


@dataclass
class Job:
    """A job on its way: what it asks for, and the lease (its number and URL) that it waits for."""

    name: str
    ticket: int = 0
    tried: list[str] = field(default_factory=list)
    retry_of: str = ""
    lease: "asyncio.Future[tuple[int, str]]" = field(init=False)  # made anew for each attempt


class LastReleaseRouter:
    """One process of it. `async with` starts it; at the end of the block it has given back what it held."""

    def __init__(self, redis: Redis, process: str) -> None:
        self.tickets: list[int] = []
        self._redis = redis
        self._process = process
        self._script = redis.register_script(SCRIPT)
        self._numbers = count(1)
        self._jobs: dict[int, Job] = {}  # those that wait for a lease
        self._held: dict[int, str] = {}
        self._missed: set[int] = set()
        self._said: dict[str, list[Any]] = {}  # what the next call will say
        self._is_something_said = asyncio.Event()
        self._is_calling = False
        self._is_gone = False

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._running = [asyncio.create_task(loop()) for loop in (self._call, self._beat, self._listen)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and not self._is_gone:
            await self.leave()
        await self.die()

    async def leave(self) -> None:
        """End as by SIGTERM, after its jobs: say what there is to say."""
        await eventually(lambda: not self._said and not self._is_calling, what="its last call")
        await self.die()

    async def die(self) -> None:
        """End as by SIGKILL."""
        self._is_gone = True
        for task in self._running:
            task.cancel()
        ends = await asyncio.gather(*self._running, return_exceptions=True)
        await self._session.close()
        assert not [end for end in ends if not isinstance(end, asyncio.CancelledError)], ends

    async def run(self, jobs: int, at_once: int) -> list[int]:
        """Run so many jobs, `at_once` at a time; return their answers' statuses."""
        left = iter(range(jobs))

        async def client() -> list[int]:
            return [await self._run(Job(f"{self._process}-{number}")) for number in left]

        return [status for of in await asyncio.gather(*(client() for _ in range(at_once))) for status in of]

    async def _run(self, job: Job) -> int:
        for _ in range(ATTEMPTS):
            job.lease = asyncio.get_running_loop().create_future()
            self._ask(job)
            number, url = await job.lease
            async with self._session.post(f"{url}/run_code", json=JOB) as response:
                await response.read()
            is_well = response.status == 200
            del self._held[number]
            told = ["ok", True, "", ""] if is_well else ["error", True, job.name, f"returned {response.status}"]
            self._say("ended", [url, number, *told, 0])
            if is_well:
                break
            job.tried.append(url)
            job.retry_of = job.name
        return response.status

    def _ask(self, job: Job) -> None:
        number = next(self._numbers)
        self._jobs[number] = job
        self._say("arrived", [number, BOUND_MS, WAIT_MS, job.ticket, job.tried, job.retry_of])

    def _ask_again(self, number: int) -> None:
        """Ask under a new number with the old ticket: the old number is in no queue any more."""
        if job := self._jobs.pop(number, None):
            self._say("left", number)
            job.retry_of = ""
            self._ask(job)

    def _say(self, kind: str, *words: Any) -> None:
        self._said.setdefault(kind, []).extend(words)
        self._is_something_said.set()

    async def _call(self) -> None:
        """Say all that there is to say, in one call after another."""
        while True:
            await self._is_something_said.wait()
            self._is_something_said.clear()
            said, self._said, self._is_calling = self._said, {}, True
            call = {"process": self._process, **said}
            reply = await self._script(keys=["sfr:plan"], args=[json.dumps(call), json.dumps(RULES)])
            self._is_calling = False
            self._apply(said, json.loads(str(reply)))

    def _apply(self, said: dict[str, list[Any]], reply: dict[str, Any]) -> None:
        assert reply.get("has_fleet", True), "the fleet was never written"
        refused = {kind: reply[kind] for kind in ("refused", "exhausted", "unfunded", "quarantined") if reply.get(kind)}
        assert not refused, f"{self._process}'s jobs were refused: {refused}"
        queued = iter(reply.get("queued", ()))
        for number, ticket in zip(queued, queued, strict=True):
            if job := self._jobs.get(number):
                job.ticket = ticket
        # This release adds fields to a grant; the last one reads those that it knows.
        for number, url, ticket, *_ in reply.get("granted", ()):
            self._take(number, url, ticket)
        urls = {number: url for url, number, _ in said.get("claims", ())}
        for number in reply.get("claimed", ()):
            self._take(number, urls[number], 0)
        missing = set(reply.get("missing", ()))
        twice_missing = missing & self._missed if "beat" in said else set()
        if "beat" in said:
            self._missed = missing
        for number in (*reply.get("lost", ()), *twice_missing):
            self._ask_again(number)

    def _take(self, number: int, url: str, ticket: int) -> None:
        job = self._jobs.pop(number, None)
        if job is None:
            self._say("ended", [url, number, "none", True, "", "", 0])
            return
        if not job.tried:
            self.tickets.append(ticket or job.ticket)
        job.ticket = job.ticket or ticket
        self._held[number] = url
        job.lease.set_result((number, url))

    async def _beat(self) -> None:
        """Show that the process lives; look for its oldest pending jobs, and hand in its leases."""
        while True:
            oldest = [number for number, job in self._jobs.items() if job.ticket][:10]
            held = [[url, number, BOUND_MS] for number, url in self._held.items()]
            self._said["beat"] = [len(self._held), len(self._jobs), oldest, held, False]
            self._is_something_said.set()
            await asyncio.sleep(BEAT_S)

    async def _listen(self) -> None:
        """Claim what calls of other processes grant."""
        while True:
            popped = await self._redis.blmpop(1, 1, f"sfr:grants:{self._process}", direction="LEFT", count=1000)
            for text in popped[1] if popped else ():
                number, url, *_ = json.loads(str(text))
                if number in self._jobs:
                    self._say("claims", [url, number, BOUND_MS])
                else:
                    self._say("ended", [url, number, "none", True, "", "", 0])
