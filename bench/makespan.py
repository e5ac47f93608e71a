"""Measures how long a batch takes and how many answers are wrong, for this router and its peers.

Each set-up gets the batch of bench.batch, with one host in front or with two. There are four scenarios: all workers are
alike; one is three times slower; one dies after a second; one that was away joins after a second (every configuration
names it from the start). Time is divided by the ideal: all present cores are busy to the end, or the longest job. A
time limit is false if the job would have been in time alone on a worker. Each round has jobs of its own.

Where jobs go longest first, the router has run the same jobs before, and they took up to three times as long or as
short then.

`python -m bench.makespan [ROUNDS]` writes bench/results/makespan.json and the tables of README and docs/speed.md.
`python -m bench.makespan ROUNDS TEXT` measures only the set-ups whose names have the text, and writes nothing.
"""

import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench.batch import (
    CHECK_S,
    CORES,
    SCENARIOS,
    Run,
    Setup,
    Way,
    alternate,
    haproxies,
    peers,
    routers,
    send_all,
    send_at_once,
    send_batch,
    typical,
)
from bench.peers import PAGE
from bench.support import configs
from bench.support.report import save, show
from bench.support.table import markdown, put
from tests.support.programs import ROOT

DEFAULT_ROUNDS = 1
_ENVOY = partial(configs.envoy, balance="LEAST_REQUEST", check_s=CHECK_S)

_OPTIONS: dict[str, Any] = {"tenants": {"default": {"order": "longest_first"}}, "hedge": {"enabled": True}}
_SOONER: Setup = partial(routers, "round_robin", 2, CORES, **_OPTIONS)

SETUPS: dict[str, Setup] = {
    "this router, round_robin, caps, 2 hosts": partial(routers, "round_robin", 2, CORES),
    "this router, least_loaded, caps, 2 hosts": partial(routers, "least_loaded", 2, CORES),
    "this router, round_robin, no caps": partial(routers, "round_robin", 1, None),
    "HAProxy, leastconn, maxconn": haproxies(1, CORES),
    "HAProxy, leastconn, maxconn, 2 hosts": haproxies(2, CORES),
    "Envoy, least request": partial(peers, _ENVOY, "envoy", 1),
    "nginx, round robin": partial(peers, configs.nginx, "nginx", 1),
}
WAYS: dict[str, Way] = {
    **{name: Way(setup, send_all) for name, setup in SETUPS.items()},
    "this router, longest first, one batch": Way(_SOONER, send_batch, is_known=True),
    "this router, longest first, all at once": Way(_SOONER, send_at_once, is_known=True),
    "this router, longest first, 200 connections": Way(_SOONER, send_all, is_known=True),
    **{
        f"{name}, all at once": Way(SETUPS[name], send_at_once)
        for name in ("this router, round_robin, caps, 2 hosts", "HAProxy, leastconn, maxconn", "Envoy, least request")
    },
}
# The rows of the table of docs/speed.md for jobs whose order matters.
ORDERED = [name for name in WAYS if name not in SETUPS]
# The rows of the README's table, and the set-up of each.
SHOWN = {
    "this router, caps of 4, two hosts": "this router, round_robin, caps, 2 hosts",
    "the same, all at once, where known jobs go longest first": "this router, longest first, all at once",
    "HAProxy, maxconn 4, one host": "HAProxy, leastconn, maxconn",
    "HAProxy, maxconn 4, two hosts": "HAProxy, leastconn, maxconn, 2 hosts",
    "Envoy, least request, one host": "Envoy, least request",
    "nginx, round robin, one host": "nginx, round robin",
}
README, MARK = ROOT / "README.md", "bench.makespan"
Runs = Mapping[str, Mapping[str, Sequence[Run]]]


def table(runs: Runs) -> str:
    """Return the README's table, from the scenarios in which all workers are alike and in which one dies."""
    alike, dying = runs["all alike"], runs["one dies"]
    rows = [
        [
            shown,
            str(max(run.false_time_limits for run in alike[name])),
            str(max(run.errors for run in dying[name])),
            f"{typical(alike[name], 'over_ideal'):.2f}",
        ]
        for shown, name in SHOWN.items()
    ]
    head = ["in front of the workers", "false time limits", "failed jobs when a worker dies", "time / ideal"]
    return markdown(head, rows)


def all_scenarios(runs: Runs, names: Iterable[str]) -> str:
    """Return a table of docs/speed.md: what each of these set-ups did in each scenario."""
    head = ["time / ideal (worst), false time limits, errors, extra runs", *runs]
    return markdown(head, [[name, *(_cell(by_setup[name]) for by_setup in runs.values())] for name in names])


def _cell(of: Sequence[Run]) -> str:
    time = f"{typical(of, 'over_ideal'):.2f} ({max(run.over_ideal for run in of):.2f})"
    false_limits, errors = max(run.false_time_limits for run in of), max(run.errors for run in of)
    return f"{time}, {false_limits}, {errors}, {max(run.extra_runs for run in of):.1%}"


def report(runs: Runs) -> None:
    """Print a table for each scenario, with medians and the worst rounds."""
    for title, by_setup in runs.items():
        rows = [
            [
                name,
                f"{typical(of, 'over_ideal'):.2f}",
                f"{max(run.over_ideal for run in of):.2f}",
                typical(of, "p99_s"),
                max(run.most_at_once for run in of),
                max(run.false_time_limits for run in of),
                max(run.errors for run in of),
                f"{typical(of, 'extra_runs'):.1%}",
            ]
            for name, of in by_setup.items()
        ]
        show([title, "time / ideal", "worst", "p99 s", "most at once", "false limits", "errors", "extra runs"], rows)
        print()


def pages(runs: Runs) -> dict[Path, str]:
    """Return README and docs/speed.md with the tables of these runs."""
    ordered = put(all_scenarios(runs, ORDERED), PAGE.read_text(), f"{MARK}, longest first")
    return {README: put(table(runs), README.read_text(), MARK), PAGE: put(all_scenarios(runs, SETUPS), ordered, MARK)}


def write(runs: Runs) -> None:
    """Write all rounds, and the tables of README and docs/speed.md."""
    rounds = {
        title: {name: [asdict(run) for run in of] for name, of in by_setup.items()} for title, by_setup in runs.items()
    }
    save("makespan", rounds=rounds)
    for path, text in pages(runs).items():
        path.write_text(text)


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    chosen = {name: way for name, way in WAYS.items() if wanted in name}
    runs = asyncio.run(alternate(chosen, SCENARIOS, rounds))
    report(runs)
    if not wanted:
        write(runs)
