"""`sfr status` and `sfr workers`: the fleet, seen and steered from a terminal."""

# ruff: noqa: PLC0415  (see cli.py)
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.options import (
    EXITS,
    ROUTER_URL,
    NewWorkerArgument,
    Prefix,
    RedisUrl,
    Url,
    WorkerArgument,
    asking,
    bad_input,
    fleet_at,
    router_at,
    source_of,
    told,
    worker_address,
)

if TYPE_CHECKING:
    from router.api.schemas import AdminWorker, Report
    from router.cli.router_client import Fleet

WATCH_EVERY_S = 2.0
# What stands for the weight or cap that a worker came with.
DEFAULT = "default"

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, as the API has it.")]

workers_app = typer.Typer(
    help="See and steer the workers. Changes by a router need its admin token in ADMIN_TOKEN or ADMIN_TOKEN_FILE.",
    epilog=EXITS,
    no_args_is_help=True,
)


def status(
    url: Url = ROUTER_URL,
    redis: RedisUrl = None,
    prefix: Prefix = "sfr",
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")] = False,
) -> None:
    """Show how the fleet is: `sfr status --url http://router:8000`, `sfr status --watch`, `sfr status --json | jq`."""
    with told():
        fleet, source = fleet_at(url, redis, prefix), source_of(url, redis)
        if watch:
            with suppress(KeyboardInterrupt):
                _watch(fleet, source, as_json=as_json)
            return
        with asking():
            report = fleet.report()
        _show(report, source, as_json=as_json)
        if report.status != "healthy":
            from router.cli.router_client import Exit

            raise typer.Exit(Exit.REFUSED)


@workers_app.command("list", epilog=EXITS)
def list_workers(
    url: Url = ROUTER_URL, redis: RedisUrl = None, prefix: Prefix = "sfr", as_json: AsJson = False
) -> None:
    """List all workers: `sfr workers list`, `sfr workers list --json | jq -r '.[].url'`."""
    with told():
        with asking():
            found = fleet_at(url, redis, prefix).workers()
        if as_json:
            typer.echo(f"[{','.join(each.model_dump_json() for each in found)}]")
            return
        from router.cli.fleet.tables import screen, workers_table

        screen().print(workers_table(found))


@workers_app.command(epilog=EXITS)
def drain(worker: WorkerArgument, url: Url = ROUTER_URL, redis: RedisUrl = None, prefix: Prefix = "sfr") -> None:
    """Keep new jobs from a worker; what runs on it is finished: `sfr workers drain http://server1:8080`."""
    with told():
        with asking():
            drained = fleet_at(url, redis, prefix).drain(worker_address(worker))
        _say(drained)


@workers_app.command(epilog=EXITS)
def resume(worker: WorkerArgument, url: Url = ROUTER_URL, redis: RedisUrl = None, prefix: Prefix = "sfr") -> None:
    """Let a drained worker have jobs again: `sfr workers resume http://server1:8080`."""
    with told():
        with asking():
            resumed = fleet_at(url, redis, prefix).resume(worker_address(worker))
        _say(resumed)


@workers_app.command(epilog=EXITS)
def add(
    worker: NewWorkerArgument,
    weight: Annotated[int, typer.Option(help="Turns in the ring, 1 to 100.")] = 1,
    max_concurrency: Annotated[int | None, typer.Option(help="How many jobs run on it at once, at most.")] = None,
    ttl: Annotated[float | None, typer.Option(help="For how many seconds; else until it is removed.")] = None,
    url: Url = ROUTER_URL,
) -> None:
    """Add a worker, or renew it: `sfr workers add http://server9:8080 --max-concurrency 8`.

    Its host must be among `admin.allowed_workers` in the router's config.yaml.
    """
    with told():
        fields = {"weight": weight, "max_concurrency": max_concurrency, "ttl_seconds": ttl}
        with asking():
            added = router_at(url).add({"url": worker_address(worker), **fields})
        _say(added)


@workers_app.command(epilog=EXITS)
def remove(worker: WorkerArgument, url: Url = ROUTER_URL) -> None:
    """Take out a worker that was added: `sfr workers remove http://server9:8080`."""
    with told():
        address = worker_address(worker)
        with asking():
            router_at(url).remove(address)
        typer.echo(f"{address}: removed")


@workers_app.command(epilog=EXITS)
def weigh(
    worker: WorkerArgument,
    weight: Annotated[
        str | None, typer.Argument(help=f"Turns in the ring, 1 to 100; `{DEFAULT}`: as it came with.")
    ] = None,
    max_concurrency: Annotated[
        str | None, typer.Option(help=f"How many jobs run on it at once, at most; `{DEFAULT}`: as it came with.")
    ] = None,
    url: Url = ROUTER_URL,
) -> None:
    """Set a worker's weight, cap or both: `sfr workers weigh http://server1:8080 3 --max-concurrency 8`.

    They win over config.yaml until set to `default`, or until the worker leaves the fleet.
    """
    with told():
        given = {"weight": weight, "max_concurrency": max_concurrency}
        fields = {name: _number(name, text) for name, text in given.items() if text is not None}
        if not fields:
            raise bad_input("expected a weight or --max-concurrency, or both")
        with asking():
            changed = router_at(url).change(worker_address(worker), fields)
        # What it has now follows a moment later, when the sidecar has seen it.
        wanted = ", ".join(f"{name} {value or 'as it came'}" for name, value in fields.items())
        typer.echo(f"{changed.url}: {wanted}")


def _number(name: str, text: str) -> int | None:
    if text == DEFAULT:
        return None
    from router.config.bounds import MAX_COUNT, whole_number

    if (number := whole_number(text, 0, MAX_COUNT)) is None:  # the router tells which numbers it takes
        raise bad_input(f"{name}: expected a number or `{DEFAULT}`, got {text[:20]!r}")
    return number


def _say(worker: "AdminWorker") -> None:
    cap = "" if worker.max_concurrency is None else f" of {worker.max_concurrency}"
    typer.echo(f"{worker.url}: {worker.health}, weight {worker.weight}, {worker.running}{cap} running")


def _show(report: "Report", source: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(report.model_dump_json())
        return
    from router.cli.fleet.tables import report_table, screen

    screen().print(report_table(report, source))


def _watch(fleet: "Fleet", source: str, *, as_json: bool) -> None:
    """Show the fleet again and again."""
    from router.cli.fleet.tables import live, report_table, screen

    if as_json:
        for report, trouble in _reports(fleet):
            typer.echo(trouble or report.model_dump_json(), err=trouble is not None)
        return
    console = screen()
    if not console.is_terminal:
        raise bad_input("--watch: expected a terminal; with --json it writes a line each time")
    with live(console) as view:
        for report, trouble in _reports(fleet):
            view.update(report_table(report, source, trouble), refresh=True)


def _reports(fleet: "Fleet") -> Iterator[tuple["Report", str | None]]:
    """Yield how the fleet is, every WATCH_EVERY_S seconds; while nothing newer is known, the last with why that is.

    Raises Failed where it was never seen.
    """
    from router.cli.router_client import Failed

    report, trouble = fleet.report(), None
    while True:
        yield report, trouble
        time.sleep(WATCH_EVERY_S)
        try:
            report, trouble = fleet.report(), None
        except Failed as error:
            trouble = str(error)
