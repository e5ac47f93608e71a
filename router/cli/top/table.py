"""The screen of `sfr top`: the fleet's rates and a row for each worker, in the order that the user chose."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from router.api.schemas import AVAILABLE, Report, WorkerStatus
from router.cli.fleet.tables import health_text, healthy, note, rank, rate, redis_text, running_jobs, seconds
from router.fleet.journal.rates import Rates, WorkerRates
from router.fleet.stats import Usage

_BAR = 10
# URLs up to this length are shown whole on every screen.
_NAME = 40


@dataclass(frozen=True, slots=True)
class Moment:
    """The fleet at a moment. `rates` None: there is no earlier moment; `stale`: why there is no newer one."""

    report: Report
    usage: Usage
    rates: Rates | None = None
    stale: str | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    worker: WorkerStatus
    running: int
    rates: WorkerRates

    @property
    def fullness(self) -> float:
        return self.running / (self.worker.max_concurrency or max(self.running, 1))


def top_table(moment: Moment, source: str, sort: str, height: int | None) -> RenderableType:
    """Return the whole screen, in at most `height` lines (None: no limit)."""
    facts = _facts(moment, source)
    rows = _ordered(_rows(moment), sort)
    # Besides the facts there are an empty line and the table's head, and perhaps the line that counts hidden workers.
    room = len(rows) if height is None else max(0, height - facts.row_count - 2)
    hidden = 0 if len(rows) <= room else len(rows) - max(0, room - 1)
    shown = rows[: len(rows) - hidden]
    parts: list[RenderableType] = [facts, "", _table(shown)]
    if hidden:
        parts.append(Text(f"{hidden} more worker{'' if hidden == 1 else 's'} not shown", "dim", no_wrap=True))
    return Group(*parts)


def fits(console: Console) -> int | None:
    """Return how many lines the screen has; None if the output is no terminal."""
    return console.height if console.is_terminal else None


def _facts(moment: Moment, source: str) -> Table:
    report, rates = moment.report, moment.rates
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(no_wrap=True, overflow="ellipsis")
    facts.add_row("told by", Text(source))
    if report.status != "healthy":
        facts.add_row("routing", Text("jobs find no worker", "bold red"))
    facts.add_row("workers", Text(healthy(report)))
    facts.add_row("running", Text(f"{running_jobs(report.workers)}, {moment.usage.waiting} waiting"))
    if rates is None:
        facts.add_row("jobs", Text("counting", "dim"))
    else:
        troubles = f"{rate(rates.errors)} errors/s, {rate(rates.retries)} retries/s"
        style = "bold red" if rates.errors else "yellow" if rates.retries else ""
        facts.add_row("jobs", Text.assemble(f"{rate(rates.jobs)}/s, ", (troubles, style)))
        facts.add_row("took", Text(f"p50 {seconds(rates.p50_s)}, p99 {seconds(rates.p99_s)}"))
    if report.redis != AVAILABLE:
        facts.add_row("redis", redis_text(report))
    if not report.sidecar.leader:
        facts.add_row("sidecar", Text("none leads", "bold red"))
    if moment.stale:
        facts.add_row("stale", Text(moment.stale, "bold red"))
    return facts


def _rows(moment: Moment) -> list[_Row]:
    rows = []
    for worker in moment.report.workers:
        used = moment.usage.workers.get(worker.url)
        rates = moment.rates.workers.get(worker.url) if moment.rates else None
        rows.append(_Row(worker, used.leases if used else 0, rates or WorkerRates()))
    return rows


# The orders that the user may choose; each maps a row to its sort key.
SORTS: Mapping[str, Callable[[_Row], tuple[float | str, ...]]] = {
    "trouble": lambda row: (rank(row.worker.health), -row.rates.failures),
    "jobs": lambda row: (-row.rates.jobs,),
    "failures": lambda row: (-row.rates.failures,),
    "running": lambda row: (-row.fullness, -row.running),
    "time": lambda row: (-(row.rates.mean_s or 0.0),),
    "url": lambda row: (row.worker.url,),
}


def _ordered(rows: Iterable[_Row], sort: str) -> list[_Row]:
    """Return the rows in the order `sort` (one of SORTS); equal ones by jobs, then running jobs, then URL."""
    first = SORTS[sort]
    return sorted(rows, key=lambda row: (*first(row), -row.rates.jobs, -row.running, row.worker.url))


def _table(rows: Sequence[_Row]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    # On a narrow screen the note is cut, not the URL.
    names = max((len(row.worker.url) for row in rows), default=0)
    table.add_column("worker", no_wrap=True, min_width=min(names, _NAME))
    table.add_column("health", no_wrap=True)
    table.add_column("jobs/s", justify="right", no_wrap=True)
    table.add_column("failures/s", justify="right", no_wrap=True)
    table.add_column("running", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("note", no_wrap=True, overflow="ellipsis")
    for row in rows:
        failures = Text(rate(row.rates.failures), "bold red" if row.rates.failures else "")
        cells = [Text(row.worker.url), health_text(row.worker.health), Text(rate(row.rates.jobs)), failures]
        table.add_row(*cells, _bar(row), Text(seconds(row.rates.mean_s)), Text(note(row.worker)))
    return table


def _bar(row: _Row) -> Text:
    cap = row.worker.max_concurrency
    if cap is None:
        return Text(str(row.running))
    filled = min(_BAR, -(-row.running * _BAR // cap))  # rounded up, so that one job is visible
    style = "red" if row.running >= cap else "green"
    return Text.assemble(("█" * filled, style), ("░" * (_BAR - filled), "dim"), f" {row.running}/{cap}")
