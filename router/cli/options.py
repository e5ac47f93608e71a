"""What the commands share: options, how they reach the fleet, and how they end when something fails."""

# Commands import what they need when they run, so that --help comes at once.
# ruff: noqa: PLC0415
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer

from router.cli.failure import BadInput, Failed
from router.config.bounds import MAX_COUNT, MAX_MEMORY_MB, MAX_WAIT_S, decimal_number, whole_number

if TYPE_CHECKING:
    from router.api.schemas import AdminWorker
    from router.cli.router_client import Fleet, RouterClient
    from router.config.settings import RedisSettings
    from router.fleet.model import Health

EXITS = (
    "Exit status: 0 done; 1 refused, or (status) no job can be routed; 2 bad input; 3 router or Redis cannot be "
    "reached; 4 the admin token is missing or wrong."
)

_SHOWN_CHARACTERS = 40


def number(name: str, told: str, least: int = 0, most: int = MAX_COUNT) -> Any:
    """Return an option that takes a whole number from `least` to `most`; `told` is its help."""

    def parse(given: str | int) -> int:
        if (found := whole_number(str(given), least, most)) is None:
            raise BadInput(f"{name}: expected a whole number from {least} to {most}, got {shown(given)}")
        return found

    return typer.Option(name, parser=parse, metavar="N", help=told, show_default=True)


def seconds(name: str, told: str) -> Any:
    """Return an option that takes a number of seconds; `told` is its help."""

    def parse(given: str | float) -> float:
        if (found := decimal_number(str(given), MAX_WAIT_S)) is None:
            raise BadInput(f"{name}: expected seconds, more than 0 and at most {MAX_WAIT_S}, got {shown(given)}")
        return found

    return typer.Option(name, parser=parse, metavar="SECONDS", help=told, show_default=True)


def address(name: str, told: str) -> Any:
    """Return an option that takes an address to listen on; `told` is its help."""

    def parse(given: str) -> str:
        try:
            socket.getaddrinfo(given, None)
        except (OSError, UnicodeError) as error:
            raise BadInput(f"{name}: expected an address of this host, such as 0.0.0.0, got {shown(given)}") from error
        return given

    return typer.Option(name, parser=parse, metavar="ADDRESS", help=told, show_default=True)


def nothing_new(because: str) -> str:
    """Return what an operator has to know of a journal while Redis answers, but takes nothing new."""
    return f"Redis is unavailable: {because}. What has happened since then is shown when it is back"


def shown(given: object) -> str:
    """Return as much of what a user gave as a message repeats, in quotes, without control characters."""
    return repr(str(given)[:_SHOWN_CHARACTERS])


ConfigFile = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="The file; by default the one that ROUTER_CONFIG names.", show_default=False),
]
Url = Annotated[str, typer.Option("--url", envvar="SFR_URL", metavar="URL", help="The router's address.")]
RedisUrl = Annotated[
    str | None, typer.Option("--redis", metavar="URL", help="Redis' URL: ask Redis itself instead of a router.")
]
Prefix = Annotated[str, typer.Option(metavar="NAME", help="With --redis: the prefix of the keys.")]
Label = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="What it has, for jobs that ask for it, such as `gpu`. May be repeated.",
        show_default=False,
    ),
]
Language = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="A language that it runs; by default every language. May be repeated.", show_default=False
    ),
]
MemoryMb = Annotated[
    int | None,
    number("--memory-mb", "Its memory for jobs in MB; by default their memory is not counted.", 1, MAX_MEMORY_MB),
]
ROUTER_URL = "http://127.0.0.1:8000"
# Redis may have lost what it held. Within this time routers have told it again which jobs run, and the sidecar which
# workers are drained. Before, a worker without jobs may have some.
KNOWN_AGAIN_S = 5.0
# A user who presses Tab waits at most this long.
_COMPLETE_WITHIN_S = 1.0


