"""`sfr status` and `sfr workers`: see and steer the fleet from a terminal."""

# ruff: noqa: PLC0415  (see cli/options.py)
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.failure import BadInput, Exit, Failed
from router.cli.grouping import Commands
from router.cli.options import (
    EXITS,
    ROUTER_URL,
    Healths,
    Label,
    Language,
    MemoryMb,
    NewWorkerArgument,
    Prefix,
    RedisUrl,
    Url,
    WorkerArgument,
    WorkerArguments,
    abilities_told,
    fleet_at,
    healths,
    number,
    router_at,
    seconds,
    shown,
    source_of,
    worker_address,
)
from router.cli.spinner import waiting
from router.config.bounds import MAX_COUNT, MAX_WEIGHT, whole_number

if TYPE_CHECKING:
    from router.api.schemas import AdminWorker, Report
    from router.cli.router_client import Fleet

WATCH_EVERY_S = 2.0
# The argument that stands for the weight or cap that a worker came with.
DEFAULT = "default"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the API answers it.")]

workers_app = Commands(
    help="See and change the workers. A router takes changes only with its admin token, from ADMIN_TOKEN or "
    "ADMIN_TOKEN_FILE.",
    epilog=EXITS,
)


def status(
    url: Url = ROUTER_URL,
    redis: RedisUrl = None,
    prefix: Prefix = "sfr",
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")] = False,
) -> None:
    """Show the state of the fleet.

    Examples: `sfr status --url http://router:8000`, `sfr status --watch`, `sfr status --json | jq`
    """
    fleet, source = fleet_at(url, redis, prefix), source_of(url, redis)
    if watch:
        with suppress(KeyboardInterrupt):
            _watch(fleet, source, as_json=as_json)
        return
    with waiting():
        report = fleet.report()
    _show_report(report, source, as_json=as_json)
    if report.status != "healthy":
        raise typer.Exit(Exit.FAILED)


@workers_app.command("list", epilog=EXITS)
def list_workers(
    health: Healths = None,
    url: Url = ROUTER_URL,
    redis: RedisUrl = None,
    prefix: Prefix = "sfr",
    as_json: AsJson = False,
) -> None:
    """List all workers, or those with some health.

    Examples: `sfr workers list --health unhealthy --health ejected`, `sfr workers list --json | jq -r '.[].url'`
    """
    wanted = healths(health)
    with waiting():
        found = [each for each in fleet_at(url, redis, prefix).workers() if each.health in wanted]
    if as_json:
        typer.echo(f"[{','.join(each.model_dump_json() for each in found)}]")
        return
    from router.cli.fleet.tables import screen, workers_table

    screen().print(workers_table(found))


@workers_app.command(epilog=EXITS)
def add(
    worker: NewWorkerArgument,
    weight: Annotated[
        int, number("--weight", "Its share of the jobs: 3 gets three times as many as 1.", 1, MAX_WEIGHT)
    ] = 1,
    max_concurrency: Annotated[
        int | None, number("--max-concurrency", "The cap: how many jobs may run on it at once.", 1)
    ] = None,
    ttl: Annotated[
        float | None, seconds("--ttl", "How long it stays, unless added again; by default until it is removed.")
    ] = None,
    label: Label = None,
    language: Language = None,
    memory_mb: MemoryMb = None,
    url: Url = ROUTER_URL,
) -> None:
    """Add a worker, or renew one that was added.

    Examples: `sfr workers add http://server9:8080 --max-concurrency 8`, `sfr workers add http://gpu1:8080 --label gpu`

    `admin.allowed_workers` in the router's config.yaml must allow its host.
    """
    fields = {"url": worker_address(worker), "weight": weight, "max_concurrency": max_concurrency}
    fields |= {"ttl_seconds": ttl} | abilities_told(label, language, memory_mb)
    with waiting():
        added = router_at(url).add(fields)
    show_worker(added)


@workers_app.command(epilog=EXITS)
def remove(workers: WorkerArguments, url: Url = ROUTER_URL) -> None:
    """Remove workers that were added.

    Example: `sfr workers remove http://server9:8080`
    """
    router = router_at(url)
    for address in [worker_address(each) for each in workers]:
        with waiting():
            router.remove(address)
        typer.echo(f"{address}: removed")


@workers_app.command(epilog=EXITS)
def weigh(
    worker: WorkerArgument,
    weight: Annotated[
        str | None,
        typer.Argument(
            metavar="WEIGHT", help=f"Its share of the jobs, 1 to 100. `{DEFAULT}` restores the value that it came with."
        ),
    ] = None,
    max_concurrency: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help=f"The cap: how many jobs may run on it at once. `{DEFAULT}` restores the value that it came with.",
        ),
    ] = None,
    url: Url = ROUTER_URL,
) -> None:
    """Set a worker's weight, cap or both.

    Example: `sfr workers weigh http://server1:8080 3 --max-concurrency 8`

    The new values replace config.yaml's until they are set to `default`, or until the worker leaves the fleet.
    """
    given = {"weight": weight, "max_concurrency": max_concurrency}
    fields = {name: _number(name, text) for name, text in given.items() if text is not None}
    if not fields:
        raise BadInput("expected a weight or --max-concurrency, or both")
    with waiting():
        changed = router_at(url).change(worker_address(worker), fields)
    # The answer may hold the old values: the sidecar applies the new ones a moment later.
    wanted = ", ".join(f"{name} {value or 'as it came'}" for name, value in fields.items())
    typer.echo(f"{changed.url}: {wanted}")


def _number(name: str, text: str) -> int | None:
    if text == DEFAULT:
        return None
    if (found := whole_number(text, 0, MAX_COUNT)) is None:  # the router checks the range
        raise BadInput(f"{name}: expected a number or `{DEFAULT}`, got {shown(text)}")
    return found


def show_worker(worker: "AdminWorker") -> None:
    """Print the worker's state in a line."""
    cap = "" if worker.max_concurrency is None else f" of {worker.max_concurrency}"
    typer.echo(f"{worker.url}: {worker.health}, weight {worker.weight}, {worker.running}{cap} running")


def _show_report(report: "Report", source: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(report.model_dump_json())
        return
    from router.cli.fleet.tables import report_table, screen

    screen().print(report_table(report, source))


def _watch(fleet: "Fleet", source: str, *, as_json: bool) -> None:
    """Show the fleet every WATCH_EVERY_S seconds."""
    from router.cli.fleet.tables import live, report_table, screen

    if as_json:
        for report, trouble in _reports(fleet):
            typer.echo(trouble or report.model_dump_json(), err=trouble is not None)
        return
    console = screen()
    if not console.is_terminal:
        raise BadInput("--watch: expected a terminal; with --json it writes a line each time")
    with live(console) as view:
        for report, trouble in _reports(fleet):
            view.update(report_table(report, source, trouble), refresh=True)


def _reports(fleet: "Fleet") -> Iterator[tuple["Report", str | None]]:
    """Yield the state of the fleet every WATCH_EVERY_S seconds, and why it is not newer, if it is not.

    Raises Failed if the first try fails.
    """
    report, trouble = fleet.report(), None
    while True:
        yield report, trouble
        time.sleep(WATCH_EVERY_S)
        try:
            report, trouble = fleet.report(), None
        except Failed as error:
            trouble = str(error)
