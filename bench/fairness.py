"""Whether runs that share a fleet get their shares: this router, HAProxy and nginx, on two hosts each.

There are 8 workers of 4 cores. No worker is to run more than 4 jobs at once.

- Shares: two runs of weights 3 and 1 keep 200 connections busy each. The jobs of the second run are ten times longer.
  Then the first run hangs up, and the second one should get all slots.
- An evaluation: a run with priority sends single jobs while 10,000 jobs of a training run wait.
- A flood: a client sends 20,000 jobs at once, of which 5,000 may wait. Another run has the same weight. It is compared
  with the same run alone on half of the workers.

Peers have no tenants, so all runs send to one address. All figures come from the workers' logs.

`python -m bench.fairness [SECONDS]` writes bench/results/fairness.json and the table of docs/scheduling.md. SECONDS is
the length of a measurement, 60 by default. With 60 it takes about twelve minutes.
"""

import asyncio
import json
import sys
import time
from bisect import bisect
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from signal import SIGTERM
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from bench.batch import CORES, WORKERS, forget_stats, haproxies, peers, routers, simulated
from bench.support import configs
from bench.support.joblog import has_all_s, most_at_once, read_log, slot_idle_s, worker_seconds
from bench.support.meter import allow_many_files
from bench.support.report import RESULTS, percentile, save
from bench.support.runs import OK, Address, Run
from bench.support.table import markdown, put
from tests.support.eventually import eventually
from tests.support.programs import ROOT, Program

HOSTS = 2
SLOTS = WORKERS * CORES
DEFAULT_SECONDS = 60.0
# Before each measurement. The queues are long by then, and stay so.
WARM_UP_S = 5.0
# Short and long jobs, in the mean.
SHORT_S, LONG_S = 0.3, 3.0
CONNECTIONS = 200
# Waiting jobs of the training run, and the evaluation's jobs and their distance.
WAITING = 10_000
SINGLES, SINGLES_EVERY_S = 100, 0.25
# Of 100 jobs, p99 would be the worst one.
TYPICAL = (50, 95)
# An evaluation's job that begins later than this counts with this wait.
LATEST_S = 120.0
FLOOD, FLOOD_PROCESSES, FLOOD_MAX_WAITING = 20_000, 2, 5_000
# Longer than any job: by then all running jobs have ended.
REST_S = 2 * LONG_S

Rules = Mapping[str, Mapping[str, int]]
# What config.yaml says of the tenants in each part.
SHARES_RULES: Rules = {"heavy": {"weight": 3}, "light": {"weight": 1}}
EVALUATION_RULES: Rules = {"evaluation": {"priority": 1}}
FLOOD_RULES: Rules = {"flood": {"max_waiting": FLOOD_MAX_WAITING}}

PAGE = ROOT / "docs" / "scheduling.md"
MARK = "bench.fairness"

Setup = Callable[[Path, Sequence[str], Rules], AbstractAsyncContextManager[Callable[[str], Address]]]


@dataclass(frozen=True)
class Shares:
    """What two runs of weights 3 and 1 got: worker-seconds, failed jobs, and the time until the second has all slots.

    `pause_ms` counts from the moment the first one hung up, `end_ms` from the end of its last job; None: never.
    """

    heavy_s: float
    light_s: float
    answers: int
    failed: int
    most_at_once: int
    pause_ms: float | None
    end_ms: float | None


@dataclass(frozen=True)
class Evaluation:
    """How long each job of the evaluation waited, for how many jobs' ends, and how long its slot had been free."""

    waiting: int
    waits_ms: list[float]
    ends: list[int]
    slot_idle_ms: list[float]
    failed: int


@dataclass(frozen=True)
class Steady:
    """A run's waits and worker-seconds, alone or beside a flood; how many of the flood's jobs got each status."""

    p50_s: float
    p99_s: float
    worker_s: float
    failed: int
    answers_of_flood: dict[str, int]


# What runs share


@asynccontextmanager
async def tenants(folder: Path, workers: Sequence[str], rules: Rules) -> AsyncIterator[Callable[[str], Address]]:
    """Run this router on two hosts. Each run has an address of its own."""
    patient = {"timeout": 3600, "queue": {"timeout": 3600, "max_waiting": 10 * WAITING}}
    async with routers("round_robin", HOSTS, CORES, folder, workers, tenants=rules, **patient) as ports:
        yield lambda run: Address(ports, f"/t/{run}/run_code")


@asynccontextmanager
async def shared(
    setup: Callable[..., Any], folder: Path, workers: Sequence[str], _: Rules
) -> AsyncIterator[Callable[[str], Address]]:
    """Run peers, which know no rules. All runs have one address."""
    async with setup(folder, workers) as ports:
        yield lambda _: Address(ports)


