"""The screen of `sfr top`: its content and its order."""

from io import StringIO
from typing import get_args

import pytest
from rich.console import Console

from router.api.schemas import Report, SidecarStatus
from router.cli.top.command import Sort
from router.cli.top.table import SORTS, Moment, top_table
from router.fleet.journal.rates import Rates, WorkerRates
from router.fleet.model import Health
from router.fleet.stats import Usage, WorkerStats, WorkerUsage
from tests.unit.cli.test_fleet_commands import EJECTED_BECAUSE, worker

A, B, C, D = "http://a:1", "http://b:1", "http://c:1", "http://d:1"


def moment(stale: str | None = None, rates: Rates | None = None) -> Moment:
    """A fleet of four: A is slow, B the busiest, C fails, D is ejected."""
    report = Report(
        status="healthy",
        total_workers=4,
        healthy_workers=3,
        quarantined_jobs=0,
        redis="available",
        sidecar=SidecarStatus(leader="1 x", age_seconds=0.1),
        workers=[
            worker(A, Health.HEALTHY),
            worker(B, Health.HEALTHY),
            worker(C, Health.HEALTHY, cap=4),
            worker(D, Health.EJECTED, cap=None, error="last words", ejected_for_s=90.5),
        ],
    )
    used = {A: 1, B: 8, C: 3, D: 1}
    workers = {url: WorkerUsage(count, 0, 0.0, WorkerStats()) for url, count in used.items()}
    return Moment(report, Usage(7, 10.0, {}, workers), rates, stale)


RATES = Rates(
    jobs=120.4,
    errors=0.5,
    retries=0.01,
    p50_s=0.03,
    p99_s=1.5,
    workers={
        A: WorkerRates(1.5, 0.0, 12.0),
        B: WorkerRates(100.0, 0.0, 0.1),
        C: WorkerRates(10.0, 0.5, 0.2),
        D: WorkerRates(),
    },
)


def screen(shown: Moment, sort: str = "trouble", height: int | None = None, width: int = 120) -> list[str]:
    """Return the lines on a screen of this size."""
    console = Console(file=(file := StringIO()), width=width)
    console.print(top_table(shown, "the router", sort, height))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def urls(lines: list[str]) -> list[str]:
    """Return the workers in the order of their rows."""
    return [line.split()[0][7] for line in lines if line.startswith("http://")]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("trouble", "dcba"),
        ("jobs", "bcad"),
        ("failures", "cbad"),
        ("running", "bdca"),
        ("time", "acbd"),
        ("url", "abcd"),
    ],
)
def test_workers_come_in_the_chosen_order(sort: str, order: str) -> None:
    """Each order of the command sorts the rows."""
    assert "".join(urls(screen(moment(rates=RATES), sort))) == order
    assert get_args(Sort) == tuple(SORTS)


def test_rates_times_and_load_are_shown() -> None:
    """The facts have the fleet's rates and a row its worker's; a worker's text is not read as markup."""
    lines = screen(moment(rates=RATES), width=200)
    facts = [" ".join(line.split()) for line in lines]
    assert "jobs 120/s, 0.5 errors/s, <0.1 retries/s" in facts
    assert "took p50 30 ms, p99 1.5 s" in facts
    assert "running 12, 7 waiting" in facts
    assert f"{C} healthy 10 0.5 ████████░░ 3/4 200 ms" in facts
    assert any(line.startswith(f"{D} ejected 0 0 1 - ejected for 1 min, until ") for line in facts)
    assert any(line.endswith(f": {EJECTED_BECAUSE}") for line in facts)


def test_missing_rates_and_stale_data_are_marked() -> None:
    """A missing rate is shown as unknown."""
    facts = [" ".join(line.split()) for line in screen(moment())]
    assert "jobs counting" in facts
    assert "stale the router has gone" in [
        " ".join(line.split()) for line in screen(moment("the router has gone", RATES))
    ]


@pytest.mark.parametrize(("height", "shown"), [(12, 4), (11, 4), (10, 2), (9, 1), (8, 0), (3, 0)])
def test_table_fits_any_screen(height: int, shown: int) -> None:
    """The first workers that fit are shown, the others are counted, and no line is wrapped."""
    lines = screen(moment(rates=RATES), height=height, width=60)
    assert len(lines) <= max(height, 8)
    assert urls(lines) == list("dcba"[:shown])
    if shown < 4:
        assert lines[-1] == f"{4 - shown} more workers not shown"
