"""`sfr status` and `sfr workers`: what they show, and how they fail."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from router.api.schemas import AdminTenant, AdminWorker, Overrides, Report, SidecarStatus, TenantCounts, WorkerStatus
from router.cli.fleet.tables import report_table, tenants_table, workers_table
from router.cli.fleet.tenants import rule_line
from router.cli.main import app
from router.config.tenants import TenantOverrides
from router.fleet.model import Health
from router.policy.tenants import TenantRule
from tests.support.worker import Exchange, ScriptedWorker, always

cli = CliRunner()
NOWHERE = "http://127.0.0.1:1"
SPECIAL = "gpu; R only; 4000 MB"
IDLE_TENANT = TenantCounts(running=0, waiting=0, jobs=0, failures=0, busy_ms=0, queue_ms=0)
EJECTED_BECAUSE = "5 failed jobs in a row, the last: returned [b]503[/]"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands do not see the environment of the tests."""
    for name in ("SFR_URL", "ADMIN_TOKEN", "ADMIN_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def worker(
    url: str,
    health: Health,
    *,
    draining: bool = False,
    error: str = "",
    cap: int | None = 8,
    ejected_for_s: float | None = None,
) -> AdminWorker:
    """A worker with this health for three minutes, or one that is ejected for `ejected_for_s` more seconds."""
    now = datetime.now(UTC)
    return AdminWorker(
        url=url,
        healthy=health is Health.HEALTHY,
        health=health,
        since=now - timedelta(minutes=3),
        checked_at=None,
        latency_ms=None,
        failures=0,
        last_error=error,
        weight=2,
        max_concurrency=cap,
        source="config",
        running=3,
        draining=draining,
        registered=False,
        expires_in_seconds=None,
        overrides=Overrides(weight=None, max_concurrency=None),
        ejected_until=None if ejected_for_s is None else now + timedelta(seconds=ejected_for_s),
        ejected_because="" if ejected_for_s is None else EJECTED_BECAUSE,
    )


def printed(
    workers: list[AdminWorker | WorkerStatus],
    redis: str = "available",
    trouble: str | None = None,
    schema: int | None = None,
) -> str:
    """Return the fleet as `sfr status` shows it in a pipe."""
    report = Report(
        status="healthy",
        total_workers=len(workers),
        healthy_workers=sum(each.healthy for each in workers),
        quarantined_jobs=0,
        redis=redis,
        sidecar=SidecarStatus(leader=None, age_seconds=None, schema_version=schema),
        workers=workers,
        waiting=7 if redis == "available" else None,
    )
    console = Console(file=(file := StringIO()), width=200)
    console.print(report_table(report, "Redis", trouble))
    return file.getvalue()


def test_unhealthy_workers_come_first_with_their_reason() -> None:
    """Each worker has a row, and its own text is shown unchanged, brackets included."""
    text = printed(
        [
            worker("http://a:1", Health.HEALTHY),
            worker("http://b:1", Health.UNHEALTHY, draining=True, error="answered [bold]x[/] instead of pong"),
        ]
    )
    first, second = [line.split() for line in text.splitlines() if "http://" in line]
    assert second == ["http://a:1", "healthy", "3", "min", "3/8", "2", "config"]
    assert " ".join(first) == ("http://b:1 unhealthy 3 min 3/8 2 config answered [bold]x[/] instead of pong; draining")
    assert "1 of 2 healthy, 1 unhealthy" in text
    assert "running  6 of 16" in text
    assert "waiting  7" in text
    assert "none leads, nothing seen yet" in text


@pytest.mark.parametrize("columns", [60, 80])
def test_no_worker_s_url_is_cut_on_a_narrow_screen(columns: int) -> None:
    """It has several lines, and so has the note: else nobody sees which worker is ill, and why."""
    url, why = "http://sandbox-worker-12.sandbox.svc:8080", "cannot be reached: Connection refused"
    console = Console(file=(file := StringIO()), width=columns)
    console.print(workers_table([worker(url, Health.UNHEALTHY, error=why)]))
    head, *lines = file.getvalue().splitlines()
    starts = [head.index(name) for name in ("worker", "health", "note")]
    assert "".join(line[: starts[1]].strip() for line in lines) == url
    assert "".join(line[starts[2] :].replace(" ", "") for line in lines) == why.replace(" ", "")


def test_speeds_are_shown_where_one_differs() -> None:
    """In a fleet of workers that are alike there is no such column."""
    alike = worker("http://a:1", Health.HEALTHY)
    assert "speed" not in printed([alike])
    text = printed([alike, alike.model_copy(update={"url": "http://b:1", "speed": 0.33})])
    first, second = [line.split() for line in text.splitlines() if "http://" in line]
    assert "speed" in text
    assert (first[-2:], second[-2:]) == (["config", "1"], ["config", "0.33"])


