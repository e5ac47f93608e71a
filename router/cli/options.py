"""How commands reach the fleet: their options, the way that these name, and how a command tells that it failed."""

# ruff: noqa: PLC0415  (see cli.py)
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

if TYPE_CHECKING:
    from router.api.schemas import AdminWorker
    from router.cli.router_client import Fleet, RouterClient

EXITS = (
    "Exit status: 0 done; 1 refused, or (status) no job can be routed; 2 bad input; 3 router or Redis cannot be "
    "reached; 4 the admin token is missing or wrong."
)

Url = Annotated[str, typer.Option("--url", envvar="SFR_URL", help="The router's address.")]
RedisUrl = Annotated[str | None, typer.Option("--redis", help="Redis' URL: go there, and to no router.")]
Prefix = Annotated[str, typer.Option(help="What the keys begin with, with --redis.")]
ROUTER_URL = "http://127.0.0.1:8000"
# A shell waits so long, at most, for what could follow.
_COMPLETE_WITHIN_S = 1.0


def workers_to_name(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the workers that a command's URL may name, with their health, for the shell to complete it.

    What goes wrong is told to nobody: somebody is typing.
    """
    from router.cli.router_client import Failed

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


@contextmanager
def told() -> Iterator[None]:
    """End the command with a line and its status where it fails."""
    from router.cli.router_client import Failed

    try:
        yield
    except Failed as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.status) from None


def asking() -> AbstractContextManager[None]:
    """Return what shows people, while it is entered, that an answer is waited for, once that takes long."""
    from router.cli.spinner import waiting

    return waiting("waiting for an answer")


def bad_input(message: str) -> Exception:
    """Return what ends a command whose arguments cannot be used."""
    from router.cli.router_client import Exit, Failed

    return Failed(message, Exit.BAD_INPUT)


def fleet_at(url: str, redis: str | None, prefix: str) -> "Fleet":
    """Return the way to the fleet: by the router at `url`, or straight to Redis, where it is given. Raises Failed."""
    if redis is None:
        return router_at(url)
    from pydantic import ValidationError

    from router.cli.fleet.redis_client import RedisFleet
    from router.config.settings import RedisSettings

    try:
        return RedisFleet(RedisSettings(url=redis, prefix=prefix))
    except ValidationError as error:  # the URL is not repeated: it may hold a password
        problem = error.errors()[0]
        raise bad_input(f"--{'redis' if problem['loc'] == ('url',) else 'prefix'}: {problem['msg']}") from error


def router_at(url: str, answer_within_s: float | None = None) -> "RouterClient":
    """Return the router at `url`, with the token from the environment. Raises Failed."""
    from router.auth.admin_token import Unreadable, admin_token
    from router.cli.router_client import ANSWER_WITHIN_S, RouterClient
    from router.cli.run.job_file import BadInput

    try:
        token = admin_token()
        address = router_url(url)
    except (Unreadable, BadInput) as error:
        raise bad_input(str(error)) from error
    if token is not None and not token.isprintable():
        raise bad_input("the admin token: expected one line of text")
    return RouterClient(address, token, answer_within_s or ANSWER_WITHIN_S)


def source_of(url: str, redis: str | None) -> str:
    """Return who tells of the fleet, for people."""
    return f"the router at {url}" if redis is None else "Redis"


def worker_address(text: str) -> str:
    """Return a worker's URL in the form by which it is known. Raises Failed."""
    from router.config.addresses import masked, worker_url

    try:
        return worker_url(text)
    except ValueError as error:
        raise bad_input(f"{masked(text)}: {error}") from error


def router_url(text: str) -> str:
    """Return a router's address as requests are made from it. Raises BadInput.

    >>> router_url("http://router:8000/"), router_url("https://router/sandbox/run_code")
    ('http://router:8000', 'https://router/sandbox')
    """
    from router.cli.run.job_file import BadInput

    address = text.rstrip("/").removesuffix("/run_code")
    try:
        parts = urlsplit(address)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise BadInput(f"--url: expected a URL such as http://router:8000, got {text!r}")
    return address
