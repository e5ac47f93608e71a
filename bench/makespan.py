"""Measures how long a batch takes and how many answers are wrong, for this router and its peers.

Each set-up gets the batch of bench.batch, with one host in front or with two. There are four scenarios: all workers are
alike; one is three times slower; one dies after a second; one that was away joins after a second (every configuration
names it from the start). Time is divided by the ideal: all present cores are busy to the end, or the longest job. A
time limit is false if the job would have been in time alone on a worker.

`python -m bench.makespan [ROUNDS]` writes bench/results/makespan.json and the README's table.
"""

import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bench.batch import CHECK_S, CORES, SCENARIOS, Run, Setup, alternate, haproxies, peers, routers, typical
from bench.support import configs
from bench.support.report import save, show

DEFAULT_ROUNDS = 1
_ENVOY = partial(configs.envoy, balance="LEAST_REQUEST", check_s=CHECK_S)

SETUPS: dict[str, Setup] = {
    "this router, round_robin, caps": partial(routers, "round_robin", 1, CORES),
    "this router, round_robin, caps, 2 hosts": partial(routers, "round_robin", 2, CORES),
    "this router, least_loaded, caps": partial(routers, "least_loaded", 1, CORES),
    "this router, least_loaded, caps, 2 hosts": partial(routers, "least_loaded", 2, CORES),
    "this router, round_robin, no caps": partial(routers, "round_robin", 1, None),
    "this router, least_loaded, no caps": partial(routers, "least_loaded", 1, None),
    "HAProxy, leastconn, maxconn": haproxies(1, CORES),
    "HAProxy, leastconn, maxconn, 2 hosts": haproxies(2, CORES),
    "Envoy, least request": partial(peers, _ENVOY, "envoy", 1),
    "nginx, round robin": partial(peers, configs.nginx, "nginx", 1),
}
# The rows of the README's table, and the set-up of each.
SHOWN = {
    "this router, caps of 4, two hosts": "this router, round_robin, caps, 2 hosts",
    "HAProxy, maxconn 4, one host": "HAProxy, leastconn, maxconn",
    "HAProxy, maxconn 4, two hosts": "HAProxy, leastconn, maxconn, 2 hosts",
    "Envoy, least request, one host": "Envoy, least request",
    "nginx, round robin, one host": "nginx, round robin",
}
README = Path(__file__).parent.parent / "README.md"
_README_TABLE = re.compile(r"(?<=<!-- bench.makespan -->\n).*?(?=<!-- /bench.makespan -->)", re.DOTALL)
Runs = Mapping[str, Mapping[str, Sequence[Run]]]


def table(runs: Runs) -> str:
    """Return the README's table, from the scenarios in which all workers are alike and in which one dies."""
    alike, dying = runs["all alike"], runs["one dies"]
    rows = [
        f"| {shown} | {max(run.false_time_limits for run in alike[name])} | {max(run.errors for run in dying[name])} | "
        f"{typical(alike[name], 'over_ideal'):.2f} |"
        for shown, name in SHOWN.items()
    ]
    head = "| in front of the workers | false time limits | failed jobs when a worker dies | time / ideal |"
    return "\n".join([head, "| --- | ---: | ---: | ---: |", *rows])


def report(runs: Runs) -> None:
    """Print a table for each scenario, with medians and the worst round of counts. Write all rounds."""
    for title, by_setup in runs.items():
        rows = [
            [
                name,
                f"{typical(of, 'over_ideal'):.2f}",
                typical(of, "p99_s"),
                max(run.most_at_once for run in of),
                max(run.false_time_limits for run in of),
                max(run.errors for run in of),
            ]
            for name, of in by_setup.items()
        ]
        show([title, "time / ideal", "p99 s", "most at once", "false limits", "errors"], rows)
        print()
    rounds = {
        title: {name: [asdict(run) for run in of] for name, of in by_setup.items()} for title, by_setup in runs.items()
    }
    save("makespan", rounds=rounds)
    README.write_text(_README_TABLE.sub(lambda _: f"\n{table(runs)}\n\n", README.read_text()))


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS
    report(asyncio.run(alternate(SETUPS, SCENARIOS, rounds)))
