"""`sfr status` and `sfr workers`: the fleet, seen and steered from a terminal."""

# ruff: noqa: PLC0415  (see cli.py)
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from router.reports import AdminWorker, Report
    from router.steering import Fleet, ThroughRouter

WATCH_EVERY_S = 2.0
# What stands for the weight or cap that a worker came with.
DEFAULT = "default"

EXITS = (
    "Exit status: 0 done; 1 refused, or (status) no job can be routed; 2 bad input; 3 router or Redis cannot be "
    "reached; 4 the admin token is missing or wrong."
)

Url = Annotated[str, typer.Option("--url", envvar="SFR_URL", help="The router's address.")]
RedisUrl = Annotated[str | None, typer.Option("--redis", help="Redis' URL: go there, and to no router.")]
Prefix = Annotated[str, typer.Option(help="What the keys begin with, with --redis.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, as the API has it.")]
ROUTER_URL = "http://127.0.0.1:8000"
# A shell waits so long, at most, for what could follow.
_COMPLETE_WITHIN_S = 1.0


def workers_to_name(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the workers that a command's URL may name, with their health, for the shell to complete it.

    What goes wrong is told to nobody: somebody is typing.
    """
    from router.steering import Failed

    is_of_use: dict[str, Callable[[AdminWorker], bool]] = {
        "drain": lambda worker: not worker.draining,
        "resume": lambda worker: worker.draining,
        "remove": lambda worker: worker.registered,
    }
    offered = is_of_use.get(ctx.info_name or "")
    if ctx.params.get("redis"):
        return []
    try:
        workers = router_at(ctx.params.get("url") or ROUTER_URL, _COMPLETE_WITHIN_S).workers()
    except Failed:
        return []
    found = [each for each in workers if each.url.startswith(incomplete) and (offered is None or offered(each))]
    return [(each.url, each.health) for each in found]


NewWorkerArgument = Annotated[str, typer.Argument(metavar="URL", help="The worker's URL.", show_default=False)]
WorkerArgument = Annotated[
    str,
    typer.Argument(metavar="URL", help="The worker's URL.", show_default=False, autocompletion=workers_to_name),
]

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
        report = fleet.report()
        _show(report, source, as_json=as_json)
        if report.status != "healthy":
            from router.steering import Exit

            raise typer.Exit(Exit.REFUSED)


@workers_app.command("list", epilog=EXITS)
def list_workers(
    url: Url = ROUTER_URL, redis: RedisUrl = None, prefix: Prefix = "sfr", as_json: AsJson = False
) -> None:
    """List all workers: `sfr workers list`, `sfr workers list --json | jq -r '.[].url'`."""
    with told():
        found = fleet_at(url, redis, prefix).workers()
        if as_json:
            typer.echo(f"[{','.join(each.model_dump_json() for each in found)}]")
            return
        from router.fleet_table import screen, workers_table

        screen().print(workers_table(found))


@workers_app.command(epilog=EXITS)
def drain(worker: WorkerArgument, url: Url = ROUTER_URL, redis: RedisUrl = None, prefix: Prefix = "sfr") -> None:
    """Keep new jobs from a worker; what runs on it is finished: `sfr workers drain http://server1:8080`."""
    with told():
        _say(fleet_at(url, redis, prefix).drain(worker_address(worker)))


@workers_app.command(epilog=EXITS)
def resume(worker: WorkerArgument, url: Url = ROUTER_URL, redis: RedisUrl = None, prefix: Prefix = "sfr") -> None:
    """Let a drained worker have jobs again: `sfr workers resume http://server1:8080`."""
    with told():
        _say(fleet_at(url, redis, prefix).resume(worker_address(worker)))


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
        _say(router_at(url).add({"url": worker_address(worker), **fields}))


@workers_app.command(epilog=EXITS)
def remove(worker: WorkerArgument, url: Url = ROUTER_URL) -> None:
    """Take out a worker that was added: `sfr workers remove http://server9:8080`."""
    with told():
        address = worker_address(worker)
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
        _say(router_at(url).change(worker_address(worker), fields))


@contextmanager
def told() -> Iterator[None]:
    """End the command with a line and its status where it fails."""
    from router.steering import Failed

    try:
        yield
    except Failed as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.status) from None


def bad_input(message: str) -> Exception:
    """Return what ends a command whose arguments cannot be used."""
    from router.steering import Exit, Failed

    return Failed(message, Exit.BAD_INPUT)


def fleet_at(url: str, redis: str | None, prefix: str) -> "Fleet":
    """Return the way to the fleet: by the router at `url`, or straight to Redis, where it is given. Raises Failed."""
    if redis is None:
        return router_at(url)
    from pydantic import ValidationError

    from router.settings import RedisSettings
    from router.steering_redis import ThroughRedis

    try:
        return ThroughRedis(RedisSettings(url=redis, prefix=prefix))
    except ValidationError as error:  # the URL is not repeated: it may hold a password
        problem = error.errors()[0]
        raise bad_input(f"--{'redis' if problem['loc'] == ('url',) else 'prefix'}: {problem['msg']}") from error


def router_at(url: str, answer_within_s: float | None = None) -> "ThroughRouter":
    """Return the router at `url`, with the token from the environment. Raises Failed."""
    from router.admin_token import Unreadable, admin_token
    from router.cli_run import router_url
    from router.job_lines import BadInput
    from router.steering import ANSWER_WITHIN_S, ThroughRouter

    try:
        token = admin_token()
        address = router_url(url)
    except (Unreadable, BadInput) as error:
        raise bad_input(str(error)) from error
    if token is not None and not token.isprintable():
        raise bad_input("the admin token: expected one line of text")
    return ThroughRouter(address, token, answer_within_s or ANSWER_WITHIN_S)


def source_of(url: str, redis: str | None) -> str:
    """Return who tells of the fleet, for people."""
    return f"the router at {url}" if redis is None else "Redis"


def worker_address(text: str) -> str:
    """Return a worker's URL in the form by which it is known. Raises Failed."""
    from router.addresses import worker_url

    try:
        return worker_url(text)
    except ValueError as error:
        raise bad_input(f"{text}: {error}") from error


def _number(name: str, text: str) -> int | None:
    if text == DEFAULT:
        return None
    if not text.isdecimal():
        raise bad_input(f"{name}: expected a number or `{DEFAULT}`, got {text!r}")
    return int(text)


def _say(worker: "AdminWorker") -> None:
    cap = "" if worker.max_concurrency is None else f" of {worker.max_concurrency}"
    typer.echo(f"{worker.url}: {worker.health}, weight {worker.weight}, {worker.running}{cap} running")


def _show(report: "Report", source: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(report.model_dump_json())
        return
    from router.fleet_table import report_table, screen

    screen().print(report_table(report, source))


def _watch(fleet: "Fleet", source: str, *, as_json: bool) -> None:
    """Show the fleet again and again."""
    from router.fleet_table import live, report_table, screen

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
    from router.steering import Failed

    report, trouble = fleet.report(), None
    while True:
        yield report, trouble
        time.sleep(WATCH_EVERY_S)
        try:
            report, trouble = fleet.report(), None
        except Failed as error:
            trouble = str(error)
