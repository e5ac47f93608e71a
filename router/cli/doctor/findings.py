"""Decides what of a fleet's facts is wrong, and what to do about it. It asks nobody."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from router.fleet.model import Health, WorkerRecord

# Older ones lack a command that routers and sidecars send (BLMPOP).
OLDEST_REDIS = (7, 0)
# A call of a router's waits 250 ms at most, and a job makes several.
SLOW_REDIS_MS = 25.0
# Beyond this the ages that routers show, and the order of lines in logs, mislead.
MOST_SKEW_S = 2.0
# Of a process' file handles nearly half are for clients, and each running job needs one more.
FEWEST_FILES = 4096
# With less memory left than this share, the next wave of pending jobs may find none.
FULL_SHARE = 0.9
# The alert on a sidecar that is late counts so many intervals, too.
MISSED_CHECKS = 3
_SHOWN_WORKERS = 3


class Verdict(StrEnum):
    """What a finding means: all is well, something is worth knowing, or something is to be done."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


class Finding(NamedTuple):
    """What was found of one thing, in a sentence; `advice` says what to do, if anything is."""

    of: str
    verdict: Verdict
    text: str
    advice: str = ""


class Store(NamedTuple):
    """Redis as it answers. `skew_s`: how far its clock is ahead of this host's; `version` None: it does not tell.

    `max_bytes` 0: no limit is set. `persists`: how it writes its data to disk, "" if it does not.
    """

    name: str
    version: tuple[int, ...] | None
    took_ms: float
    skew_s: float
    is_replica: bool = False
    policy: str = "noeviction"
    used_bytes: int = 0
    max_bytes: int = 0
    persists: str = ""


class Fleet(NamedTuple):
    """What Redis holds of the fleet. `age_s` None: no sidecar has written, by this host's clock."""

    leader: str | None
    age_s: float | None
    schema: int | None
    workers: Sequence[tuple[WorkerRecord, Health]]


class Files(NamedTuple):
    """How many files may be open at once: by this shell's hard limit, and in each router process of this host."""

    hard: int
    processes: Mapping[str, int]


def of_redis(store: Store) -> Iterator[Finding]:
    """Yield what is to be said of Redis."""
    of = "redis"
    version = "" if store.version is None else f" {'.'.join(map(str, store.version))}"
    yield Finding(of, Verdict.OK, f"{store.name}{version} answers in {store.took_ms:.1f} ms")
    if store.version is not None and store.version < OLDEST_REDIS:
        yield _wrong(
            of, f"{store.name}{version} lacks commands that routers send", "install Redis 7 or newer, or Valkey"
        )
    if store.is_replica:
        yield _wrong(of, "it is a replica, which takes no writes", "name its primary, or its Sentinels, in redis.url")
    if store.policy != "noeviction":
        yield Finding(
            of,
            Verdict.WRONG if store.max_bytes else Verdict.NOTE,
            f"with maxmemory-policy {store.policy} it drops leases and pending jobs when its memory is full",
            "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file",
        )
    if store.max_bytes and store.used_bytes > FULL_SHARE * store.max_bytes:
        used = f"{store.used_bytes / 2**20:.0f} of {store.max_bytes / 2**20:.0f} MB are in use"
        yield _wrong(of, used, "raise maxmemory, or see with --bigkeys of redis-cli what else lies there")
    if store.persists:
        advice = "routers need none of it: CONFIG SET save '', CONFIG SET appendonly no"
        yield Finding(of, Verdict.NOTE, f"it writes its data to disk ({store.persists}), which delays calls", advice)
    if store.took_ms > SLOW_REDIS_MS:
        advice = "place it nearer to the routers; redis-cli SLOWLOG GET shows other users' slow commands"
        yield _wrong(of, f"it took {store.took_ms:.0f} ms to answer, and each job asks it", advice)


def of_clocks(store: Store) -> Finding:
    """Return what is to be said of this host's clock and Redis'."""
    skew_s = abs(store.skew_s)
    if skew_s > MOST_SKEW_S:
        which = "ahead of" if store.skew_s > 0 else "behind"
        text = f"Redis' clock is {skew_s:.1f} s {which} this host's: ages and times in logs mislead"
        return _wrong("clocks", text, "let chrony or systemd-timesyncd set both hosts' clocks")
    return Finding("clocks", Verdict.OK, f"this host's and Redis' differ by {skew_s * 1000:.0f} ms")


def of_schema(found: int | None, known: int) -> Finding:
    """Return what is to be said of the version of the keys, of which this program writes `known`."""
    if found is None:
        return Finding("schema", Verdict.NOTE, f"no sidecar has written; this program's version is {known}")
    if found == known:
        return Finding("schema", Verdict.OK, f"version {found}")
    older, advice = ("sidecar", "upgrade the sidecars")
    if found > known:
        older, advice = ("program", "upgrade this program, and the routers of its release")
    return _wrong("schema", f"version {found} in Redis, {known} in this program: the {older} is older", advice)