def test_ejected_worker_shows_its_cause_and_end() -> None:
    """Neither an old failed check nor the time of the last good check is shown."""
    ejected = worker("http://a:1", Health.EJECTED, error="timed out after 5 s", ejected_for_s=90.5)
    tried = worker("http://b:1", Health.EJECTED, error="timed out after 5 s", ejected_for_s=-1)
    drained = worker("http://c:1", Health.DRAINING, draining=True, error="timed out after 5 s")
    text = printed([ejected, tried, drained])
    first, second, third = [" ".join(line.split()) for line in text.splitlines() if "http://" in line]
    assert ejected.ejected_until is not None
    until = f"{ejected.ejected_until.astimezone():%H:%M:%S}"
    assert first == f"http://a:1 ejected 3/8 2 config ejected for 1 min, until {until}: {EJECTED_BECAUSE}"
    assert second == f"http://b:1 ejected 3/8 2 config ejected until its trial job ends: {EJECTED_BECAUSE}"
    assert third == "http://c:1 draining 3 min 3/8 2 config"


def test_what_workers_run_is_a_column_where_one_has_labels_languages_or_memory() -> None:
    """A fleet of plain workers has no such column."""
    plain = worker("http://a:1", Health.HEALTHY)
    special = plain.model_copy(update={"url": "http://b:1", "labels": ["gpu"], "languages": ["R"], "memory_mb": 4000})
    assert "runs" not in printed([plain])
    text = printed([plain, special])
    first, second = [" ".join(line.split()) for line in text.splitlines() if "http://" in line]
    assert "runs" in text
    assert (first, second) == ("http://a:1 healthy 3 min 3/8 2 config", f"{first.replace('a:1', 'b:1')} {SPECIAL}")


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (1, "schema   1, written by a sidecar of an older release; this command's is 2"),
        (3, "schema   3, written by a sidecar of a newer release; this command's is 2"),
        (2, None),
        (None, None),
    ],
)
def test_keys_of_another_release_are_told(version: int | None, told: str | None) -> None:
    """A schema that this command knows needs no word."""
    text = printed([worker("http://a:1", Health.HEALTHY)], schema=version)
    assert told in text if told else "schema" not in text


def test_tenants_show_what_is_set_at_run_time() -> None:
    """With a star; a limit that is not set is empty."""
    rule = TenantRule(weight=3, max_waiting=0, labels=("gpu", "ib"), client_budget="job+2")
    overrides = TenantOverrides(weight=3, labels=("gpu", "ib"))
    tenant = AdminTenant(
        name="run-7", listed=True, overrides=overrides, counts=IDLE_TENANT, **msgspec.structs.asdict(rule)
    )
    row = tenants_shown([tenant], {})[0].split()
    assert row == ["run-7", "3*", "0", "0", "0/0", "0", "0", "gpu,", "ib*", "job+2"]


def test_tenants_show_their_order_if_one_has_another() -> None:
    """Whoever sets an order sees it; a fleet that uses none has no column for it."""
    tenants = [
        AdminTenant(name=name, listed=True, overrides=has, counts=IDLE_TENANT, **msgspec.structs.asdict(rule))
        for name, rule, has in (
            ("run-7", TenantRule(order="longest_first"), TenantOverrides(order="longest_first")),
            ("default", TenantRule(), TenantOverrides()),
        )
    ]
    assert [row.split()[-1] for row in tenants_shown(tenants, {})] == ["longest_first*", "arrival"]
    assert "arrival" not in tenants_shown(tenants[1:], {})[0]
    assert [rule_line(tenant) for tenant in tenants] == [
        "run-7: weight 1, priority 0, longest_first",
        "default: weight 1, priority 0",
    ]


def test_tenants_show_what_they_have_and_have_used() -> None:
    """Running and waiting jobs of those that may, jobs a second, worker-seconds, and their share."""
    counts = TenantCounts(running=4, waiting=7, jobs=90, failures=1, busy_ms=75_400, queue_ms=5)
    others = IDLE_TENANT.model_copy(update={"busy_ms": 25_000})
    tenants = [
        AdminTenant(name=name, listed=True, overrides=TenantOverrides(), counts=has, **msgspec.structs.asdict(rule))
        for name, has, rule in (("run-7", counts, TenantRule(max_running=8)), ("default", others, TenantRule()))
    ]
    shown = tenants_shown(tenants, {"run-7": 12.34})
    assert shown[0].split() == ["run-7", "1", "0", "4/8", "7", "12", "75", "75%"]
    assert shown[1].split() == ["default", "1", "0", "0", "0", "0", "25", "25%"]


