"""How many of a trainer's calls are right if they wait for longer than their client: with adoption, and without it.

The client does as verl does: a new connection for each call, up to three tries, 1 and 2 s apart, after 504 only. It
waits for 10 s longer than the job's limits. 64 calls of 9 s jobs come at once to 4 slots, in real time; each try goes
to one of two hosts. `python -m bench.adoption` prints the table, and writes bench/results/adoption.json.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from bench.batch import routers
from bench.support.report import save, show
from tests.support.eventually import eventually
from tests.support.programs import Program

CALLS, WORK_S, SLOTS, HOSTS = 64, 9.0, 4, 2
COMPILE_S, RUN_S, PATIENCE_S = 10.0, 10.0, 30.0
PAUSES_S = (1.0, 2.0)
SETTINGS: dict[str, dict[str, object]] = {"without adoption": {"adopt_seconds": 0}, "with adoption": {}}


@dataclass
class Outcome:
    """How many calls had a result, how many of those came from what an earlier try had left, and how long all took.

    `runs` are the jobs that workers have run to their ends.
    """

    right: int
    adopted: int
    runs: int
    took_s: float


async def call(ports: Sequence[int], number: int) -> dict[str, object] | None:
    """Send one call as verl does; return its result, None if it has none."""
    job = {"language": "python", "code": f"print({number})", "work": WORK_S, "run": "bench", "number": number}
    job |= {"compile_timeout": COMPILE_S, "run_timeout": RUN_S}
    for pause_s in (*PAUSES_S, None):
        url = f"http://127.0.0.1:{random.choice(ports)}/run_code"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S)) as session,
                session.post(url, json=job) as response,
            ):
                answer: dict[str, object] = await response.json()
                if response.status == 200:
                    return answer
                if response.status != 504 or pause_s is None:
                    return None
        except (aiohttp.ClientError, TimeoutError):
            return None
        await asyncio.sleep(pause_s)
    return None


async def measured(settings: dict[str, object]) -> Outcome:
    """Return what became of all calls with these settings."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        argv = [sys.executable, "-m", "bench.support.simworker", "1", str(SLOTS)]
        async with Program(argv, folder / "simworker.log") as program:
            await eventually(lambda: "\n" in program.output, what="the simulated worker")
            workers = json.loads(program.output)
            status = {"no_workers": 504, "all_failed": 504, "queue_full": 504, "queue_timeout": 504}
            advised = {"client_budget": "job+10", "error_status": status, "timeout": 300}
            async with routers("round_robin", HOSTS, SLOTS, folder, workers, **advised, **settings) as ports:
                since = time.monotonic()
                answers = await asyncio.gather(*(call(ports, number) for number in range(CALLS)))
                took_s = time.monotonic() - since
                async with aiohttp.ClientSession() as session, session.get(f"{workers[0]}/stats") as response:
                    runs = int((await response.json())["jobs"])
    results = [answer for answer in answers if answer is not None]
    return Outcome(len(results), sum(_is_adopted(answer) for answer in results), runs, took_s)


def _is_adopted(answer: dict[str, object]) -> bool:
    told = answer.get("router_metadata")
    return isinstance(told, dict) and bool(told.get("adopted"))


async def main() -> None:
    """Measure both at once: their jobs only wait."""
    outcomes = await asyncio.gather(*(measured(settings) for settings in SETTINGS.values()))
    rows = [(name, its.right, its.adopted, its.runs, its.took_s) for name, its in zip(SETTINGS, outcomes, strict=True)]
    show((f"{CALLS} calls of {WORK_S:g} s on {SLOTS} slots", "right", "adopted", "runs", "s"), rows)
    save("adoption", outcomes={name: asdict(its) for name, its in zip(SETTINGS, outcomes, strict=True)})


if __name__ == "__main__":
    asyncio.run(main())
