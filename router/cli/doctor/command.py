"""`sfr doctor`: the command's options, what it looks at in which order, and its exit status."""

# ruff: noqa: PLC0415  (see cli/options.py)
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.failure import Exit
from router.cli.options import ConfigFile
from router.cli.spinner import waiting

if TYPE_CHECKING:
    from router.cli.doctor.findings import Finding
    from router.config.settings import Settings
    from router.fleet.redis_client import RedisClient

EXITS = "Exit status: 0 nothing is wrong; 1 something is; 2 bad input."
# Longer than a router waits: a slow Redis is a finding, and not an absent one.
_REDIS_WITHIN_S = 5.0


def doctor(
    path: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look at everything that a fleet needs, and say what is wrong and what to do.

    Example: `sfr doctor /etc/sandboxfusion-router/config.yaml`

    It reads the configuration and its files, and asks Redis: whether that answers and keeps what it holds, whether a
    sidecar leads, how the workers are and whether each has a cap, whose clock is wrong, and whether enough files may be
    open. Run it on a router's host, as the router's user. It changes nothing.
    """
    import asyncio
    import json
    import logging

    from router.cli.doctor.findings import Verdict

    logging.getLogger("router").addHandler(logging.NullHandler())  # the findings show the same
    with waiting("looking"):
        found = asyncio.run(_look(path))
    if as_json:
        typer.echo(json.dumps([each._asdict() for each in found]))
    else:
        _show(found)
    if any(each.verdict is Verdict.WRONG for each in found):
        raise typer.Exit(Exit.FAILED)


async def _look(path: Path | None) -> "list[Finding]":
    """Return all findings: first those of the configuration, because it says where all else is."""
    from router.auth.access import Access
    from router.cli.doctor.findings import Finding, Verdict
    from router.config.addresses import masked
    from router.config.load import ConfigError, config_path, expect_extras, has_config, load, parse
    from router.fleet.connection import expect_usable
    from router.fleet.redis_client import RedisClient, RedisUnavailable

    is_default = path is None and not has_config()
    path = path or config_path()
    try:
        settings = parse("", "the environment") if is_default else load(path)
        expect_extras(settings)
        expect_usable(settings.redis)
        access = Access.load(settings)
    except ConfigError as error:
        advice = "correct it; nothing else was looked at"
        return [Finding("config", Verdict.WRONG, str(error), advice)]
    if is_default:
        text = f"there is no {path} here, so the defaults and the environment hold, as for sfr up"
        found = [Finding("config", Verdict.NOTE, text, "if the routers have a file, name it")]
    else:
        found = [Finding("config", Verdict.OK, f"{path} is good, and so are the files that it names")]
    if access.admin_token is None and not settings.admin.allow_loopback:
        text = "no admin token is set here: nobody can drain workers through these routers"
        found.append(Finding("config", Verdict.NOTE, text, "set ADMIN_TOKEN or ADMIN_TOKEN_FILE of the routers"))
    redis = RedisClient.connect(settings.redis, _REDIS_WITHIN_S)
    try:
        return found + await _look_into(redis, settings)
    except RedisUnavailable as error:
        where = masked(settings.redis.url)
        return [*found, Finding("redis", Verdict.WRONG, f"{where}: {error}", _on(redis))]
    finally:
        await redis.close()


def _on(redis: "RedisClient") -> str:
    """Return what to do about a Redis that cannot be used."""
    if redis.refuses_login:
        return "correct the user or the password in redis.url or REDIS_URL, also those of routers and sidecars"
    if redis.answers:
        return "it answers, but refuses this; docs/failures.md, on redis unavailable, says what its words mean"
    return "start it, or correct redis.url or REDIS_URL; until then each router process goes on by itself"


async def _look_into(redis: "RedisClient", settings: "Settings") -> "list[Finding]":
    from router.cli.doctor import facts, findings
    from router.fleet.detail.present import Present
    from router.fleet.schema import SCHEMA_VERSION

    store = await facts.store(redis, settings.redis)
    fleet, processes = await facts.fleet(redis), await Present(redis).processes()
    if store is None:
        text = "the Cluster answers; its nodes' memory, versions and clocks were not looked at"
        found = [findings.Finding("redis", findings.Verdict.OK, text)]
    else:
        found = [*findings.of_redis(store), findings.of_clocks(store)]
    return [
        *found,
        findings.of_schema(fleet.schema, SCHEMA_VERSION),
        findings.of_sidecar(fleet, settings.health_check_interval),
        *findings.of_workers(fleet.workers),
        findings.of_processes(len(processes)),
        findings.of_files(facts.files([process.name for process in processes])),
    ]


def _show(found: "list[Finding]") -> None:
    """Print a line for each finding, and its advice below it."""
    of = ""
    for each in found:
        typer.echo(f"{each.verdict:<6} {each.of if each.of != of else '':<8} {each.text}")
        if each.advice:
            typer.echo(f"{'':<16}→ {each.advice}")
        of = each.of
