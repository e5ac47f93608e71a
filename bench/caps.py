"""Measures what caps cost and whether they hold, for two hosts of this router and for HAProxy.

Each set-up gets the batch of bench.batch. The first host gets more connections than the second. Each worker may run 4
jobs at once. The set-ups take turns within each round. The columns are: total time over the ideal (all cores busy to
the end, or the longest job), response times, the most jobs at once on any worker, false time limits (jobs that other
jobs made late), and errors.

`python -m bench.caps [ROUNDS]`
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

from bench.batch import CORES, SCENARIOS, Run, Setup, Way, alternate, haproxies, routers, send_all, typical, works
from bench.support.report import save, show

DEFAULT_ROUNDS = 5
# The client shares the cores with the set-up. Above this share of a core, the client may be the limit.
CLIENT_LIMIT = 0.5

SETUPS: dict[str, Setup] = {
    "router, round_robin, 2 hosts": partial(routers, "round_robin", 2, CORES),
    "router, least_loaded, 2 hosts": partial(routers, "least_loaded", 2, CORES),
    "one HAProxy, maxconn 4": haproxies(1, 4),
    "two HAProxies, maxconn 4 each": haproxies(2, 4),
    "two HAProxies, maxconn 2 each": haproxies(2, 2),
}
REFERENCE = "one HAProxy, maxconn 4"
SCENARIO = "all alike"


def report(runs: Mapping[str, Sequence[Run]]) -> None:
    """Print medians over the rounds, and the worst round of counts. Write all rounds to the file."""
    reference_s = typical(runs[REFERENCE], "total_s")
    rows = [
        [
            name,
            typical(of, "over_ideal"),
            f"{typical(of, 'total_s') / reference_s:.3f}",
            typical(of, "p50_s"),
            typical(of, "p99_s"),
            max(run.most_at_once for run in of),
            max(run.false_time_limits for run in of),
            max(run.errors for run in of),
        ]
        for name, of in runs.items()
    ]
    columns = ["in front", "time / ideal", "/ one HAProxy", "p50 s", "p99 s", "most at once", "false limits", "errors"]
    show(columns, rows)
    client_cpu = max(run.client_cpu for of in runs.values() for run in of)
    verdict = "it may be the limit" if client_cpu > CLIENT_LIMIT else "it is not the limit"
    print(f"\nThe client took at most {client_cpu:.0%} of a core: {verdict}.")
    jobs = works()
    save(
        "caps",
        ideal_s=SCENARIOS[SCENARIO].ideal_s(jobs),
        total_work_s=sum(jobs),
        longest_s=max(jobs),
        rounds={name: [asdict(run) for run in of] for name, of in runs.items()},
    )


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS
    ways = {name: Way(setup, send_all) for name, setup in SETUPS.items()}
    report(asyncio.run(alternate(ways, [SCENARIO], rounds))[SCENARIO])