def complete_worker(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the URLs, with the health, that the shell may offer for a command's worker.

    Errors return nothing and print nothing, because the user is typing.
    """
    is_useful: dict[str, Callable[[AdminWorker], bool]] = {
        "drain": lambda worker: not worker.draining,
        "resume": lambda worker: worker.draining,
        "remove": lambda worker: worker.registered,
    }
    is_offered = is_useful.get(ctx.info_name or "")
    if ctx.params.get("redis"):
        return []
    try:
        workers = router_at(ctx.params.get("url") or ROUTER_URL, _COMPLETE_WITHIN_S).workers()
    except Failed:
        return []
    found = [each for each in workers if each.url.startswith(incomplete) and (is_offered is None or is_offered(each))]
    return [(each.url, each.health) for each in found]


def complete_tenant(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names that the shell may offer for a command's tenant; errors print nothing, as for workers."""
    if ctx.params.get("redis"):
        return []
    try:
        tenants = router_at(ctx.params.get("url") or ROUTER_URL, _COMPLETE_WITHIN_S).tenants()
    except Failed:
        return []
    return [each.name for each in tenants if each.name.startswith(incomplete)]


NewWorkerArgument = Annotated[str, typer.Argument(metavar="URL", help="The worker's URL.", show_default=False)]
WorkerArgument = Annotated[
    str,
    typer.Argument(metavar="URL", help="The worker's URL.", show_default=False, autocompletion=complete_worker),
]

WorkerArguments = Annotated[
    list[str],
    typer.Argument(metavar="URL", help="The workers' URLs.", show_default=False, autocompletion=complete_worker),
]
SomeWorkers = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="URL",
        help="The workers' URLs; without any, --all or --health says which.",
        show_default=False,
        autocompletion=complete_worker,
    ),
]
Healths = Annotated[
    list[str] | None,
    typer.Option(
        "--health",
        metavar="HEALTH",
        help="Those with this health: healthy, unhealthy, draining, ejected or unknown. May be repeated.",
        show_default=False,
    ),
]


def healths(given: list[str] | None) -> "frozenset[Health]":
    """Return the healths that --health names, all if it names none. Raises BadInput."""
    from router.fleet.model import Health

    for each in given or ():
        if each not in list(Health):
            raise BadInput(f"--health: expected one of {', '.join(Health)}, got {shown(each)}")
    return frozenset(Health(each) for each in given or Health)


def fail(message: str, status: int) -> NoReturn:
    """End the command with a line on stderr and an exit status."""
    typer.echo(message, err=True)
    raise typer.Exit(status)


def fleet_at(url: str, redis: str | None, prefix: str) -> "Fleet":
    """Return the fleet as the router at `url` shows it, or as Redis does, if `redis` is given. Raises Failed."""
    if redis is None:
        return router_at(url)
    from router.cli.fleet.redis_fleet import RedisFleet

    return RedisFleet(redis_at(redis, "--redis", prefix))


def redis_at(url: str, option: str, prefix: str = "sfr") -> "RedisSettings":
    """Return the settings of the Redis that an option names. Raises BadInput."""
    from pydantic import ValidationError

    from router.config.flaws import told
    from router.config.load import ConfigError
    from router.config.settings import RedisSettings
    from router.fleet.connection import expect_usable

    try:
        settings = RedisSettings(url=url, prefix=prefix)
        expect_usable(settings)
    except ConfigError as error:
        raise BadInput(str(error).replace("redis.url", option, 1)) from error
    except ValidationError as error:  # the URL is not repeated: it may hold a password
        flaw = error.errors()[0]
        named = option if flaw["loc"] == ("url",) else "--prefix"
        raise BadInput(f"{named}: {told(flaw)}") from error
    return settings


def router_at(url: str, answer_within_s: float | None = None) -> "RouterClient":
    """Return a client of the router at `url`, with the token from the environment. Raises BadInput."""
    from router.auth.admin_token import admin_token
    from router.cli.router_client import ANSWER_WITHIN_S, RouterClient
    from router.config.text_file import Unreadable

    try:
        token = admin_token()
    except Unreadable as error:
        raise BadInput(str(error)) from error
    if token is not None and not token.isprintable():
        raise BadInput("the admin token: expected one line of text")
    return RouterClient(router_url(url), token, answer_within_s or ANSWER_WITHIN_S)


def source_of(url: str, redis: str | None) -> str:
    """Return what the command asks, for people: a router or Redis."""
    from router.config.addresses import masked

    return f"the router at {masked(url)}" if redis is None else "Redis"


def worker_address(text: str, option: str = "") -> str:
    """Return a worker's URL in the one form by which it is known; `option`: what has given it. Raises BadInput."""
    from router.config.addresses import masked, worker_url

    try:
        return worker_url(text)
    except ValueError as error:
        named = f"{option}: {error}, got {shown(masked(text))}" if option else f"{masked(text) or 'URL'}: {error}"
        raise BadInput(named) from error


def abilities_told(labels: list[str] | None, languages: list[str] | None, memory_mb: int | None) -> dict[str, Any]:
    """Return which of NewWorker's fields the options set: routers of an older release know none of them."""
    fields = {"labels": labels, "languages": languages, "memory_mb": memory_mb}
    return {name: value for name, value in fields.items() if value is not None and value != []}


def router_url(text: str) -> str:
    """Return a router's address, to which a request's path is added. Raises BadInput.

    >>> router_url("http://router:8000/"), router_url("https://router/sandbox/run_code")
    ('http://router:8000', 'https://router/sandbox')
    """
    address = text.rstrip("/").removesuffix("/run_code")
    try:
        parts = urlsplit(address)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        from router.config.addresses import masked

        raise BadInput(f"--url: expected a URL such as http://router:8000, got {masked(text)!r}")
    return address