def tenants_shown(tenants: Sequence[AdminTenant], rates: Mapping[str, float]) -> list[str]:
    """Return the rows of the tenants' table."""
    console = Console(file=(file := StringIO()), width=200)
    console.print(tenants_table(tenants, rates))
    return file.getvalue().splitlines()[1:]


def test_unknown_values_are_shown_as_unknown() -> None:
    """Without Redis running jobs are unknown, without all caps their sum is; old data are marked as stale."""
    known = worker("http://a:1", Health.HEALTHY, cap=None)
    assert " 3 " in printed([known])
    fields = {name: value for name, value in known.model_dump().items() if name in WorkerStatus.model_fields}
    text = printed([WorkerStatus(**fields)], "unavailable", "the router cannot be reached")
    assert text.count("unknown without Redis") == 2
    assert "stale    the router cannot be reached" in text
    assert "?" in text


async def test_running_jobs_are_unknown_while_redis_takes_no_writes() -> None:
    """It would still tell how many ran before; the status says why it cannot be used."""
    one = worker("http://a:1", Health.HEALTHY).model_dump(mode="json")
    sidecar = {"leader": None, "age_seconds": None}
    health = {"status": "healthy", "total_workers": 1, "healthy_workers": 1, "quarantined_jobs": 0}
    fleet = {"service": "", "version": "", "redis": "unavailable", "sidecar": sidecar, "workers": [one]}
    answers = {
        "/health": {**health, "redis": "unavailable", "redis_because": "OOM", "sidecar": sidecar},
        "/admin/workers": [one],
        "/": fleet,
    }

    async def script(exchange: Exchange) -> None:
        body = answers.get(exchange.request.target)
        await exchange.answer(200 if body else 503, body or {"detail": "Redis is unavailable: OOM"})

    async with ScriptedWorker(script=script) as router:
        done = await asyncio.to_thread(cli.invoke, app, ["status", "--url", router.url])
    assert "running  unknown without Redis" in done.stdout
    assert "redis    unavailable: OOM" in done.stdout


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        (["status"], 3, f"the router at {NOWHERE} cannot be reached: Connection refused"),
        (["workers", "list"], 3, f"the router at {NOWHERE} cannot be reached: Connection refused"),
        (["workers", "drain", "node1"], 2, "node1: expected a URL such as http://server1:8080"),
        (["workers", "drain", ""], 2, "URL: expected a URL such as http://server1:8080"),
        (["workers", "remove", "http://a..b"], 2, "http://a..b: expected a URL such as http://server1:8080: a host's"),
        (["workers", "weigh", "http://a:1"], 2, "expected a weight or --max-concurrency, or both"),
        (["workers", "weigh", "http://a:1", "much"], 2, "weight: expected a number or `default`, got 'much'"),
        (["tenants", "list"], 3, f"the router at {NOWHERE} cannot be reached: Connection refused"),
        (["tenants", "set", "a b", "--weight", "2"], 2, "Tenant 'a b': expected a name of 1 to 64 characters"),
        (["tenants", "reset", "a/b"], 2, "Tenant 'a/b': expected a name of 1 to 64 characters"),
        (
            ["tenants", "set", "run-7", "--reuse", "default", "--reuse-max-kb", "5"],
            2,
            "--reuse-max-kb: expected a number of seconds in --reuse with it, got `default`",
        ),
        (["tenants", "set", "run-7"], 2, "expected one option or more, such as --weight 3"),
        (
            ["tenants", "set", "run-7", "--max-running", "x"],
            2,
            "--max-running: expected a number or `default`, got 'x'",
        ),
        (["tenants", "set", "run-7", "--weight", "9" * 5000], 2, "--weight: expected a number or `default`, got '999"),
        (["tenants", "reset", "run-7", "--redis", "redis://127.0.0.1:1/0"], 3, "Redis: Error 111 connecting"),
        (["status", "--redis", "redis://a", "--prefix", ""], 2, "--prefix: expected up to 200 characters, no blanks"),
        (["status", "--url", "router"], 2, "--url: expected a URL such as http://router:8000, got 'router'"),
        (["status", "--redis", "//:secret@x"], 2, "--redis: expected a URL such as redis://localhost:6379/0"),
        (["status", "--redis", "redis://:pass/word@x"], 2, "--redis: expected a URL such as redis://localhost:6379/0"),
        (["status", "--url", "http://x:sfr_key@127.0.0.1:1"], 3, "the router at http://***@127.0.0.1:1 cannot"),
        (["status", "--url", "x:sfr_key@a"], 2, "--url: expected a URL such as http://router:8000, got '***@a'"),
        (["status", "--url", "http://a..b"], 3, "the router at http://a..b cannot be reached: its host cannot be"),
        (["status", "--redis", "redis://127.0.0.1:1/0"], 3, "Redis: Error 111 connecting to 127.0.0.1:1"),
        (["workers", "drain", "http://a:1", "--redis", "redis://127.0.0.1:1/0"], 3, "Redis: Error 111 connecting"),
    ],
)
def test_failure_prints_one_line(command: list[str], status: int, told: str) -> None:
    """A failure prints one line to stderr and nothing to stdout, and the exit status is the documented one."""
    done = cli.invoke(app, command, env={"SFR_URL": NOWHERE})
    assert (done.exit_code, done.stdout) == (status, "")
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "status", "told"),
    [
        ((200, b"<html>"), 3, "no router answers at {url}: its answer is not a router's\n"),
        ((200, {"hello": "world"}), 3, "no router answers at {url}: its answer is not a router's\n"),
        ((404, b"Not Found"), 3, "no router answers at {url}: status 404\n"),
        ((302, b""), 3, "no router answers at {url}: status 302\n"),
        ((503, {"detail": "Redis is unavailable: away"}), 3, "Redis is unavailable: away\n"),
        (
            (404, {"detail": "Not Found"}),
            1,
            "{url} does not know this request: it is no router, or one of an older release\n",
        ),
        ((401, b"<html>"), 3, "no router answers at {url}: status 401\n"),
        ((401, {"detail": "x"}), 4, "{url} wants its admin token, in ADMIN_TOKEN or ADMIN_TOKEN_FILE\n"),
        ((403, {"detail": "no token is set"}), 1, "no token is set\n"),
        (
            (422, {"detail": [{"loc": ["body", "weight"], "msg": "expected less than or equal to 100"}]}),
            *(1, "weight: expected less than or equal to 100\n"),
        ),
    ],
)
async def test_answer_of_another_program_is_reported(answer: tuple[int, object], status: int, told: str) -> None:
    """If another program answers, the line says what is wrong with its answer."""
    async with ScriptedWorker(script=always(*answer)) as server:
        command = ["workers", "list", "--url", server.url]
        done = await asyncio.to_thread(cli.invoke, app, command)
        assert (done.exit_code, done.stdout, done.stderr) == (status, "", told.format(url=server.url))


