"""`sfr tenants`: see and set what each tenant may have of the fleet."""

# ruff: noqa: PLC0415  (see cli/options.py)
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.failure import BadInput
from router.cli.fleet.commands import DEFAULT, AsJson
from router.cli.grouping import Commands
from router.cli.options import (
    EXITS,
    ROUTER_URL,
    Prefix,
    RedisUrl,
    Url,
    complete_tenant,
    fleet_at,
    shown,
)
from router.cli.spinner import waiting
from router.policy.tenants import ARRIVAL, flaw

if TYPE_CHECKING:
    from router.api.schemas import AdminTenant

# Each process publishes its counts once a second.
COUNTED_S = 2

tenants_app = Commands(
    help="See and change what each tenant may have of the fleet. A router takes changes only with its admin token, "
    "from ADMIN_TOKEN or ADMIN_TOKEN_FILE.",
    epilog=EXITS,
)

TenantArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The tenant's name; `default` is for all that have no rule.",
        show_default=False,
        autocompletion=complete_tenant,
    ),
]


@tenants_app.command("list", epilog=EXITS)
def list_tenants(
    url: Url = ROUTER_URL, redis: RedisUrl = None, prefix: Prefix = "sfr", as_json: AsJson = False
) -> None:
    """List `default`, and all tenants that have a rule of their own or had a job within a day.

    Examples: `sfr tenants list`, `sfr tenants list --json | jq -r '.[].name'`

    Jobs a second are those of two seconds, over all routers. Worker-seconds are all that are counted: a tenant's counts
    begin anew after a day without jobs. The share is of these.
    """
    fleet = fleet_at(url, redis, prefix)
    with waiting():
        found = fleet.tenants()
    if as_json:
        typer.echo(f"[{','.join(each.model_dump_json() for each in found)}]")
        return
    from router.cli.fleet.tables import screen, tenants_table
    from router.fleet.journal.rates import tenant_rates

    before, since = {tenant.name: tenant.counts.usage() for tenant in found}, time.monotonic()
    with waiting("counting", COUNTED_S):
        time.sleep(COUNTED_S)
        found = fleet.tenants()
    after = {tenant.name: tenant.counts.usage() for tenant in found}
    screen().print(tenants_table(found, tenant_rates(before, after, time.monotonic() - since)))


@tenants_app.command("set", epilog=EXITS)
def set_tenant(
    name: TenantArgument,
    weight: Annotated[str | None, typer.Option(metavar="N", help="Its share of the busy slots, 1 to 1000.")] = None,
    priority: Annotated[
        str | None, typer.Option(metavar="N", help="Jobs of a higher priority go first; -100 to 100.")
    ] = None,
    max_running: Annotated[str | None, typer.Option(metavar="N", help="How many of its jobs may run at once.")] = None,
    max_waiting: Annotated[str | None, typer.Option(metavar="N", help="How many of its jobs may be pending.")] = None,
    order: Annotated[
        str | None, typer.Option(metavar="ORDER", help="In which order its own jobs go: arrival or longest_first.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A label that a worker needs to run its jobs; may be given several times; `''`: none."
        ),
    ] = None,
    client_budget: Annotated[
        str | None, typer.Option(metavar="BUDGET", help="How long its clients wait: none, job, job+N, or N seconds.")
    ] = None,
    reuse: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS",
            help="Identical jobs share one run, and its answer serves for so many seconds; 0: they do not.",
        ),
    ] = None,
    reuse_max_kb: Annotated[
        str | None, typer.Option(metavar="KB", help="With --reuse: a larger answer is not kept.")
    ] = None,
    url: Url = ROUTER_URL,
    redis: RedisUrl = None,
    prefix: Prefix = "sfr",
) -> None:
    """Set some of a tenant's values; the others stay as they are.

    Examples: `sfr tenants set run-7 --weight 3`, `sfr tenants set eval --priority 1 --max-running default`

    The new values win over config.yaml's until they are reset; `default` resets a single one. The tenant need not stand
    in config.yaml.
    """
    given = {
        "weight": weight,
        "priority": priority,
        "max_running": max_running,
        "max_waiting": max_waiting,
        "order": order,
        "labels": label,
        "client_budget": client_budget,
    }
    fields = {key: _value(key, text) for key, text in given.items() if text is not None}
    fields |= _reuse(reuse, reuse_max_kb)
    if not fields:
        raise BadInput("expected one option or more, such as --weight 3")
    with waiting():
        changed = fleet_at(url, redis, prefix).change_tenant(_name(name), fields)
    typer.echo(rule_line(changed))


@tenants_app.command(epilog=EXITS)
def reset(name: TenantArgument, url: Url = ROUTER_URL, redis: RedisUrl = None, prefix: Prefix = "sfr") -> None:
    """Forget all that is set of a tenant: it has config.yaml's values again.

    Example: `sfr tenants reset run-7`
    """
    with waiting():
        fleet_at(url, redis, prefix).reset_tenant(_name(name))
    typer.echo(f"{name}: reset")


def _name(text: str) -> str:
    if found := flaw(text):
        raise BadInput(found)
    return text


def _value(key: str, text: str | list[str]) -> Any:
    """Return an option's value as the API takes it; None: it is reset. The router checks the range."""
    if text in (DEFAULT, [DEFAULT]):
        return None
    if isinstance(text, list):
        return [label for label in text if label]
    if key == "order":
        return text
    try:
        return float(text) if key == "client_budget" else int(text)
    except ValueError as error:
        if key == "client_budget":
            return text
        raise BadInput(f"--{key.replace('_', '-')}: expected a number or `{DEFAULT}`, got {shown(text)}") from error


def _reuse(seconds: str | None, max_kb: str | None) -> dict[str, Any]:
    if seconds is None:
        if max_kb is not None:
            raise BadInput("--reuse-max-kb: expected --reuse with it")
        return {}
    if seconds == DEFAULT:
        if max_kb is not None:
            raise BadInput(f"--reuse-max-kb: expected a number of seconds in --reuse with it, got `{DEFAULT}`")
        return {"reuse": None}
    return {
        "reuse": {
            "seconds": _number("--reuse", seconds, float),
            **({} if max_kb is None else {"max_kb": _number("--reuse-max-kb", max_kb, int)}),
        }
    }


def _number(option: str, text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError as error:
        raise BadInput(f"{option}: expected a number, got {shown(text)}") from error


def rule_line(tenant: "AdminTenant") -> str:
    """Return a tenant's rule as one line of text."""
    limits = "".join(
        f", at most {most} {what}"
        for most, what in ((tenant.max_running, "running"), (tenant.max_waiting, "waiting"))
        if most is not None
    )
    labels = f", needs {', '.join(tenant.labels)}" if tenant.labels else ""
    budget = "" if tenant.client_budget is None else f", client budget {tenant.client_budget}"
    order = f", {tenant.order}" if tenant.order != ARRIVAL else ""
    reuse = f", answers serve for {tenant.reuse.seconds:g} s" if tenant.reuse.seconds else ""
    return f"{tenant.name}: weight {tenant.weight}, priority {tenant.priority}{limits}{labels}{budget}{order}{reuse}"
