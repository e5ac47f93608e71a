"""`sfr history`: the fleet's rates of the last minutes, hour or day."""

# ruff: noqa: PLC0415  (see cli/options.py)
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.failure import BadInput
from router.cli.fleet.commands import AsJson
from router.cli.options import ROUTER_URL, Prefix, RedisUrl, Url, fleet_at, shown
from router.cli.spinner import waiting
from router.fleet.journal.points import Range

if TYPE_CHECKING:
    from router.api.schemas import History


def history(
    span: Annotated[
        str, typer.Option("--range", metavar="RANGE", help=f"How much of the past: {', '.join(Range)}.")
    ] = Range.MINUTES,
    url: Url = ROUTER_URL,
    redis: RedisUrl = None,
    prefix: Prefix = "sfr",
    as_json: AsJson = False,
) -> None:
    """Show how busy the fleet was: a line for each 10 s, or with `--range 24h` for each minute, the newest last.

    Examples: `sfr history`, `sfr history --range 24h | tail -60`, `sfr history --range 1h --json | jq .tenants`

    Rates are a second. p50 and p99 are times of jobs, those of `wait` are waits for a lease. `-` stands where nothing
    is known. Times are in this host's zone.
    """
    wanted = _range(span)
    fleet = fleet_at(url, redis, prefix)
    with waiting():
        found = fleet.history(wanted)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    from router.cli.fleet.tables import history_table, screen

    screen().print(history_table(_rows(found)))


def _rows(history: "History") -> list[tuple[datetime, dict[str, float | None]]]:
    """Return each step's moment and numbers."""
    steps = len(next(iter(history.series.values()), ()))
    return [
        (
            datetime.fromtimestamp(history.begins + place * history.step_s).astimezone(),
            {name: values[place] for name, values in history.series.items()},
        )
        for place in range(steps)
    ]


def _range(text: str) -> Range:
    try:
        return Range(text)
    except ValueError as error:
        raise BadInput(f"--range: expected one of {', '.join(Range)}, got {shown(text)}") from error
