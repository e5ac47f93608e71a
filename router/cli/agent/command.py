"""`sfr agent`: the command's options, and how it ends."""

# ruff: noqa: PLC0415  (see cli.py)
from typing import Annotated

import typer

from router.cli.options import bad_input, router_at, told, worker_address

AUTO = "auto"
# Shorter than an operator's: while one router hangs, the others and the command's end wait for the call.
_ANSWER_WITHIN_S = 5.0

EXITS = (
    "Exit status: the command's, 128 + n where signal n ended it, 127 or 126 where it cannot be run; 1 no router "
    "takes the worker, or something answers at its URL already; 2 bad input; 4 the admin token is missing or wrong."
)


def agent(
    command: Annotated[
        list[str], typer.Argument(help="What starts the worker, and its arguments.", show_default=False)
    ],
    url: Annotated[str, typer.Option("--url", help="The worker's address, as routers reach it.", show_default=False)],
    router: Annotated[
        list[str],
        typer.Option("--router", envvar="SFR_URL", help="A router's address. May be given again.", show_default=False),
    ],
    weight: Annotated[int, typer.Option(min=1, max=100, help="Turns in the ring.")] = 1,
    max_concurrency: Annotated[
        str | None, typer.Option(help=f"How many jobs run on it at once; `{AUTO}`: as many as this process has CPUs.")
    ] = None,
    grace: Annotated[
        int, typer.Option(min=0, help="For so many seconds running jobs are waited for at the end.")
    ] = 100,
    kill_after: Annotated[int, typer.Option(min=0, help="So many seconds after SIGTERM the command is killed.")] = 10,
    ttl: Annotated[int, typer.Option(min=1, help="After so many seconds without renewal it is no worker.")] = 30,
) -> None:
    """Run a worker and keep it in the fleet: `sfr agent --router URL --url http://$HOST:8080 -- COMMAND...`.

    The worker joins when it answers its ping. At SIGTERM or SIGINT it is drained, its jobs are waited for, and then the
    command gets SIGTERM. Routers want the admin token, in ADMIN_TOKEN or ADMIN_TOKEN_FILE; the command does not see it.

    Example: sfr agent --router http://router:8000 --url http://$(hostname):8080 --max-concurrency auto --
    singularity run --env HOST=0.0.0.0 sandbox-fusion.sif
    """
    import asyncio

    from router import logs
    from router.cli.agent.agent import Agent, Plan

    logs.set_up()
    with told():
        fields = {"url": worker_address(url), "weight": weight, "max_concurrency": _cap(max_concurrency)}
        plan = Plan(command, fields, ttl, grace, kill_after)
        routers = {found.address: found for found in (router_at(each, _ANSWER_WITHIN_S) for each in router)}
        status = asyncio.run(Agent(plan, list(routers.values())).run())
        raise typer.Exit(status)


def _cap(text: str | None) -> int | None:
    if text is None:
        return None
    if text == AUTO:
        import logging

        from router.cli.agent.cpus import usable_cpus

        cpus = usable_cpus()
        logging.getLogger(__name__).info("--max-concurrency %s: %d jobs at once (CPUs: %s)", AUTO, cpus.count, cpus)
        return cpus.count
    from router.config.bounds import MAX_COUNT, whole_number

    if (cap := whole_number(text, 1, MAX_COUNT)) is None:
        raise bad_input(f"--max-concurrency: expected a number above 0 or `{AUTO}`, got {text[:20]!r}")
    return cap
