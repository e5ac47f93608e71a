"""`sfr doctor`: what it makes of the facts."""

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from router.cli.doctor import facts, findings
from router.cli.doctor.findings import Files, Finding, Fleet, Store, Verdict
from router.cli.main import app
from router.fleet.model import Health, Worker, WorkerRecord

GOOD = Store("Valkey", (9, 1, 2), took_ms=0.4, skew_s=0.001)
MB = 2**20


def worker(url: str, health: Health = Health.HEALTHY, cap: int | None = 4) -> tuple[WorkerRecord, Health]:
    """A worker's record with its condition; an unhealthy one is out of reach."""
    error = "cannot be reached: Connection refused" if health is Health.UNHEALTHY else ""
    return WorkerRecord(Worker(url, max_concurrency=cap), health, last_error=error), health


def wrong(found: Iterable[Finding]) -> list[str]:
    """Return the texts of what is wrong; each has an advice."""
    bad = [each for each in found if each.verdict is Verdict.WRONG]
    assert all(each.advice for each in bad)
    return [each.text for each in bad]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"version": (6, 2, 14), "name": "Redis"}, "Redis 6.2.14 lacks commands that routers send"),
        ({"is_replica": True}, "it is a replica, which takes no writes"),
        (
            {"policy": "allkeys-lru", "max_bytes": 100 * MB},
            "with maxmemory-policy allkeys-lru it drops leases and pending jobs when its memory is full",
        ),
        ({"max_bytes": 100 * MB, "used_bytes": 95 * MB}, "95 of 100 MB are in use"),
        ({"took_ms": 40.0}, "it took 40 ms to answer, and each job asks it"),
    ],
)
def test_redis_that_cannot_hold_a_fleet_is_wrong(changed: dict[str, Any], told: str) -> None:
    """Each fault has its sentence and an advice; a good Redis has none."""
    assert wrong(findings.of_redis(GOOD._replace(**changed))) == [told]
    assert wrong(findings.of_redis(GOOD)) == []


def test_redis_that_writes_to_disk_or_might_evict_is_noted() -> None:
    """These cost speed, or matter only once a limit is set; nothing is broken."""
    found = list(findings.of_redis(GOOD._replace(persists="AOF", policy="allkeys-lru")))
    assert [each.verdict for each in found] == [Verdict.OK, Verdict.NOTE, Verdict.NOTE]
    assert next(findings.of_redis(GOOD._replace(version=None))).text == "Valkey answers in 0.4 ms"


@pytest.mark.parametrize(
    ("skew_s", "told"), [(2.5, "Redis' clock is 2.5 s ahead of"), (-3.0, "Redis' clock is 3.0 s behind")]
)
def test_clock_that_differs_is_wrong(skew_s: float, told: str) -> None:
    """The sentence says whose clock is ahead."""
    (text,) = wrong([findings.of_clocks(GOOD._replace(skew_s=skew_s))])
    assert text.startswith(told)
    assert wrong([findings.of_clocks(GOOD)]) == []


@pytest.mark.parametrize(
    ("found", "verdict", "text"),
    [
        (2, Verdict.OK, "version 2"),
        (None, Verdict.NOTE, "no sidecar has written; this program's version is 2"),
        (1, Verdict.WRONG, "version 1 in Redis, 2 in this program: the sidecar is older"),
        (3, Verdict.WRONG, "version 3 in Redis, 2 in this program: the program is older"),
    ],
)
def test_schema_is_compared_with_this_program_s(found: int | None, verdict: Verdict, text: str) -> None:
    """The older side is named, because that one is to be upgraded."""
    finding = findings.of_schema(found, 2)
    assert (finding.verdict, finding.text) == (verdict, text)


