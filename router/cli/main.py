"""`sfr`: the list of the commands, and those of them that need no module of their own."""

# ruff: noqa: PLC0415  (see cli/options.py)
from typing import Annotated

import typer

from router.cli import options
from router.cli.agent import command as cli_agent
from router.cli.doctor import command as cli_doctor
from router.cli.failure import Exit
from router.cli.fleet import commands, drains, events, failures, history, tenants
from router.cli.grouping import Commands
from router.cli.run import command as cli_run
from router.cli.top import command as cli_top
from router.cli.up import sample
from router.cli.up.serve import serve
from router.config.bounds import MAX_PROCESSES
from router.version import __version__

app = Commands(name="sfr", help="The SandboxFusion router's commands.")
_OLD_NAME = "worker"
_LAST_PORT = 65535
config_app = Commands(help="Check and show the configuration.")
app.add_typer(config_app, name="config")
key_app = Commands(help="Keys for clients that send jobs.")
app.add_typer(key_app, name="key")
app.command()(cli_run.run)
app.command(epilog=options.EXITS)(commands.status)
app.command(epilog=cli_agent.EXITS, context_settings={"allow_interspersed_args": False})(cli_agent.agent)
app.command(epilog=options.EXITS)(cli_top.top)
app.command(epilog=cli_doctor.EXITS)(cli_doctor.doctor)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve)
config_app.command(name="new")(sample.new)
app.command(epilog=events.EPILOG)(events.events)
app.command(epilog=options.EXITS)(failures.failures)
app.command(epilog=options.EXITS)(history.history)
app.add_typer(commands.workers_app, name="workers")
for each in (drains.drain, drains.resume):
    commands.workers_app.command(epilog=options.EXITS)(each)
app.add_typer(tenants.tenants_app, name="tenants")


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sfr {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """The SandboxFusion router's commands."""  # noqa: D401  (shown as help)


@app.command()
def up(
    local_workers: Annotated[
        int | None,
        options.number(
            "--local-workers",
            "How many local workers to start instead of using config.yaml's. THEY ISOLATE NOTHING.",
            *(1, MAX_PROCESSES),
        ),
    ] = None,
    processes: Annotated[
        int, options.number("--processes", "How many router processes to start.", 1, MAX_PROCESSES)
    ] = 2,
    port: Annotated[int, options.number("--port", "The port that the router listens on.", 1, _LAST_PORT)] = 8000,
    host: Annotated[
        str,
        options.address("--host", "The address that the router listens on; 0.0.0.0 opens it to the network."),
    ] = "127.0.0.1",
) -> None:
    """Start the whole system on this machine: Valkey, the sidecar, the router and, if you ask for them, local workers.

    Example: `sfr up --local-workers 3`
    """
    from router import logs
    from router.cli.up import stack
    from router.config.load import ConfigError

    logs.set_up()
    try:
        stack.up(stack.UpOptions(host, port, processes, local_workers))
    except ConfigError as error:
        options.fail(f"configuration error: {error}", Exit.BAD_INPUT)
    except stack.CannotStart as error:
        options.fail(f"cannot start: {error}", Exit.FAILED)


@app.command(_OLD_NAME, hidden=True)
@app.command()
def local_worker(
    ctx: typer.Context,
    port: Annotated[int, options.number("--port", "The port that the worker listens on.", 1, _LAST_PORT)] = 8080,
    host: Annotated[
        str,
        options.address("--host", "The address that the worker listens on. Whoever reaches it runs code as this user."),
    ] = "127.0.0.1",
) -> None:
    """Run a local worker, for demos and tests. It has SandboxFusion's API and runs real code WITHOUT ISOLATION.

    Example: `sfr local-worker --port 8081`
    """
    if ctx.info_name == _OLD_NAME:
        typer.echo("`sfr worker` is now `sfr local-worker`; the old name goes in a later release", err=True)
    import logging

    import uvicorn

    from router import logs
    from router.auth.origin import is_loopback
    from router.cli.up.local_worker import create_local_worker

    logs.set_up()
    # A job can read and change everything that this user can.
    logging.getLogger(__name__).warning("Local worker on %s:%d runs code WITHOUT ANY ISOLATION", host, port)
    uvicorn.run(
        create_local_worker([host] if is_loopback(host) else ()),
        host=host,
        port=port,
        workers=1,  # regardless of WEB_CONCURRENCY
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
    )


@app.command(context_settings={"ignore_unknown_options": True})
def redis(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="A Redis command and its arguments.")],
    url: Annotated[str | None, typer.Option(metavar="URL", help="Redis' URL; by default the configured one.")] = None,
) -> None:
    """Send one command to the configured Redis.

    Example: `sfr redis HGETALL sfr:worker:http://server1:8080`
    """
    import asyncio
    import logging

    from router.config.load import load_or_exit
    from router.fleet.redis_client import RedisClient, RedisUnavailable

    logging.getLogger("router").addHandler(logging.NullHandler())  # the command shows the same error
    settings = options.redis_at(url, "--url") if url else load_or_exit().redis

    async def ask() -> object:
        client = RedisClient.connect(settings, timeout_s=5.0)
        try:
            return await client.command(command)
        finally:
            await client.close()

    try:
        answer = asyncio.run(ask())
    except RedisUnavailable as error:
        options.fail(f"Redis: {error}", Exit.FAILED)
    typer.echo(_as_text(answer))


@config_app.command()
def check(
    path: options.ConfigFile = None,
) -> None:
    """Check the configuration. If it is bad, the command says where, and its exit status is 2.

    Example: `sfr config check /etc/sandboxfusion-router/config.yaml`
    """
    from router.config.load import ConfigError, config_path, read
    from router.config.show import over_preset
    from router.fleet.connection import expect_usable

    path = path or config_path()
    try:
        configuration = read(path)
        expect_usable(configuration.settings.redis)
    except ConfigError as error:
        options.fail(str(error), Exit.BAD_INPUT)
    settings = configuration.settings
    count = len(settings.workers)
    preset = "" if settings.preset == "none" else f", preset {settings.preset}"
    if stronger := over_preset(configuration):
        preset += f" without {', '.join(stronger)}, which the file sets"
    typer.echo(f"{path}: good; {count} worker{'' if count == 1 else 's'}, {settings.routing_strategy}{preset}")


@config_app.command()
def show(
    path: options.ConfigFile = None,
) -> None:
    """Show the configuration in force, and where each value comes from. Passwords are masked.

    A value comes from the file, the environment, a preset or the defaults. The output is YAML.

    Example: `sfr config show | grep -v '# default'`
    """
    from router.config.load import ConfigError, config_path, read
    from router.config.show import shown

    try:
        typer.echo(shown(read(path or config_path())), nl=False)
    except ConfigError as error:
        options.fail(str(error), Exit.BAD_INPUT)


@key_app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for people who read the file.")] = "",
) -> None:
    """Make an API key. Its line for the `api_keys` file goes to stdout, and the key itself to stderr.

    Example: `sfr key new trainer >> api_keys.txt`
    """
    import hashlib
    import secrets

    key = f"sfr_{secrets.token_urlsafe(32)}"
    typer.echo(f"{hashlib.sha256(key.encode()).hexdigest()}  {' '.join(name.split())}".rstrip())
    typer.echo(f"The key, which is stored nowhere: {key}", err=True)


def _as_text(answer: object) -> str:
    """Return a Redis answer as text: a line for each field of a hash, and for each item of a list or set."""
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
