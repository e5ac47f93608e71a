"""`sfr top`: what the fleet does, live."""

# ruff: noqa: PLC0415  (see cli.py)
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from router.cli.options import ROUTER_URL, Prefix, RedisUrl, Url, asking, fleet_at, source_of, told

if TYPE_CHECKING:
    from router.cli.router_client import Fleet
    from router.cli.top.table import Moment


# top_table.SORTS, which a command's help need not load.
Sort = Literal["trouble", "jobs", "failures", "running", "time", "url"]


def top(
    url: Url = ROUTER_URL,
    redis: RedisUrl = None,
    prefix: Prefix = "sfr",
    sort: Annotated[
        Sort,
        typer.Option(help="What comes first. trouble: those that are not well, then those that fail, the busiest."),
    ] = "trouble",
    interval: Annotated[int, typer.Option(min=1, help="How many seconds the rates are of.")] = 2,
    once: Annotated[bool, typer.Option("--once", help="One interval, and end; so it is in a pipe, too.")] = False,
) -> None:
    """Show what the fleet does, live: `sfr top`, `sfr top --sort running`, `sfr top --once | head -20`. q ends it.

    Rates and times are those of the last interval, over all routers; an attempt counts for its worker when it ends.
    """
    from router.cli.fleet.tables import live, screen
    from router.cli.spinner import waiting
    from router.cli.top.table import fits, top_table

    with told(), suppress(KeyboardInterrupt):
        fleet, source = fleet_at(url, redis, prefix), source_of(url, redis)
        console = screen()
        moments = _moments(fleet)
        with asking():
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
    """Yield the fleet each time it is asked for, with the rates since the last time.

    While nothing newer is known: the last, with why that is. Raises Failed where it was never seen.
    """
    from dataclasses import replace

    from router.cli.router_client import Failed
    from router.cli.top.table import Moment
    from router.telemetry.rates import rates

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
    """Give what waits for so many seconds and says whether `q` was typed meanwhile."""
    import select
    import termios
    import tty

    def is_over_within(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    if not sys.stdin.isatty():
        yield is_over_within
        return
    fd = sys.stdin.fileno()

    def is_q_within(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            if select.select([fd], [], [], left_s)[0] and b"q" in os.read(fd, 64).lower():
                return True
        return False

    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)  # each key at once, and none shown
    try:
        yield is_q_within
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