@pytest.mark.parametrize(
    ("leader", "age_s", "told"),
    [
        (None, None, "none has ever written: there is no fleet"),
        (None, 12.0, "none leads, the last one wrote 12 s ago: nobody checks workers"),
        ("1 host", 95.0, "1 host leads, but has not written for 95 s"),
        ("1 host", -4.0, "1 host leads; its clock is 4.0 s ahead of this host's"),
    ],
)
def test_sidecar_that_does_not_do_its_work_is_wrong(leader: str | None, age_s: float | None, told: str) -> None:
    """It has three times its interval; before that all is well."""
    assert wrong([findings.of_sidecar(Fleet(leader, age_s, 2, ()), 30.0)]) == [told]
    assert wrong([findings.of_sidecar(Fleet("1 host", 89.0, 2, ()), 30.0)]) == []


def test_workers_without_a_cap_or_health_are_wrong() -> None:
    """At most three of them are named, with the reason of the unhealthy ones."""
    assert wrong(findings.of_workers([])) == ["there is none"]
    assert wrong(findings.of_workers([worker("http://a:1"), worker("http://b:1")])) == []
    many = [worker(f"http://{name}:1", Health.UNHEALTHY, None) for name in "abcde"]
    none, unhealthy, uncapped = wrong(findings.of_workers(many))
    assert none == "0 of 5 healthy"
    assert unhealthy.startswith("5 are unhealthy: http://a:1 cannot be reached: Connection refused; ")
    assert unhealthy.endswith(" and 2 more")
    assert uncapped == "5 are without a cap: http://a:1, http://b:1, http://c:1 and 2 more"
    assert wrong(findings.of_workers([worker("http://a:1"), worker("http://b:1", Health.EJECTED)])) == [
        "1 is ejected: http://b:1"
    ]


def test_forgotten_drains_and_unchecked_workers_are_noted() -> None:
    """Both are meant to pass, and somebody has to know of them if they do not."""
    drained = [*findings.of_workers([worker("http://a:1"), worker("http://b:1", Health.DRAINING)])][1]
    assert (drained.verdict, drained.text) == (Verdict.NOTE, "1 is drained and gets no jobs: http://b:1")
    unchecked = next(findings.of_workers([worker("http://a:1", Health.UNKNOWN)]))
    assert (unchecked.verdict, unchecked.text) == (Verdict.NOTE, "0 of 1 healthy, 1 not checked so far")


def test_files_are_those_of_router_processes_before_those_of_the_shell() -> None:
    """The shell's limit counts only on a host without routers."""
    assert wrong([findings.of_files(Files(1024, {}))]) == ["1024 may be open at once, as this shell has it"]
    assert wrong([findings.of_files(Files(1024, {"process 7": 65536}))]) == []
    assert wrong([findings.of_files(Files(65536, {"process 7": 1024, "process 8": 65536}))]) == [
        "too few may be open at once in router processes: process 7 1024"
    ]


def test_limits_are_read_of_processes_on_this_host_alone(tmp_path: Path) -> None:
    """A process' name has its host and its number; one of another host, or one that has ended, is passed over."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "limits").write_text(
        "Limit    Soft Limit  Hard Limit  Units\nMax open files   4096   8192   files\n"
    )
    host = socket.gethostname()
    found = facts.files([f"{host}-7-ab12", f"{host}-8-cd34", "elsewhere-7-ef56"], tmp_path)
    assert found.processes == {"process 7": 4096}


def test_without_a_file_the_defaults_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`sfr up` runs with them, so what is wrong is the Redis that does not answer; a file that is named must exist."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROUTER_CONFIG", raising=False)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    done = CliRunner().invoke(app, ["doctor"])
    assert "note   config   there is no config.yaml here, so the defaults" in done.stdout
    assert "wrong  redis    redis://127.0.0.1:1/0: Error 111" in done.stdout
    monkeypatch.setenv("ROUTER_CONFIG", "config.yaml")
    assert "wrong  config   config.yaml cannot be read" in CliRunner().invoke(app, ["doctor"]).stdout
