"""How much a flood costs the others: the part of bench/fairness.py with short jobs, alone and beside, by turns.

`python -m bench.flood [ROUNDS [SECONDS]]` prints each measurement, then the medians and their ratio. A round takes
about a minute. SECONDS is the length of a measurement. The flood takes its first seconds, so a short measurement is
stricter than the one of bench/fairness.py.
"""

import sys
from collections.abc import Mapping
from statistics import median

import uvloop

from bench.batch import WORKERS, simulated
from bench.fairness import FLOOD_RULES, SHORT_S, Steady, measure, steady, tenants
from bench.support.meter import allow_many_files
from bench.support.report import show

ROUNDS, SECONDS = 1, 15.0


async def measured(workers: list[str], seconds: float, *, flooded: bool) -> Steady:
    """Measure one case."""
    found: Steady = await measure(tenants, workers, FLOOD_RULES, steady, seconds, SHORT_S, flooded=flooded)
    return found


async def main(rounds: int, seconds: float) -> None:
    """Measure both cases in each round, and compare their medians."""
    allow_many_files()
    found: Mapping[bool, list[Steady]] = {False: [], True: []}
    async with simulated() as (_, workers):
        for _ in range(rounds):
            for flooded, got in found.items():
                got.append(await measured(workers if flooded else workers[: WORKERS // 2], seconds, flooded=flooded))
    fields = ("p50_s", "p99_s", "worker_s")
    alone, beside = ([median(getattr(each, field) for each in found[flooded]) for field in fields] for flooded in found)
    ratios = [many / one for one, many in zip(alone, beside, strict=True)]
    show(["", "wait p50 s", "p99 s", "worker-seconds"], [["alone", *alone], ["beside", *beside], ["ratio", *ratios]])


if __name__ == "__main__":
    given = sys.argv[1:]
    uvloop.run(main(int(given[0]) if given else ROUNDS, float(given[1]) if given[1:] else SECONDS))
