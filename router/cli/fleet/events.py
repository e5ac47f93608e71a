"""`sfr events`: what has happened in the fleet."""

import select
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.failure import BadInput, Failed
from router.cli.fleet.commands import AsJson
from router.cli.options import (
    EXITS,
    ROUTER_URL,
    Prefix,
    RedisUrl,
    Url,
    complete_worker,
    fleet_at,
    nothing_new,
    number,
    shown,
    worker_address,
)
from router.cli.spinner import waiting
from router.fleet.journal.model import DEFAULT_EVENTS, KINDS, MAX_EVENTS, Asked, Kind, Since

if TYPE_CHECKING:
    from router.api.schemas import EventEntry, EventPage
    from router.cli.router_client import Fleet

_FOLLOW_EVERY_S = 1.0
EPILOG = f"Kinds: {', '.join(sorted(KINDS))}. {EXITS}"


def _complete_kind(incomplete: str) -> list[str]:
    return [kind for kind in sorted(KINDS) if kind.startswith(incomplete)]


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show what comes, until Ctrl-C.")] = False,
    worker: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Only events about this worker.", autocompletion=complete_worker),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN", help="From when on: 10m (s, m, h, d), a moment such as 2026-11-29T06:00Z, or an event's id."
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND", help="Only this kind. May be repeated.", show_default=False, autocompletion=_complete_kind
        ),
    ] = None,
    limit: Annotated[
        int | None,
        number(
            "--limit", f"How many events; by default all with --since, else the last {DEFAULT_EVENTS}.", 1, MAX_EVENTS
        ),
    ] = None,
    url: Url = ROUTER_URL,
    redis: RedisUrl = None,
    prefix: Prefix = "sfr",
    as_json: AsJson = False,
) -> None:
    """Show what has happened: workers that came, left or failed, limits that were reached, Redis or routers lost.

    Examples: `sfr events --follow`, `sfr events --since 2h --kind worker_ejected`,
    `sfr events --worker http://server1:8080`

    Times are in this host's zone, also that of --since; --json has UTC. docs/failures.md has a section on each kind.
    """
    asked = Asked(
        since=_since(since),
        limit=limit or DEFAULT_EVENTS,
        kinds=tuple(_kind(each) for each in kind or ()),
        worker=None if worker is None else worker_address(worker, "--worker"),
    )
    fleet = fleet_at(url, redis, prefix)
    with waiting():
        page = fleet.events(asked)
    if page.redis_because:
        typer.echo(f"{nothing_new(page.redis_because)}. Jobs go on without it", err=True)
    elif not (page.events or follow):
        typer.echo("Nothing of that kind has happened" if asked.is_picky else "Nothing has happened", err=True)
    with suppress(KeyboardInterrupt):
        for each in _told(fleet, asked, page, is_all=since is not None and limit is None, follow=follow):
            typer.echo(each.model_dump_json() if as_json else _line(each))


def _told(fleet: "Fleet", asked: Asked, page: "EventPage", *, is_all: bool, follow: bool) -> Iterator["EventEntry"]:
    """Yield the events of `page`, with `is_all` all those after it, and with `follow` those that will come."""
    trouble = ""
    while True:
        yield from page.events
        if not (page.events and is_all) and (not follow or _is_unread(_FOLLOW_EVERY_S)):
            return
        asked = asked.since_id(page.next)
        try:
            page, trouble = fleet.events(asked), ""
        except Failed as error:
            if not follow:
                raise
            if trouble != str(error):
                typer.echo(f"{error}; it is asked again every second", err=True)
            page, trouble = page.model_copy(update={"events": []}), str(error)


def _is_unread(within_s: float) -> bool:
    """Wait so long; return at once, and True, if whatever reads the output has ended, such as `head`."""
    output = select.poll()
    try:
        output.register(sys.stdout, 0)  # errors alone
    except (OSError, ValueError):  # no file
        time.sleep(within_s)
        return False
    return bool(output.poll(within_s * 1000))


def _line(event: "EventEntry") -> str:
    """Return an event as a line of text; if a person has done it, with whose doing it is."""
    at = event.at.astimezone().isoformat(sep=" ", timespec="seconds")
    by = f" (by {event.by})" if event.by and event.kind in (Kind.WORKER_DRAINED, Kind.WORKER_RESUMED) else ""
    return f"{at}  {event.kind:<16}  {event.text}{by}"


def _since(text: str | None) -> str | None:
    """Return what the router is asked for. A moment without a zone is in this host's, as the moments that are shown."""
    if text is None:
        return None
    try:
        is_moment = Since.read(text).at_ms is not None
        return datetime.fromisoformat(text).astimezone().isoformat() if is_moment else text
    except (ValueError, OverflowError) as error:  # of a moment that is no year of this zone
        raise BadInput(f"--since: {error}, got {shown(text)}") from error


def _kind(text: str) -> str:
    if text not in KINDS:
        raise BadInput(f"--kind: expected one of {', '.join(sorted(KINDS))}, got {shown(text)}")
    return text
