"""The figures in docs/speed.md's handwritten tables are those of bench/results."""

import json
import re
from collections.abc import Iterator
from statistics import mean, median
from typing import Any

from bench.batch import Run, typical
from bench.peers import PAGE
from bench.support.report import RESULTS
from bench.support.samples import Sample, ratio


def test_caps_are_as_measured() -> None:
    """Caps: each set-up's time relative to one HAProxy, and the worst round's jobs at once, false limits and errors."""
    runs = [[Run(**run) for run in of] for of in _results("caps")["rounds"].values()]
    _, _, reference, *_ = runs
    for (_, *cells), of in zip(_rows("Caps"), runs, strict=True):
        worst = (max(getattr(run, field) for run in of) for field in ("most_at_once", "false_time_limits", "errors"))
        assert cells == [f"{typical(of, 'total_s') / typical(reference, 'total_s'):.2f}", *map(str, worst)]


def test_connections_are_as_measured() -> None:
    """Connections: the largest share of a process relative to the fair share, as median and worst of the rounds."""
    found = [[max(counts) / mean(counts) for counts in of] for of in _results("evenness")["connections"].values()]
    columns = [found[:3], found[3:]]
    for place, (_, *shown) in enumerate(_rows("Connections")):
        assert shown == [f"{median(column[place]):.2f}, {max(column[place]):.2f}" for column in columns]


def test_growth_is_as_measured() -> None:
    """Growth: whole CPU per request relative to the smallest fleet with one process, as the median of the rounds."""
    rounds = _results("growth")["rounds"]
    for (_, *shown), by_size in zip(_rows("Fleet and processes"), rounds.values(), strict=True):
        smallest, *larger = [[Sample(**one) for one in of] for of in by_size.values()]
        assert shown == [f"{ratio(of, smallest, 'whole_us'):.2f}" for of in larger]


def test_leases_are_as_measured() -> None:
    """Leases: the CPU of Redis per job, by load, workers and processes."""
    measured = _results("lease_cost")["redis"]
    loads = [(is_full, is_paced) for is_full in (False, True) for is_paced in (False, True)]
    fleets = [*((workers, 4) for workers in (10, 100, 1000)), *((100, processes) for processes in (1, 4, 16))]
    for (is_full, is_paced), (_, *shown) in zip(loads, _rows("Leases"), strict=True):
        costs: dict[tuple[int, int], list[float]] = {fleet: [] for fleet in fleets}
        for one in measured:
            if one["is_full"] == is_full and (one["hold_s"] > 0) == is_paced:
                costs[one["workers"], one["processes"]].append(one["cpu_us_a_job"])
        assert shown == [f"{median(costs[fleet]):.0f}" for fleet in fleets]


def _results(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _rows(heading: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the first table below a heading."""
    below = PAGE.read_text().partition(f"\n## {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None
    for line in table[0].replace("**", "").splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]
