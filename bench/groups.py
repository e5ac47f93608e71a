"""Measures how many worker-seconds groups save that stop on failure.

Solutions have ten tests each, a job each, and every second solution fails all of its tests. Without groups all tests
run. With groups, the tests of a solution that has failed one are skipped if they have not begun. Jobs go as one batch,
or as single requests to two hosts of two processes each. They come solution by solution, or test by test: the first
tests of all solutions, then the second ones. A failing test takes as long as a good one, or, as an endless loop does,
up to its time limit.

Where all tests take the same time, no order can save more than 45 %: half of the solutions need all ten tests, the
others one. A batch has turns by group, so its order of lines counts little.

`python -m bench.groups` writes bench/results/groups.json.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from bench.batch import CORES, forget_stats, routers, simulated
from bench.support.report import save, show
from tests.support.programs import get_json

SOLUTIONS, TESTS = 200, 10
WORK_S, LIMIT_S = 0.05, 0.25
CONNECTIONS = 200
IN_FLIGHT = 64
STOPS = {"x-router-stop-on": "failure"}


@dataclass(frozen=True)
class Way:
    """How the jobs are sent."""

    is_batch: bool
    by_test: bool
    has_groups: bool


WAYS = {
    "no groups, one batch": Way(is_batch=True, by_test=True, has_groups=False),
    "one batch, solution by solution": Way(is_batch=True, by_test=False, has_groups=True),
    "one batch, test by test": Way(is_batch=True, by_test=True, has_groups=True),
    "single requests to two hosts, solution by solution": Way(is_batch=False, by_test=False, has_groups=True),
    "single requests to two hosts, test by test": Way(is_batch=False, by_test=True, has_groups=True),
}
SCENARIOS = {"all tests alike": False, "failing tests take up to their limit": True}


def jobs(way: Way, *, is_endless: bool) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield each job with the name of its solution, in the order in which they are sent."""
    places = [(solution, test) for solution in range(SOLUTIONS) for test in range(TESTS)]
    for solution, test in sorted(places, key=lambda place: place[::-1]) if way.by_test else places:
        fails = bool(solution % 2)
        work_s = 10.0 if fails and is_endless else WORK_S
        number = solution * TESTS + test
        yield str(solution), {"work": work_s, "run_timeout": LIMIT_S, "fails": fails, "run": "r", "number": number}


async def warm_up(url: str) -> None:
    """Send one job: while Redis' memory is new, the router gives no lease for some seconds."""
    async with aiohttp.ClientSession() as session:
        job = {"work": WORK_S, "run_timeout": LIMIT_S}
        async with session.post(f"{url}/run_code", json=job) as response:
            assert response.status == 200


async def send_batch(url: str, way: Way, *, is_endless: bool) -> Counter[int]:
    """Send all jobs in one batch; return how many answers had each status."""
    hinted = (
        {**job, "router": {"group": solution}} if way.has_groups else job
        for solution, job in jobs(way, is_endless=is_endless)
    )
    text = "\n".join(map(json.dumps, hinted))
    query = "?stop_on=failure" if way.has_groups else ""
    async with aiohttp.ClientSession() as session, session.post(f"{url}/run_code/batch{query}", data=text) as response:
        return Counter([json.loads(line)["status"] async for line in response.content])


async def send_each(urls: Sequence[str], way: Way, *, is_endless: bool) -> Counter[int]:
    """Send all jobs as single requests over CONNECTIONS connections; return how many answers had each status."""
    left = jobs(way, is_endless=is_endless)
    statuses: Counter[int] = Counter()

    async def client(session: aiohttp.ClientSession, url: str) -> None:
        for solution, job in left:  # shared by all clients: each takes the next job
            fields = {**STOPS, "x-router-group": solution}
            async with session.post(f"{url}/run_code", json=job, headers=fields) as response:
                await response.read()
                statuses[response.status] += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as clients:
        for number in range(CONNECTIONS):
            clients.create_task(client(session, urls[number % len(urls)]))
    return statuses


async def measure(workers: Sequence[str], way: Way, *, is_endless: bool) -> dict[str, float]:
    """Send all jobs through new routers; return what that took."""
    hosts = 1 if way.is_batch else 2
    with TemporaryDirectory() as folder:
        batch = {"max_in_flight": IN_FLIGHT}
        async with routers("round_robin", hosts, CORES, Path(folder), workers, batch=batch) as ports:
            urls = [f"http://127.0.0.1:{port}" for port in ports]
            await warm_up(urls[0])
            await forget_stats(workers)
            start = time.monotonic()
            if way.is_batch:
                statuses = await send_batch(urls[0], way, is_endless=is_endless)
            else:
                statuses = await send_each(urls, way, is_endless=is_endless)
            total_s = time.monotonic() - start
    ran = [job for url in workers for job in list((await get_json(f"{url}/log"))["jobs"])]  # type: ignore[call-overload]
    assert statuses.keys() <= {200, 424}, statuses
    assert len(ran) == statuses[200]
    assert sum(statuses.values()) == SOLUTIONS * TESTS
    return {"worker_s": sum(end - begin for _, _, begin, end, _ in ran), "total_s": total_s, "run": len(ran)}


async def main() -> None:
    """Measure each way in each scenario; print a table, and write all figures."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    async with simulated() as (_, workers):
        for title, is_endless in SCENARIOS.items():
            found[title] = {}
            for name, way in WAYS.items():
                found[title][name] = await measure(workers, way, is_endless=is_endless)
                print(title, name, found[title][name], flush=True)
    for title, by_way in found.items():
        full = by_way["no groups, one batch"]["worker_s"]
        rows = [
            [name, int(took["run"]), took["worker_s"], full / took["worker_s"], took["total_s"]]
            for name, took in by_way.items()
        ]
        show([title, "jobs run", "worker-seconds", "times fewer", "s"], rows)
        print()
    save("groups", solutions=SOLUTIONS, tests=TESTS, found=found)


if __name__ == "__main__":
    asyncio.run(main())