OURS = "this router"
_NGINX = partial(peers, partial(configs.nginx, max_conns=CORES), "nginx", HOSTS)
SETUPS: Mapping[str, Setup] = {
    OURS: tenants,
    "HAProxy, leastconn, maxconn 4": partial(shared, haproxies(HOSTS, CORES)),
    "nginx, max_conns 4": partial(shared, _NGINX),
}


# Measuring


async def shares(address: Callable[[str], Address], workers: Sequence[str], seconds: float) -> Shares:
    """Have two runs share the fleet; then have the first one hang up."""
    heavy, light = Run("heavy", address("heavy"), SHORT_S), Run("light", address("light"), LONG_S)
    for run in (heavy, light):
        run.start(CONNECTIONS)
    await asyncio.sleep(WARM_UP_S)
    before = heavy.statuses + light.statuses
    start_s = time.monotonic()
    await asyncio.sleep(seconds)
    paused_s = time.monotonic()
    await heavy.stop()
    answers = heavy.statuses + light.statuses - before
    await asyncio.sleep(REST_S)
    await light.stop()
    await asyncio.sleep(REST_S)
    log = await read_log(workers)
    all_s = has_all_s(log, "light", SLOTS, paused_s)
    last_s = max(job.end_s for job in log if job.run == "heavy")
    return Shares(
        heavy_s=worker_seconds(log, "heavy", start_s, paused_s),
        light_s=worker_seconds(log, "light", start_s, paused_s),
        answers=answers.total(),
        failed=answers.total() - answers[OK],
        most_at_once=most_at_once(log),
        pause_ms=None if all_s is None else (all_s - paused_s) * 1e3,
        end_ms=None if all_s is None else max(0.0, all_s - last_s) * 1e3,
    )


async def evaluation(address: Callable[[str], Address], workers: Sequence[str]) -> Evaluation:
    """Send an evaluation's jobs one by one while a training run's wait."""
    training, single = Run("training", address("training"), SHORT_S), Run("evaluation", address("evaluation"), SHORT_S)
    training.start(WAITING + SLOTS)
    await eventually(lambda: len(training.sent) >= WAITING + SLOTS, LATEST_S, "the training run's connections")
    await asyncio.sleep(WARM_UP_S)
    for _ in range(SINGLES):
        single.send(1)
        await asyncio.sleep(SINGLES_EVERY_S)
    with suppress(TimeoutError):
        async with asyncio.timeout(LATEST_S):
            await single.end()
    for run in (training, single):
        await run.stop()
    await asyncio.sleep(REST_S)
    log = await read_log(workers)
    begun = {job.number: job for job in log if job.run == "evaluation"}
    ends_s = sorted(job.end_s for job in log)
    found = [(sent_s, begun[number]) for number, sent_s in single.sent.items() if number in begun]
    waits_s = [job.start_s - sent_s for sent_s, job in found]
    return Evaluation(
        waiting=WAITING,
        waits_ms=[wait_s * 1e3 for wait_s in waits_s + [LATEST_S] * (SINGLES - len(found))],
        ends=[bisect(ends_s, job.start_s) - bisect(ends_s, sent_s) for sent_s, job in found],
        slot_idle_ms=[slot_idle_s(log, job) * 1e3 for _, job in found],
        failed=single.statuses.total() - single.statuses[OK],
    )