def test_unreadable_token_is_reported(tmp_path: Path) -> None:
    """No message shows the token."""
    missing = tmp_path / "none"
    done = cli.invoke(app, ["workers", "list"], env={"ADMIN_TOKEN_FILE": str(missing)})
    assert (done.exit_code, done.stderr) == (
        2,
        f"ADMIN_TOKEN_FILE: {missing} cannot be read: No such file or directory\n",
    )
    done = cli.invoke(app, ["workers", "list"], env={"ADMIN_TOKEN": "sec\nret"})
    assert (done.exit_code, done.stderr) == (2, "the admin token: expected one line of text\n")


def test_watch_needs_a_terminal() -> None:
    """The command says so before it asks a router."""
    done = cli.invoke(app, ["status", "--watch", "--url", NOWHERE])
    assert (done.exit_code, done.stderr) == (
        2,
        "--watch: expected a terminal; with --json it writes a line each time\n",
    )


def test_help_has_examples_and_exit_statuses() -> None:
    """The help of each command has an example, and the exit statuses."""
    for name in ("list", "add", "remove", "drain", "resume", "weigh"):
        shown_help = " ".join(cli.invoke(app, ["workers", name, "--help"]).output.split())
        assert f"sfr workers {name}" in shown_help.partition("Example")[2]
        assert "Exit status: 0 done;" in shown_help
    for name in ("list", "set", "reset"):
        shown_help = " ".join(cli.invoke(app, ["tenants", name, "--help"]).output.split())
        assert f"sfr tenants {name}" in shown_help.partition("Example")[2]
        assert "Exit status: 0 done;" in shown_help
    assert "sfr status --watch" in " ".join(cli.invoke(app, ["status", "--help"]).output.split())


@pytest.mark.parametrize("url", [NOWHERE, "nonsense"])
def test_completion_is_quiet_without_a_router(url: str) -> None:
    """The user is typing, so an unreachable router causes neither output nor an error."""
    typed = {"_SFR_COMPLETE": "complete_bash", "COMP_WORDS": "sfr workers drain ", "COMP_CWORD": "3", "SFR_URL": url}
    done = cli.invoke(app, [], env=typed, prog_name="sfr")
    assert (done.exit_code, done.output.strip()) == (0, "")


def test_completion_knows_commands_options_and_their_values() -> None:
    """Typer's completion works under the name sfr."""
    for typed, offered in (("sfr workers dr", "drain"), ("sfr top --so", "--sort"), ("sfr top --sort r", "running")):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        done = cli.invoke(app, [], env={"_SFR_COMPLETE": "complete_bash", **words}, prog_name="sfr")
        assert done.output.split() == [offered]
