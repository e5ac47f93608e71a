"""`sfr top`: the command's options, its loop and its keyboard."""

# ruff: noqa: PLC0415  (see cli/options.py)
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from router.cli.failure import Failed
from router.cli.options import ROUTER_URL, Prefix, RedisUrl, Url, fleet_at, number, source_of
from router.cli.spinner import waiting
from router.config.bounds import MAX_WAIT_S

if TYPE_CHECKING:
    from router.cli.router_client import Fleet
    from router.cli.top.table import Moment


# The keys of table.SORTS, spelled again because that module would delay every command.
Sort = Literal["trouble", "jobs", "failures", "running", "time", "url"]


def top(
    url: Url = ROUTER_URL,
    redis: RedisUrl = None,
    prefix: Prefix = "sfr",
    sort: Annotated[
        Sort,
        typer.Option(help="Which workers come first. With trouble, the unhealthy ones, then those with most failures."),
    ] = "trouble",
    interval: Annotated[
        int, number("--interval", "Seconds between two updates; rates are those of this time.", 1, MAX_WAIT_S)
    ] = 2,
    once: Annotated[bool, typer.Option("--once", help="Show one interval, then end. Always so in a pipe.")] = False,
) -> None:
    """Show live what the fleet does; q ends it.

    Examples: `sfr top`, `sfr top --sort running`, `sfr top --once | head -20`

    Rates and times are those of the last interval, over all routers. An attempt counts for its worker when it ends.
    """
    from router.cli.fleet.tables import live, screen
    from router.cli.top.table import fits, top_table

    with suppress(KeyboardInterrupt):
        fleet, source = fleet_at(url, redis, prefix), source_of(url, redis)
        console = screen()
        moments = _moments(fleet)
        with waiting():
            moment = next(moments)
        if once or not console.is_terminal:
            with waiting("counting", interval):
                time.sleep(interval)
                moment = next(moments)
            console.print(top_table(moment, source, sort, None))
            return
        with _keys() as asks_to_end, live(console) as view:
            while True:
                view.update(
                    top_table(moment, f"{source}, every {interval} s; q ends", sort, fits(console)), refresh=True
                )
                if asks_to_end(interval):
                    return
                moment = next(moments)


def _moments(fleet: "Fleet") -> Iterator["Moment"]:
    """Yield the fleet at each `next`, with the rates since the one before.

    If the fleet cannot be asked, that is the last known state, with the reason. Raises Failed if the first try fails.
    """
    from dataclasses import replace

    from router.cli.top.table import Moment
    from router.fleet.journal.rates import rates

    moment, at = Moment(fleet.report(), fleet.counts()), time.monotonic()
    while True:
        yield moment
        try:
            report, usage, now = fleet.report(), fleet.counts(), time.monotonic()
        except Failed as error:
            moment = replace(moment, stale=str(error))
        else:
            moment, at = Moment(report, usage, rates(moment.usage, usage, now - at)), now


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Yield a function that waits for some seconds and returns whether `q` was typed meanwhile."""
    import select
    import termios
    import tty

    def ignore_keys(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    if not sys.stdin.isatty():
        yield ignore_keys
        return
    fd = sys.stdin.fileno()

    def is_q_within(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            if select.select([fd], [], [], left_s)[0] and b"q" in os.read(fd, 64).lower():
                return True
        return False

    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)  # keys arrive at once, and are not echoed
    try:
        yield is_q_within
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
