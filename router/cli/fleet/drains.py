"""`sfr workers drain` and `resume`: keep new jobs from some workers, and wait until those that run there have ended."""

import math
import time
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from router.cli.failure import BadInput, Exit, Failed
from router.cli.fleet.commands import show_worker
from router.cli.options import (
    KNOWN_AGAIN_S,
    ROUTER_URL,
    Healths,
    Prefix,
    RedisUrl,
    SomeWorkers,
    Url,
    fleet_at,
    healths,
    seconds,
    worker_address,
)
from router.cli.spinner import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from router.cli.router_client import Fleet

# Pauses between two looks at the running jobs: short at first for short jobs.
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.1, 2.0
# A router that restarts, or a Redis that fails over, is back by then.
_SILENT_FOR_S = 30.0
_NOT_KNOWN = "how many is not known, because Redis or workers were away a moment ago"

All = Annotated[bool, typer.Option("--all", help="All workers.")]


def drain(
    workers: SomeWorkers = None,
    everyone: All = False,
    health: Healths = None,
    wait: Annotated[bool, typer.Option("--wait", help="End when no job runs on them any more.")] = False,
    timeout: Annotated[
        float | None,
        seconds("--timeout", "With --wait: fail with status 1 if jobs still run then; by default it waits on."),
    ] = None,
    url: Url = ROUTER_URL,
    redis: RedisUrl = None,
    prefix: Prefix = "sfr",
) -> None:
    """Give workers no new jobs; those that run on them are finished.

    Examples: `sfr workers drain http://server1:8080 --wait --timeout 300`, `sfr workers drain --health ejected`
    """
    if timeout is not None and not wait:
        raise BadInput("--timeout: expected --wait with it")
    fleet = fleet_at(url, redis, prefix)
    for each in (urls := chosen(fleet, workers, everyone=everyone, health=health)):
        with waiting():
            show_worker(fleet.drain(each))
    if wait:
        with waiting("waiting for running jobs", timeout):
            wait_for(lambda: still_running(fleet, urls), timeout)
        typer.echo("No job runs there any more")


def resume(
    workers: SomeWorkers = None,
    everyone: All = False,
    health: Healths = None,
    url: Url = ROUTER_URL,
    redis: RedisUrl = None,
    prefix: Prefix = "sfr",
) -> None:
    """Give drained workers new jobs again.

    Examples: `sfr workers resume http://server1:8080`, `sfr workers resume --health draining`
    """
    fleet = fleet_at(url, redis, prefix)
    for each in chosen(fleet, workers, everyone=everyone, health=health):
        with waiting():
            show_worker(fleet.resume(each))


class Seen(NamedTuple):
    """How many jobs run on drained workers, for each with any; which of them are drained no more, or in the fleet."""

    running: dict[str, int]
    resumed: frozenset[str]
    gone: frozenset[str]


def still_running(fleet: "Fleet", urls: "Collection[str]") -> Seen:
    """Return what is seen of these workers, which were drained. Raises Failed."""
    found = [each for each in fleet.workers() if each.url in urls]
    return Seen(
        {each.url: each.running for each in found if each.running},
        frozenset(each.url for each in found if not each.draining),
        frozenset(urls).difference(each.url for each in found),
    )


def wait_for(
    look: "Callable[[], Seen]",
    timeout_s: float | None,
    clock: "Callable[[], float]" = time.monotonic,
    sleep: "Callable[[float], None]" = time.sleep,
) -> None:
    """Return when `look`, which is `still_running`, finds no job. A worker that has left the fleet has none.

    Raises Failed when the time is over, when nobody has told for long, or when a worker is drained no longer. After an
    outage, or when workers are suddenly gone or resumed, Redis may have lost what it held: then what is seen must last.
    """
    began = told_at = sure_from = clock()
    strange: frozenset[str] = frozenset()
    pause_s = _FIRST_LOOK_S
    while True:
        left_s = math.inf if timeout_s is None else began + timeout_s - clock()
        try:
            seen = look()
            told_at = clock()
        except Failed as error:
            if error.status != Exit.UNREACHABLE or left_s <= 0 or clock() - told_at > _SILENT_FOR_S:
                raise
            sure_from = clock() + KNOWN_AGAIN_S
        else:
            if (seen.resumed | seen.gone) - strange:
                sure_from = told_at + KNOWN_AGAIN_S
            strange = seen.resumed | seen.gone
            is_sure = told_at >= sure_from
            if is_sure and seen.resumed:
                raise Failed(f"{', '.join(sorted(seen.resumed))}: resumed by somebody else", Exit.FAILED)
            if is_sure and not seen.running:
                return
            if left_s <= 0:
                still = ", ".join(f"{count} on {url}" for url, count in sorted(seen.running.items())) or _NOT_KNOWN
                raise Failed(f"jobs still run after {timeout_s:g} s: {still}; the workers stay drained", Exit.FAILED)
        sleep(min(pause_s, max(0.0, left_s)))
        pause_s = min(2 * pause_s, _LONGEST_LOOK_S)


def chosen(fleet: "Fleet", urls: list[str] | None, *, everyone: bool, health: list[str] | None) -> list[str]:
    """Return the URLs of the workers that the command line chooses. Raises Failed."""
    if urls:
        if everyone or health:
            raise BadInput("expected URLs, or --all, or --health")
        return list(dict.fromkeys(worker_address(each) for each in urls))
    if not (everyone or health):
        raise BadInput("expected workers' URLs, or --all, or --health")
    wanted = healths(health)
    with waiting():
        found = [each.url for each in fleet.workers() if each.health in wanted]
    if found:
        return found
    raise Failed(f"no worker is {' or '.join(sorted(wanted))}" if health else "there is no worker", Exit.FAILED)
