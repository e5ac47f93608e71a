"""`sfr failures`: the last failed jobs of the fleet."""

# ruff: noqa: PLC0415  (see cli/options.py)
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.failure import BadInput
from router.cli.fleet.commands import AsJson
from router.cli.options import (
    ROUTER_URL,
    Prefix,
    RedisUrl,
    Url,
    complete_tenant,
    complete_worker,
    fleet_at,
    nothing_new,
    number,
    shown,
    worker_address,
)
from router.cli.spinner import waiting
from router.fleet.journal.failed_job import MOST, MOST_CHARACTERS, SHOWN, Search
from router.policy.tenants import NAME, WANTED

if TYPE_CHECKING:
    from router.api.schemas import FailedJob


def failures(
    request_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only those of this `x-request-id`; a batch's finds all of its jobs."),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this tenant's.", autocompletion=complete_tenant)
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Only those with an attempt there.", autocompletion=complete_worker),
    ] = None,
    limit: Annotated[int, number("--limit", f"How many at most, 1 to {MOST}.", 1, MOST)] = SHOWN,
    url: Url = ROUTER_URL,
    redis: RedisUrl = None,
    prefix: Prefix = "sfr",
    as_json: AsJson = False,
) -> None:
    """Show the last jobs that failed by no fault of their clients or their code, the newest first.

    Examples: `sfr failures --worker http://server1:8080`, `sfr failures --request-id 3f1c --json | jq`

    The fleet keeps the last 500. Times are in this host's zone; --json has UTC. docs/failures.md says what to do about
    each error and cause.
    """
    search = Search(
        _checked_id(request_id),
        _checked_tenant(tenant),
        None if worker is None else worker_address(worker, "--worker"),
        limit,
    )
    fleet = fleet_at(url, redis, prefix)
    with waiting():
        found = fleet.failures(search)
    if found.redis_because:
        typer.echo(nothing_new(found.redis_because), err=True)
    if as_json:
        typer.echo(found.model_dump_json())
    elif not found.failures and not found.redis_because:
        typer.echo("No job has failed" if search == Search() else f"No such job is among the last {MOST} that failed")
    elif found.failures:
        typer.echo("\n".join(map(_told, found.failures)))


def _told(job: "FailedJob") -> str:
    """Return a failed job as a line of text, and a line for each of its attempts."""
    from router.cli.fleet.tables import seconds

    at = job.at.astimezone().isoformat(sep=" ", timespec="seconds")
    took = (
        ""
        if job.took_ms is None
        else f", after {seconds(job.took_ms / 1000)}, {seconds(job.queue_ms / 1000)} of it waiting"
    )
    what = f"{job.path} {job.language}".rstrip()
    line = f"{at}  {job.status} {job.outcome}  {what}, tenant {job.tenant}{took}  {job.request_id}"
    attempts = [
        f"{each.worker_url} {each.cause}{'' if each.took_ms is None else f' (after {seconds(each.took_ms / 1000)})'}"
        for each in job.attempts
    ]
    return "\n    ".join([line, *([job.detail] if job.detail else []), *attempts])


def _checked_id(text: str | None) -> str | None:
    if text is not None and not (text.isprintable() and 1 <= len(text) <= MOST_CHARACTERS):
        raise BadInput(f"--request-id: expected 1 to {MOST_CHARACTERS} characters of text, got {shown(text)}")
    return text


def _checked_tenant(name: str | None) -> str | None:
    if name is not None and not NAME.fullmatch(name):
        raise BadInput(f"--tenant: {WANTED}, got {shown(name)}")
    return name