def of_sidecar(fleet: Fleet, interval_s: float) -> Finding:
    """Return what is to be said of the sidecar, which checks each worker every `interval_s` seconds."""
    start = "start one (python -m sidecar), with this config.yaml and this Redis"
    if fleet.age_s is None:
        return _wrong("sidecar", "none has ever written: there is no fleet", start)
    if fleet.leader is None:
        return _wrong(
            "sidecar", f"none leads, the last one wrote {fleet.age_s:.0f} s ago: nobody checks workers", start
        )
    if fleet.age_s > MISSED_CHECKS * interval_s:
        advice = "look into its log, whether its host has CPU left, and whether that host's clock is behind"
        return _wrong("sidecar", f"{fleet.leader} leads, but has not written for {fleet.age_s:.0f} s", advice)
    if fleet.age_s < -MOST_SKEW_S:
        text = f"{fleet.leader} leads; its clock is {-fleet.age_s:.1f} s ahead of this host's"
        return _wrong("sidecar", text, "let chrony or systemd-timesyncd set both hosts' clocks")
    return Finding("sidecar", Verdict.OK, f"{fleet.leader} leads, wrote {max(0.0, fleet.age_s):.1f} s ago")


def of_workers(workers: Sequence[tuple[WorkerRecord, Health]]) -> Iterator[Finding]:
    """Yield what is to be said of the workers: their health, and their caps."""
    of = "workers"
    if not workers:
        advice = "name some in config.yaml (workers, workers_file, discover), or add one: sfr workers add URL"
        yield _wrong(of, "there is none", advice)
        return
    healthy = sum(health is Health.HEALTHY for _, health in workers)
    unknown = sum(health is Health.UNKNOWN for _, health in workers)
    text = f"{healthy} of {len(workers)} healthy{f', {unknown} not checked so far' if unknown else ''}"
    if healthy:
        yield Finding(of, Verdict.OK, text)
    elif unknown:
        yield Finding(of, Verdict.NOTE, text, "until the first checks these get the jobs; a sidecar makes them")
    else:
        yield _wrong(of, text, "no job can run; sfr status shows each worker")
    if sick := [(record.worker.url, record.last_error) for record, health in workers if health is Health.UNHEALTHY]:
        shown = "; ".join(f"{url} {error}".strip() for url, error in sick[:_SHOWN_WORKERS])
        advice = "docs/failures.md, on errors of workers, says what each means"
        yield _wrong(of, f"{_some(len(sick), 'unhealthy')}: {shown}{_more(sick)}", advice)
    if out := [record.worker.url for record, health in workers if health is Health.EJECTED]:
        shown = ", ".join(out[:_SHOWN_WORKERS])
        yield _wrong(of, f"{_some(len(out), 'ejected')}: {shown}{_more(out)}", "sfr status says why, and until when")
    if drained := [record.worker.url for record, health in workers if health is Health.DRAINING]:
        shown = ", ".join(drained[:_SHOWN_WORKERS])
        text = f"{_some(len(drained), 'drained')} and gets no jobs: {shown}{_more(drained)}"
        advice = "sfr events --kind worker_drained says by whom; sfr workers resume URL ends it"
        yield Finding(of, Verdict.NOTE, text, advice)
    if uncapped := [record.worker.url for record, _ in workers if record.worker.max_concurrency is None]:
        shown = ", ".join(uncapped[:_SHOWN_WORKERS])
        text = f"{_some(len(uncapped), 'without a cap')}: {shown}{_more(uncapped)}"
        advice = (
            "set default_max_concurrency, or each worker's max_concurrency, to its CPUs: with more jobs at once "
            "workers answer that good code ran out of time"
        )
        yield _wrong("caps", text, advice)
    else:
        slots = sum(record.worker.max_concurrency or 0 for record, _ in workers)
        yield Finding("caps", Verdict.OK, f"{slots} slots on {len(workers)} workers")


def of_processes(count: int) -> Finding:
    """Return what is to be said of the living router processes of all hosts."""
    if not count:
        advice = "start gunicorn with this config.yaml and this Redis; if it runs, its log says why it cannot use Redis"
        return _wrong("routers", "Redis hears of no router process", advice)
    return Finding("routers", Verdict.OK, f"{count} process{'' if count == 1 else 'es'} live")


def of_files(files: Files) -> Finding:
    """Return what is to be said of the limits of open files."""
    advice = "raise the hard limit: LimitNOFILE of systemd, --ulimit nofile of Docker, ulimit -Hn in a shell"
    if short := {name: limit for name, limit in files.processes.items() if limit < FEWEST_FILES}:
        shown = ", ".join(f"{name} {limit}" for name, limit in sorted(short.items())[:_SHOWN_WORKERS])
        return _wrong("files", f"too few may be open at once in router processes: {shown}{_more(short)}", advice)
    if files.processes:
        text = f"{min(files.processes.values())} or more in each router process of this host"
        return Finding("files", Verdict.OK, text)
    if files.hard < FEWEST_FILES:
        return _wrong("files", f"{files.hard} may be open at once, as this shell has it", advice)
    return Finding("files", Verdict.OK, f"{files.hard} may be open at once, as this shell has it")


def _wrong(of: str, text: str, advice: str) -> Finding:
    return Finding(of, Verdict.WRONG, text, advice)


def _some(count: int, what: str) -> str:
    return f"{count} {'is' if count == 1 else 'are'} {what}"


def _more(shown: Sequence[object] | Mapping[str, object]) -> str:
    return f" and {len(shown) - _SHOWN_WORKERS} more" if len(shown) > _SHOWN_WORKERS else ""
