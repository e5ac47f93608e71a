"""The tables of `sfr status` and `sfr workers list`; unhealthy workers come first."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from router.api.schemas import AVAILABLE, AdminTenant, AdminWorker, Report, SidecarStatus, WorkerStatus
from router.fleet.model import Health, abilities, slots
from router.fleet.schema import SCHEMA_VERSION
from router.policy.tenants import ARRIVAL

_STYLES = {
    Health.HEALTHY: "green",
    Health.UNKNOWN: "yellow",
    Health.DRAINING: "yellow",
    Health.EJECTED: "red",
    Health.UNHEALTHY: "bold red",
}
_WORST_FIRST = [Health.UNHEALTHY, Health.EJECTED, Health.UNKNOWN, Health.DRAINING, Health.HEALTHY]
# In a pipe each worker has one line, however long.
_PIPE_COLUMNS = 10_000
_UNKNOWN = "unknown without Redis"
NOT_KNOWN = "-"  # in place of a number
# A tenant's name up to this length is shown whole on every screen.
_TENANT = 20
_UNITS = {"d": 86_400, "h": 3_600, "min": 60}


def screen() -> Console:
    """Return the console for tables: stdout, with colours and the terminal's width if it is a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_COLUMNS)


def live(console: Console) -> Live:
    """Return a context that shows one table at a time on the terminal's whole screen."""
    return Live(console=console, auto_refresh=False, screen=True)


def workers_table(workers: Sequence[WorkerStatus]) -> Table:
    """Return a row for each worker; what workers can run, and how fast they are, is shown if any differs."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    # On a narrow screen URLs and notes have several lines. A URL that is cut could be any worker's.
    table.add_column("worker", overflow="fold")
    table.add_column("health", no_wrap=True)
    table.add_column("since", no_wrap=True)
    for name in ("running", "weight"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("source", no_wrap=True)
    is_uneven = any(worker.speed != 1 for worker in workers)
    if is_uneven:
        table.add_column("speed", justify="right")
    has_abilities = any(_abilities(worker) for worker in workers)
    if has_abilities:
        table.add_column("runs", overflow="fold")
    table.add_column("note", overflow="fold")
    now = datetime.now(UTC)
    for worker in sorted(workers, key=lambda worker: (rank(worker.health), worker.url)):
        # `since` is when the checks changed the health; it does not say since when the breaker has ejected the worker.
        since = None if worker.health is Health.EJECTED else worker.since
        lasts = "" if since is None else length((now - since).total_seconds())
        # Text does not read brackets as markup, and a worker's answer may hold any.
        cells = [_running(worker), str(worker.weight), worker.source]
        cells += [f"{worker.speed:g}"] if is_uneven else []
        cells += [_abilities(worker)] if has_abilities else []
        cells.append(note(worker))
        table.add_row(Text(worker.url), health_text(worker.health), lasts, *map(Text, cells))
    return table


def tenants_table(tenants: Sequence[AdminTenant], jobs_a_second: Mapping[str, float]) -> Table:
    """Return a row for each tenant; a value that is set at run time is marked by a star.

    What is in use for no tenant has no column.
    """
    table = Table(box=None, padding=(0, 2, 0, 0))
    names = max((len(tenant.name) for tenant in tenants), default=0)
    table.add_column("tenant", no_wrap=True, min_width=min(names, _TENANT))
    for name in ("weight", "priority", "running", "waiting", "jobs/s", "worker-s", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("labels", overflow="fold")
    table.add_column("client budget")
    has_order = any(tenant.order != ARRIVAL or tenant.overrides.order for tenant in tenants)
    if has_order:
        table.add_column("order", no_wrap=True)
    has_reuse = any(tenant.reuse.seconds or tenant.counts.reused for tenant in tenants)
    if has_reuse:
        for name in ("reuse", "reused", "saved worker-s"):
            table.add_column(name, justify="right")
    all_ms = sum(tenant.counts.busy_ms for tenant in tenants)
    for tenant in tenants:
        counts = tenant.counts
        cells = [
            *(_of_tenant(tenant, "weight"), _of_tenant(tenant, "priority")),
            _of_most(counts.running, _of_tenant(tenant, "max_running")),
            _of_most(counts.waiting, _of_tenant(tenant, "max_waiting")),
            *(rate(jobs_a_second.get(tenant.name, 0.0)), f"{counts.busy_ms / 1000:.0f}"),
            f"{counts.busy_ms / all_ms:.0%}" if all_ms else "",
            *(_of_tenant(tenant, "labels"), _of_tenant(tenant, "client_budget")),
        ]
        if has_order:
            cells.append(_of_tenant(tenant, "order"))
        if has_reuse:
            cells += [_reuse_of(tenant), str(counts.reused), f"{counts.saved_ms / 1000:.0f}"]
        table.add_row(Text(tenant.name), *map(Text, cells))
    return table


def history_table(steps: Sequence[tuple[datetime, Mapping[str, float | None]]]) -> Table:
    """Return a row for each step of the history; `-` stands where nothing is known."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("time", no_wrap=True, min_width=len("00:00:00"))
    for name in ("jobs/s", "errors/s", "retries/s", "running", "waiting", "p50", "p99", "wait p50", "wait p99"):
        table.add_column(name, justify="right", no_wrap=True)
    for at, numbers in steps:
        counts = [numbers[name] for name in ("throughput", "errors", "retries", "running", "waiting")]
        times = [numbers[name] for name in ("p50_ms", "p99_ms", "queue_p50_ms", "queue_p99_ms")]
        cells = [NOT_KNOWN if count is None else rate(count) for count in counts]
        table.add_row(f"{at:%H:%M:%S}", *cells, *(seconds(None if ms is None else ms / 1000) for ms in times))
    return table


