"""`sfr`'s small commands."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.auth.access import ApiKeys
from router.cli.main import app
from router.config.load import Configuration, parse
from router.config.settings import Settings
from router.config.show import shown
from router.version import __version__
from tests.support.programs import Valkey

cli = CliRunner()


def test_help_names_the_commands() -> None:
    """`sfr --help` names each command."""
    shown = cli.invoke(app, ["--help"]).output
    assert all(
        command in shown for command in ("up", "local-worker", "status", "workers", "config", "redis", "key", "doctor")
    )
    assert cli.invoke(app, ["--version"]).output == f"sfr {__version__}\n"


def test_config_check_tells_good_from_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good file gets status 0 and a summary, a bad one status 2 and the fault."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("workers: ['http://a:1']")
    bad.write_text("routing: x")
    done = cli.invoke(app, ["config", "check", str(good)])
    assert (done.exit_code, done.output) == (0, f"{good}: good; 1 worker, round_robin\n")
    good.write_text("{preset: verl, workers: ['http://a:1'], client_budget: 9}")
    done = cli.invoke(app, ["config", "check", str(good)])
    told = "1 worker, round_robin, preset verl without client_budget, which the file sets"
    assert (done.exit_code, done.output) == (0, f"{good}: good; {told}\n")
    monkeypatch.setenv("ROUTER_CONFIG", str(bad))
    done = cli.invoke(app, ["config", "check"])
    assert done.exit_code == 2
    assert done.output.startswith(f"{bad}: routing: unknown key; expected one of ")


def test_config_show_is_a_configuration_without_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed configuration can be read again with the same meaning, and shows no password of REDIS_URL."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    path = tmp_path / "config.yaml"
    path.write_text("workers: ['http://a:1', {url: 'http://b:1', weight: 3}]\nqueue: {timeout: 5}")
    done = cli.invoke(app, ["config", "show", str(path)], env={"REDIS_URL": "redis://me:pass@word@host:1/2"})
    assert done.exit_code == 0
    assert "pass" not in done.output
    assert "word" not in done.output
    settings = parse(path.read_text(), "x")
    read = parse(done.output, "shown")
    assert read.redis.url == "redis://***@host:1/2"
    assert read.model_copy(update={"redis": settings.redis}) == settings
    assert parse(shown(Configuration(Settings())), "shown") == Settings()
    path.write_text("queue: {timeout: x}")
    done = cli.invoke(app, ["config", "show", str(path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{path}: queue.timeout: ")


def test_new_key_is_accepted_by_its_line(tmp_path: Path) -> None:
    """The hash goes to stdout for the file, the key to stderr for the user, and no two keys are equal."""
    held = tmp_path / "keys"
    keys = []
    for name in ("trainer a", ""):
        done = cli.invoke(app, ["key", "new", *([name] if name else [])])
        with held.open("a") as file:
            file.write(done.stdout)
        keys.append(done.stderr.split()[-1])
        assert keys[-1] not in done.stdout
    assert held.read_text().splitlines()[0].endswith("  trainer a")
    known = ApiKeys(held)
    assert [known.name_of(key.encode()) for key in keys] == ["trainer a", ""]
    assert len(set(keys)) == 2


async def test_redis_sends_one_command(valkey: Valkey) -> None:
    """Each type of reply is printed as lines, and an error of Redis ends the command with status 1."""
    async with valkey.client() as redis:
        await redis.hset("sfr:worker:http://a:1", mapping={"health": "healthy", "latency_ms": "2.5"})
        await redis.sadd("sfr:workers", "b", "a")

    def said(*command: str) -> tuple[int, str]:
        # In a thread, because the command runs its own event loop.
        done = cli.invoke(app, ["redis", "--url", valkey.url, *command])
        return done.exit_code, done.output

    assert await asyncio.to_thread(said, "HGETALL", "sfr:worker:http://a:1") == (
        0,
        "health      healthy\nlatency_ms  2.5\n",
    )
    assert await asyncio.to_thread(said, "SMEMBERS", "sfr:workers") == (0, "a\nb\n")
    assert await asyncio.to_thread(said, "INCRBY", "sfr:ticket", "-2") == (0, "-2\n")
    assert await asyncio.to_thread(said, "GET", "none") == (0, "(nil)\n")
    status, output = await asyncio.to_thread(said, "HGETALL", "sfr:workers")
    assert (status, output.startswith("Redis: WRONGTYPE")) == (1, True)
    await valkey.kill()
    status, output = await asyncio.to_thread(said, "PING")
    assert (status, output.startswith("Redis: "), output.count("\n")) == (1, True, 1)


async def test_doctor_says_what_is_wrong_with_redis_and_the_fleet(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fault is found in a real Valkey, with an advice; one that is wrong makes the status 1."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    path = tmp_path / "config.yaml"

    def looked(content: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
        path.write_text(content)
        done = cli.invoke(app, ["doctor", str(path), "--json"])
        told: dict[str, list[tuple[str, str]]] = {}
        for each in json.loads(done.stdout):
            told.setdefault(each["of"], []).append((each["verdict"], each["text"]))
        return done.exit_code, told

    status, told = await asyncio.to_thread(looked, "routing: x")
    assert (status, list(told)) == (1, ["config"])
    config = f"{{redis: {{url: '{valkey.url}'}}, api_keys: {tmp_path}/none}}"
    assert "none cannot be read" in (await asyncio.to_thread(looked, config))[1]["config"][0][1]

    config = f"redis: {{url: '{valkey.url}'}}"
    async with valkey.client() as redis:
        await redis.config_set("maxmemory", "100mb")
        await redis.config_set("maxmemory-policy", "volatile-lru")
        await redis.config_set("save", "60 1")
        await redis.sadd("sfr:workers", "http://a:1")
        await redis.hset("sfr:worker:http://a:1", mapping={"health": "healthy"})
        await redis.hset("sfr:fleet", mapping={"written_at": "2026-01-01T00:00:00+00:00", "schema": "1"})
        await redis.zadd("sfr:processes", {"elsewhere-1-ab": 10**13})
        await redis.hset("sfr:process:elsewhere-1-ab", mapping={"leases": 0, "waiting": 0})
        status, told = await asyncio.to_thread(looked, config)
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.config_set("save", "")
    assert status == 1
    assert [verdict for verdict, _ in told["redis"]] == ["ok", "wrong", "note"]
    assert {of: told[of][-1][0] for of in ("clocks", "schema", "sidecar", "workers", "caps", "routers")} == {
        "clocks": "ok",
        "schema": "wrong",
        "sidecar": "wrong",
        "workers": "ok",
        "caps": "wrong",
        "routers": "ok",
    }

    await valkey.kill()
    status, told = await asyncio.to_thread(looked, config)
    assert (status, told["redis"][0][0], list(told)) == (1, "wrong", ["config", "redis"])
