"""`sfr agent`: the command's options and its exit status."""

# ruff: noqa: PLC0415  (see cli/options.py)
import os
from pathlib import Path
from typing import Annotated

import typer

from router.cli.failure import BadInput
from router.cli.options import (
    Label,
    Language,
    MemoryMb,
    abilities_told,
    number,
    router_at,
    shown,
    worker_address,
)
from router.config.bounds import MAX_COUNT, MAX_WAIT_S, MAX_WEIGHT, whole_number

AUTO = "auto"
# Shorter than for an operator: if a router hangs, the agent's end waits for this call.
_ANSWER_WITHIN_S = 5.0

EXITS = (
    "Exit status: the command's own, 0 without one; 128 + n if signal n ended it; 127 or 126 if it cannot be run; 1 no "
    "router takes the worker, or something answers at its URL already; 2 bad input; 4 the admin token is missing or "
    "wrong."
)


def agent(
    url: Annotated[
        str,
        typer.Option("--url", metavar="URL", help="The URL at which routers reach the worker.", show_default=False),
    ],
    router: Annotated[
        list[str],
        typer.Option(
            "--router",
            envvar="SFR_URL",
            metavar="URL",
            help="A router's address. May be repeated.",
            show_default=False,
        ),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="The command that starts the worker, with its arguments; none if something else runs the worker.",
            show_default=False,
        ),
    ] = None,
    weight: Annotated[
        int, number("--weight", "Its share of the jobs: 3 gets three times as many as 1.", 1, MAX_WEIGHT)
    ] = 1,
    max_concurrency: Annotated[
        str | None,
        typer.Option(
            metavar=f"N|{AUTO}",
            help=f"The cap: how many jobs may run on it at once. `{AUTO}` means one for each CPU of this process.",
        ),
    ] = None,
    label: Label = None,
    language: Language = None,
    memory_mb: MemoryMb = None,
    grace: Annotated[
        int,
        number("--grace", "How many seconds running jobs have when the agent is told to end.", 0, MAX_WAIT_S),
    ] = 100,
    kill_after: Annotated[
        int, number("--kill-after", "How many seconds after SIGTERM the command is killed.", 0, MAX_WAIT_S)
    ] = 10,
    ttl: Annotated[
        int, number("--ttl", "How many seconds the worker stays in the fleet if the agent dies.", 1, MAX_WAIT_S)
    ] = 30,
    mark: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file that is there while the worker is in the fleet: a preStop hook waits until it is gone.",
        ),
    ] = None,
) -> None:
    """Run a worker and keep it in the fleet.

    The worker joins the fleet when it answers its ping. At SIGTERM or SIGINT the agent drains it, waits for its jobs,
    and then sends SIGTERM to the command. Routers ask for the admin token, from ADMIN_TOKEN or ADMIN_TOKEN_FILE; the
    command does not see it. Without a command the agent ends when the worker has left the fleet.

    Example: `sfr agent --router http://router:8000 --url http://$(hostname):8080 --max-concurrency auto --
    singularity run --env HOST=0.0.0.0 sandbox-fusion.sif`
    """
    import asyncio

    from router import logs
    from router.cli.agent.agent import Agent, AgentOptions

    logs.set_up()
    fields = {"url": worker_address(url, "--url"), "weight": weight, "max_concurrency": _cap(max_concurrency)}
    fields |= abilities_told(label, language, memory_mb)
    options = AgentOptions(command or (), fields, ttl, grace, kill_after, mark)
    if mark is not None and (mark.is_dir() or not os.access(mark.parent, os.W_OK)):
        raise BadInput(f"--mark: no file can be made at {shown(mark)}")
    routers = {found.address: found for found in (router_at(each, _ANSWER_WITHIN_S) for each in router)}
    status = asyncio.run(Agent(options, list(routers.values())).run())
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
    if (cap := whole_number(text, 1, MAX_COUNT)) is None:
        raise BadInput(f"--max-concurrency: expected a number above 0 or `{AUTO}`, got {shown(text)}")
    return cap