def _reuse_of(tenant: AdminTenant) -> str:
    shown = f"{tenant.reuse.seconds:g} s" if tenant.reuse.seconds else ""
    return shown if tenant.overrides.reuse is None else f"{shown}*"


def _of_tenant(tenant: AdminTenant, field: str) -> str:
    value, override = getattr(tenant, field), getattr(tenant.overrides, field)
    shown = ", ".join(value) if field == "labels" else "" if value is None else str(value)
    return shown if override is None else f"{shown}*"


def _of_most(count: int, most: str) -> str:
    return f"{count}/{most}" if most else str(count)


def report_table(report: Report, source: str, stale: str | None = None) -> RenderableType:
    """Return the whole fleet as a table. `source` is where the data come from; `stale`: why they are not newer."""
    facts = Table.grid(padding=(0, 2))
    is_routed = report.status == "healthy"
    facts.add_row("jobs", Text("are routed", "green") if is_routed else Text("find no worker", "bold red"))
    facts.add_row("told by", Text(source))
    facts.add_row("redis", redis_text(report))
    facts.add_row("sidecar", Text(_sidecar(report.sidecar), "" if report.sidecar.leader else "bold red"))
    if (version := report.sidecar.schema_version) not in (None, SCHEMA_VERSION):
        facts.add_row("schema", Text(_schema(version), "bold red"))
    facts.add_row("workers", Text(healthy(report)))
    facts.add_row("running", Text(running_jobs(report.workers)))
    facts.add_row("waiting", Text(_UNKNOWN if report.waiting is None else str(report.waiting)))
    if report.quarantined_jobs:
        facts.add_row("quarantined", Text(f"{report.quarantined_jobs} jobs that break workers", "yellow"))
    if stale:
        facts.add_row("stale", Text(stale, "bold red"))
    return Group(facts, "", workers_table(report.workers))


def redis_text(report: Report) -> Text:
    """Return whether Redis can be used, and why not."""
    why = f": {report.redis_because}" if report.redis_because else ""
    return Text(f"{report.redis}{why}", "green" if report.redis == AVAILABLE else "bold red")


def health_text(health: Health) -> Text:
    """Return a health in its colour."""
    return Text(health, _STYLES[health])


def rank(health: Health) -> int:
    """Return the rank of a health in the order of the tables; the worst has 0."""
    return _WORST_FIRST.index(health)