async def steady(
    address: Callable[[str], Address], workers: Sequence[str], seconds: float, length_s: float, *, flooded: bool
) -> Steady:
    """Keep 200 connections of a run busy. If `flooded`, a flood begins with the measurement."""
    run = Run("steady", address("steady"), length_s)
    run.start(CONNECTIONS)
    await asyncio.sleep(WARM_UP_S)
    flood_address = address("flood")
    words = ("flood", FLOOD // FLOOD_PROCESSES, length_s, flood_address.path, *flood_address.ports)
    argv = [sys.executable, "-m", "bench.support.runs", *map(str, words)]
    answers: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        logs = [folder / f"flood-{number}.log" for number in range(FLOOD_PROCESSES if flooded else 0)]
        start_s = time.monotonic()
        floods = [await stack.enter_async_context(Program(argv, log)) for log in logs]
        await asyncio.sleep(seconds)
        until_s = time.monotonic()
        await run.stop()
        for program in floods:
            program.send(SIGTERM)
            await program.ended()
            answers.update(json.loads(program.output.splitlines()[-1]))
    await asyncio.sleep(REST_S)
    log = await read_log(workers)
    waits_s = [job.start_s - run.sent[job.number] for job in log if job.run == "steady" and job.end_s > start_s]
    return Steady(
        p50_s=percentile(waits_s, 50),
        p99_s=percentile(waits_s, 99),
        worker_s=worker_seconds(log, "steady", start_s, until_s),
        failed=run.statuses.total() - run.statuses[OK],
        answers_of_flood=dict(answers),
    )


async def measure(
    setup: Setup,
    workers: Sequence[str],
    rules: Rules,
    part: Callable[..., Any],
    *details: object,
    **options: object,
) -> Any:
    """Start one set-up and run one part before it."""
    await forget_stats(workers)
    with TemporaryDirectory() as name:
        async with setup(Path(name), workers, rules) as address:
            # A router whose Redis begins empty first learns what runs; that is no part of what is measured.
            await asyncio.sleep(WARM_UP_S)
            found = await part(address, workers, *details, **options)
    print(f"{part.__name__}: {_short(asdict(found))}", flush=True)
    return found


def _short(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [percentile(value, percent) for percent in (50, 99)] if isinstance(value, list) and value else value
        for name, value in fields.items()
    }


# Telling


def table(results: Mapping[str, Any]) -> str:
    """Return what docs/scheduling.md says of bench/results/fairness.json."""
    host, by_setup = results["machine"], results["setups"]
    pause, single = by_setup[OURS]["shares"], by_setup[OURS]["evaluation"]
    ends, idle_ms = ([percentile(single[field], percent) for percent in TYPICAL] for field in ("ends", "slot_idle_ms"))
    return f"""\
Measured for {results["seconds"]:.0f} s in each part, on {host["cores"]} cores of {host["cpu"]}, {host["kernel"]}, with
Python {host["python"]}. Clients, workers, Redis and routers share these cores.

{_of_setups(by_setup)}

- **A pause.** When the run of weight 3 hangs up, the other run has all {SLOTS} slots {pause["pause_ms"]:.0f} ms later.
  That is {pause["end_ms"]:.0f} ms after the last job of the first run has ended.
- **An evaluation.** Until its job begins, {ends[0]} running jobs end in the median, and {ends[1]} at p95. The slot
  that it takes has been free for {idle_ms[0]:.1f} ms in the median, and for {idle_ms[1]:.1f} ms at p95.

{_of_floods(results["floods"])}

To refuse the flood takes the routers' CPU for some seconds. In this time, a slot that becomes free gets its next job
later. Short jobs feel that, and long jobs do not."""


def _of_setups(by_setup: Mapping[str, Any]) -> str:
    head = ["in front, two hosts", "worker-seconds, for 3 : 1", "most jobs on a worker", "failed"]
    head += ["an evaluation's job waits, p50", "p95", "failed"]
    rows = []
    for name, by_part in by_setup.items():
        got, single = by_part["shares"], by_part["evaluation"]
        waits_s = [percentile(single["waits_ms"], percent) / 1e3 for percent in TYPICAL]
        rows.append(
            [
                name,
                f"{got['heavy_s'] / got['light_s']:.2f} : 1",
                str(got["most_at_once"]),
                f"{got['failed'] / got['answers']:.1%}",
                *(f"{wait_s:.3g} s" if single["failed"] < SINGLES / 2 else "refused" for wait_s in waits_s),
                f"{single['failed'] / SINGLES:.0%}",
            ]
        )
    return markdown(head, rows)


def _of_floods(floods: Sequence[Mapping[str, Any]]) -> str:
    cases = {"alone": f"alone, {WORKERS // 2} workers", "beside": f"beside {FLOOD:,} jobs, {WORKERS} workers"}
    rows = [
        [
            f"{of['length_s']:g} s, {name}",
            *(f"{of[case][field]:.3g} s" for field in ("p50_s", "p99_s")),
            f"{of[case]['worker_s']:.0f}",
            str(of[case]["failed"]),
            f"{of[case]['answers_of_flood'].get('503', 0):,}",
        ]
        for of in floods
        for case, name in cases.items()
    ]
    return markdown(
        ["length of jobs", "a run's wait, p50", "p99", "worker-seconds", "failed", "refused of the flood"], rows
    )


async def main(seconds: float) -> None:
    """Measure all, and write what was found to where it is shown."""
    allow_many_files()
    async with simulated() as (_, workers):
        setups = {
            name: {
                "shares": asdict(await measure(setup, workers, SHARES_RULES, shares, seconds)),
                "evaluation": asdict(await measure(setup, workers, EVALUATION_RULES, evaluation)),
            }
            for name, setup in SETUPS.items()
        }
        half = workers[: WORKERS // 2]
        floods = [
            {
                "length_s": length_s,
                "alone": asdict(await measure(tenants, half, FLOOD_RULES, steady, seconds, length_s, flooded=False)),
                "beside": asdict(await measure(tenants, workers, FLOOD_RULES, steady, seconds, length_s, flooded=True)),
            }
            for length_s in (SHORT_S, LONG_S)
        ]
    save("fairness", seconds=seconds, setups=setups, floods=floods)
    made = table(json.loads((RESULTS / "fairness.json").read_text()))
    PAGE.write_text(put(made, PAGE.read_text(), MARK))
    print(made)


if __name__ == "__main__":
    uvloop.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_SECONDS))
