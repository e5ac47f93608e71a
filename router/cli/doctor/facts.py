"""Looks at Redis, the fleet in it and this host. What it sees, findings.py judges."""

import re
import resource
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from router.cli.doctor.findings import Files, Fleet, Store
from router.config.settings import RedisSettings
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient, RefusedCommand
from router.fleet.snapshot import Snapshot

# The line of /proc/PID/limits, with the soft limit, by which the process goes.
_OPEN_FILES = re.compile(r"^Max open files +(\d+)", re.MULTILINE)


async def store(redis: RedisClient, settings: RedisSettings) -> Store | None:
    """Return Redis as it answers; None for a Cluster, whose nodes may differ. Raises RedisUnavailable."""
    if settings.cluster:
        return None
    await redis.ask_all(("TIME",))  # connects
    asked, asked_at = time.perf_counter(), time.time()
    ((seconds, micros),) = await redis.ask_all(("TIME",))
    took_s = time.perf_counter() - asked
    info, save = await redis.ask_each(("INFO",), ("CONFIG", "GET", "save"))
    # Redis read its clock halfway between question and answer.
    skew_s = int(seconds) + int(micros) / 1e6 - (asked_at + took_s / 2)
    return _store({} if isinstance(info, RefusedCommand) else info, save, took_s * 1000, skew_s)


def _store(info: Mapping[str, Any], save: object, took_ms: float, skew_s: float) -> Store:
    is_valkey = "valkey_version" in info
    version = re.match(r"\d+(\.\d+)*", str(info.get("valkey_version" if is_valkey else "redis_version", "")))
    ways = ["AOF"] if info.get("aof_enabled") == 1 else []
    # A managed Redis may refuse CONFIG; then nothing is said of its snapshots.
    if not isinstance(save, RefusedCommand) and any(_values(save)):
        ways.append("snapshots")
    return Store(
        "Valkey" if is_valkey else "Redis",
        tuple(int(part) for part in version[0].split(".")) if version else None,
        took_ms,
        skew_s,
        info.get("role") == "slave",
        str(info.get("maxmemory_policy", "noeviction")),
        int(info.get("used_memory", 0)),
        int(info.get("maxmemory", 0)),
        " and ".join(ways),
    )


def _values(answer: object) -> Sequence[object]:
    """Return the values of an answer to CONFIG GET, which is a map or a flat list."""
    if isinstance(answer, Mapping):
        return list(answer.values())
    return answer[1::2] if isinstance(answer, list | tuple) else ()


async def fleet(redis: RedisClient) -> Fleet:
    """Return what Redis holds of the fleet. Raises RedisUnavailable."""
    state = await Records(redis).load()
    age_s = None if state.written_at is None else (datetime.now(UTC) - state.written_at).total_seconds()
    return Fleet(state.leader, age_s, state.schema, Snapshot(state).conditions)


def files(names: Sequence[str], proc: Path = Path("/proc")) -> Files:
    """Return the limits of open files of this shell, and of those of the processes that run on this host."""
    limits = {}
    for name in names:
        host, _, rest = name.rpartition("-")[0].rpartition("-")
        if host == socket.gethostname() and (limit := _limit(proc / rest / "limits")):
            limits[f"process {rest}"] = limit
    return Files(resource.getrlimit(resource.RLIMIT_NOFILE)[1], limits)


def _limit(path: Path) -> int | None:
    """Return the limit of open files in a /proc/PID/limits; None if that cannot be read."""
    try:
        found = _OPEN_FILES.search(path.read_text(encoding="ascii"))
    except OSError:
        return None
    return int(found[1]) if found else None