def length(seconds: float) -> str:
    """Return a duration in its largest unit.

    >>> length(0.4), length(59), length(3 * 60 + 59), length(7_200), length(200_000)
    ('0 s', '59 s', '3 min', '2 h', '2 d')
    """
    for unit, size in _UNITS.items():
        if seconds >= size:
            return f"{int(seconds / size)} {unit}"
    return f"{max(0, int(seconds))} s"


def _abilities(worker: WorkerStatus) -> str:
    return abilities(worker.labels, worker.languages, worker.memory_mb)


def _running(worker: WorkerStatus) -> str:
    running = str(worker.running) if isinstance(worker, AdminWorker) else "?"
    return running if worker.max_concurrency is None else f"{running}/{worker.max_concurrency}"


def note(worker: WorkerStatus) -> str:
    """Return why a worker gets no jobs, and its intents."""
    # If the last check was good, the last error may be old.
    is_not_healthy = worker.health in (Health.UNHEALTHY, Health.UNKNOWN)
    notes = [worker.last_error] if is_not_healthy and worker.last_error else []
    if worker.ejected_until is not None:
        notes.append(_ejection_note(worker.ejected_until, worker.ejected_because))
    if isinstance(worker, AdminWorker):
        if worker.draining and worker.health is not Health.DRAINING:
            notes.append("draining")
        if worker.expires_in_seconds is not None:
            notes.append(f"expires in {length(worker.expires_in_seconds)}")
    return "; ".join(notes)


def _ejection_note(until: datetime, because: str) -> str:
    left_s = (until - datetime.now(UTC)).total_seconds()
    lasts = f"for {length(left_s)}, until {until.astimezone():%H:%M:%S}" if left_s > 0 else "until its trial job ends"
    return f"ejected {lasts}: {because}"


def _sidecar(sidecar: SidecarStatus) -> str:
    leader = "none leads" if sidecar.leader is None else f"{sidecar.leader} leads"
    return f"{leader}, {'nothing seen yet' if sidecar.age_seconds is None else f'seen {sidecar.age_seconds:g} s ago'}"


def _schema(version: int) -> str:
    """Return what it means that Redis' keys have another version than this program knows.

    >>> _schema(1)
    "1, written by a sidecar of an older release; this command's is 2"
    """
    release = "a newer" if version > SCHEMA_VERSION else "an older"
    return f"{version}, written by a sidecar of {release} release; this command's is {SCHEMA_VERSION}"


def healthy(report: Report) -> str:
    """Return how many workers are healthy, and the health of the others."""
    return f"{report.healthy_workers} of {report.total_workers} healthy{_others(report)}"


def running_jobs(workers: Sequence[WorkerStatus]) -> str:
    """Return how many jobs run, and how many may run, if each worker has a cap."""
    if not all(isinstance(worker, AdminWorker) for worker in workers):
        return _UNKNOWN
    running = sum(worker.running for worker in workers if isinstance(worker, AdminWorker))
    of = slots(worker.max_concurrency for worker in workers)
    return str(running) if of is None else f"{running} of {of}"


def _others(report: Report) -> str:
    counts = {health: sum(worker.health is health for worker in report.workers) for health in _WORST_FIRST}
    return "".join(f", {count} {health}" for health, count in counts.items() if count and health is not Health.HEALTHY)


def seconds(value: float | None) -> str:
    """Return a duration as text, in ms or s.

    >>> seconds(None), seconds(0.0004), seconds(0.0312), seconds(1.25), seconds(75)
    ('-', '0.4 ms', '31 ms', '1.2 s', '75 s')
    """
    if value is None:
        return NOT_KNOWN
    if value < 1:
        return f"{value * 1000:.1f} ms" if value < 0.01 else f"{value * 1000:.0f} ms"  # noqa: PLR2004
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"  # noqa: PLR2004


def rate(value: float) -> str:
    """Return a rate as text, with a digit after the point if it is small.

    >>> rate(0), rate(0.04), rate(2.54), rate(1234.5)
    ('0', '<0.1', '2.5', '1234')
    """
    if 0 < value < 0.05:  # noqa: PLR2004  (it would be shown as 0.0)
        return "<0.1"
    return f"{value:.1f}" if 0 < value < 10 else f"{value:.0f}"  # noqa: PLR2004
