"""`sfr`: the router's console commands. Each imports what it needs when it runs, so that help comes at once."""

# ruff: noqa: PLC0415
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from router.cli import options
from router.cli.agent import command as cli_agent
from router.cli.fleet import commands
from router.cli.run import command as cli_run
from router.cli.top import command as cli_top
from router.version import __version__

app = typer.Typer(
    name="sfr", help="The SandboxFusion router's commands.", no_args_is_help=True, pretty_exceptions_enable=False
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")
key_app = typer.Typer(help="Keys for those who send jobs.", no_args_is_help=True)
app.add_typer(key_app, name="key")
app.command()(cli_run.run)
app.command(epilog=options.EXITS)(commands.status)
app.command(epilog=cli_agent.EXITS, context_settings={"allow_interspersed_args": False})(cli_agent.agent)
app.command(epilog=options.EXITS)(cli_top.top)
app.add_typer(commands.workers_app, name="workers")

EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sfr {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """The SandboxFusion router's commands."""  # noqa: D401  (shown as help)


@app.command()
def up(
    local_workers: Annotated[
        int | None,
        typer.Option(min=1, help="Start so many local workers instead of using config.yaml's. THEY ISOLATE NOTHING."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Router processes.")] = 2,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The router's port.")] = 8000,
    host: Annotated[str, typer.Option(help="The router's address; 0.0.0.0 opens it to the network.")] = "127.0.0.1",
) -> None:
    """Start the whole system on this machine: Valkey, the sidecar, the router and, if asked, local workers.

    Example: sfr up --local-workers 3
    """
    from router import logs
    from router.cli.up import stack
    from router.config.load import ConfigError

    logs.set_up()
    try:
        stack.up(stack.Plan(host, port, processes, local_workers))
    except ConfigError as error:
        _fail(f"configuration error: {error}", EXIT_BAD_CONFIG)
    except stack.CannotStart as error:
        _fail(f"cannot start: {error}", EXIT_FAILED)


@app.command()
def worker(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The worker's port.")] = 8080,
    host: Annotated[str, typer.Option(help="The worker's address. Think before you open it.")] = "127.0.0.1",
) -> None:
    """Run a local worker: SandboxFusion's API, real code, NO ISOLATION. For demos and tests.

    Example: sfr worker --port 8081
    """
    import logging

    import uvicorn

    from router import logs
    from router.auth.origin import is_loopback
    from router.cli.up.local_worker import create_local_worker

    logs.set_up()
    # At worst, a job sees and changes all that this user can.
    logging.getLogger(__name__).warning("Local worker on %s:%d runs code WITHOUT ANY ISOLATION", host, port)
    uvicorn.run(
        create_local_worker([host] if is_loopback(host) else ()),
        host=host,
        port=port,
        workers=1,  # whatever WEB_CONCURRENCY says
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
    )


@app.command(context_settings={"ignore_unknown_options": True})
def redis(
    command: Annotated[list[str], typer.Argument(help="One Redis command and its arguments.")],
    url: Annotated[str | None, typer.Option(help="Redis' URL, instead of the configured one.")] = None,
) -> None:
    """Send one command to the configured Redis: `sfr redis HGETALL sfr:worker:http://server1:8080`."""
    import asyncio
    import logging

    from router.config.load import load_or_exit
    from router.config.settings import RedisSettings
    from router.fleet.redis_client import RedisClient, RedisUnavailable

    logging.getLogger("router").addHandler(logging.NullHandler())  # what the client logs is told here
    settings = RedisSettings(url=url) if url else load_or_exit().redis

    async def ask() -> object:
        client = RedisClient.connect(settings, timeout_s=5.0)
        try:
            return await client.command(command)
        finally:
            await client.close()

    try:
        answer = asyncio.run(ask())
    except RedisUnavailable as error:
        _fail(f"Redis: {error}", EXIT_FAILED)
    typer.echo(_as_text(answer))


@config_app.command()
def check(
    path: Annotated[Path | None, typer.Argument(help="The file; by default what ROUTER_CONFIG names.")] = None,
) -> None:
    """Say whether the configuration is good, and where it is not; exit status 2 then.

    Example: sfr config check /etc/sandboxfusion-router/config.yaml
    """
    from router.config.load import ConfigError, config_path, load

    path = path or config_path()
    try:
        settings = load(path)
    except ConfigError as error:
        _fail(str(error), EXIT_BAD_CONFIG)
    count = len(settings.workers)
    typer.echo(f"{path}: good; {count} worker{'' if count == 1 else 's'}, {settings.routing_strategy}")


@config_app.command()
def show(
    path: Annotated[Path | None, typer.Argument(help="The file; by default what ROUTER_CONFIG names.")] = None,
) -> None:
    """Show the configuration in force, defaults and REDIS_URL included; passwords are masked.

    Example: sfr config show | grep -A3 queue
    """
    from router.config.load import ConfigError, config_path, load, shown

    try:
        typer.echo(shown(load(path or config_path())), nl=False)
    except ConfigError as error:
        _fail(str(error), EXIT_BAD_CONFIG)


@key_app.command()
def new(name: Annotated[str, typer.Argument(help="Whose it is, for those who read the file.")] = "") -> None:
    """Make a key: its line for the `api_keys` file goes to stdout, the key itself to stderr, once.

    Example: sfr key new trainer >> api_keys.txt
    """
    import hashlib
    import secrets

    key = f"sfr_{secrets.token_urlsafe(32)}"
    typer.echo(f"{hashlib.sha256(key.encode()).hexdigest()}  {' '.join(name.split())}".rstrip())
    typer.echo(f"The key, which nothing keeps: {key}", err=True)


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(status)


def _as_text(answer: object) -> str:
    """Return a Redis answer as lines: a hash as `field value`, a list or set an item a line."""
    match answer:
        case None:
            return "(nil)"
        case dict():
            width = max((len(str(key)) for key in answer), default=0)
            return "\n".join(f"{key!s:<{width}}  {value}" for key, value in answer.items())
        case list() | tuple():
            return "\n".join(_as_text(item) for item in answer)
        case set() | frozenset():
            return "\n".join(sorted(_as_text(item) for item in answer))
        case _:
            return str(answer)


if __name__ == "__main__":
    app()
