"""Rules of tenants: from config.yaml, the API and the command to Redis. Real gunicorn, sidecar, Valkey."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from typer.testing import CliRunner

from router.cli.main import app
from router.fleet.redis_client import RedisClient
from router.fleet.snapshot import FleetView
from router.policy.tenants import TenantRule
from tests.support.eventually import eventually
from tests.support.load import post_jobs
from tests.support.programs import Program, Router, System, Valkey, get_json
from tests.support.worker import ScriptedWorker

TOKEN = "a-token"
Rules = dict[str, TenantRule]


@asynccontextmanager
async def routers_view(valkey: Valkey) -> AsyncIterator[FleetView]:
    """The fleet as each router process sees it, kept fresh by the same means."""
    async with valkey.client() as client:
        view = FleetView(RedisClient(client, "sfr", timeout_s=5), (), {"from-config": TenantRule(weight=9)})
        running = asyncio.create_task(view.run())
        try:
            yield view
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def follow(view: FleetView, rules: Rules) -> None:
    """Wait until the routers go by these rules."""
    await eventually(lambda: view.snapshot.state.tenants == rules, what=f"{rules}, not {view.snapshot.state.tenants}")


async def ask(router: Router, method: str, name: str | None = None, body: object = None) -> tuple[int, Any]:
    """Send one request to /admin/tenants."""
    params, headers = {} if name is None else {"name": name}, {"authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, f"{router.url}/admin/tenants", params=params, json=body) as answer,
    ):
        return answer.status, await answer.json() if answer.status != 204 else None


async def sfr(*words: str, **env: str) -> tuple[int, str]:
    """Return the status and output of a command."""
    done = await asyncio.to_thread(CliRunner().invoke, app, ["tenants", *words], env=env)
    return done.exit_code, done.output


def configure(system: System, workers: list[ScriptedWorker], **tenants: object) -> None:
    """Write a config.yaml with these tenants."""
    system.env["ADMIN_TOKEN"] = TOKEN
    system.configure([worker.url for worker in workers], tenants=tenants)


async def test_rules_come_from_config_yaml_the_api_and_the_command(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """All routers follow at once, whichever way a rule is set; a bad config.yaml changes nothing; no job is lost."""
    configure(system, workers, **{"run-7": {"weight": 3}})
    async with system.sidecar() as sidecar, system.router(2) as router, routers_view(valkey) as view:
        await router.sees(healthy=3)
        await follow(view, {"run-7": TenantRule(weight=3)})
        status = await get_json(router.url)
        assert isinstance(status["sidecar"], dict)
        assert status["sidecar"]["schema_version"] == 2

        configure(system, workers, **{"run-7": {"weight": 4}, "default": {"max_waiting": 100}})
        configured = {"run-7": TenantRule(weight=4), "default": TenantRule(max_waiting=100)}
        await follow(view, configured)

        answered, changed = await ask(router, "PATCH", "eval", {"priority": 1})
        assert (answered, changed["priority"], changed["max_waiting"]) == (200, 1, 100)
        await follow(view, {**configured, "eval": TenantRule(priority=1, max_waiting=100)})
        assert "Tenant eval set to {'priority': 1}, by 127.0.0.1" in router.output
        assert "Rules of 3 tenants are in force" in sidecar.output

        env = {"SFR_URL": router.url, "ADMIN_TOKEN": TOKEN}
        done = await sfr("set", "run-7", "--max-running", "50", "--label", "gpu", "--client-budget", "12", **env)
        assert done == (0, "run-7: weight 4, priority 0, at most 50 running, needs gpu, client budget 12.0\n")
        by_command = TenantRule(weight=4, max_running=50, labels=("gpu",), client_budget=12.0)
        await follow(view, {**configured, "run-7": by_command, "eval": TenantRule(priority=1, max_waiting=100)})
        assert await sfr("reset", "eval", "--redis", valkey.url) == (0, "eval: reset\n")
        await follow(view, {**configured, "run-7": by_command})
        redis = ("--redis", valkey.url)
        for way in ((), redis):
            shown = json.loads((await sfr("list", "--json", *way, **env))[1])
            assert [(each["name"], each["max_running"]) for each in shown] == [("default", None), ("run-7", 50)]
        typed = {"COMP_WORDS": "sfr tenants reset r", "COMP_CWORD": "3", "_SFR_COMPLETE": "complete_bash"}
        offered = await asyncio.to_thread(CliRunner().invoke, app, [], env={**env, **typed}, prog_name="sfr")
        assert offered.output.split() == ["run-7"]
        done = await sfr("set", "run-7", "--max-running", "default", "--label", "", *redis)
        assert done[0] == 0
        await follow(view, {**configured, "run-7": TenantRule(weight=4, client_budget=12.0)})

        for way in ((), redis):
            refused = await sfr("set", "run-7", "--weight", "1001", *way, **env)
            assert (refused[0], refused[1].startswith("weight: ")) == (1, True), refused
        assert (await sfr("set", "run-7", "--weight", "2", SFR_URL=router.url, ADMIN_TOKEN="another"))[0] == 4

        configure(system, workers, **{"run-7": {"weight": 0}})
        await eventually(lambda: "tenants.run-7.weight: expected" in sidecar.output, what="the mistake's line")
        await post_jobs(router.url, 20, 5)
        await follow(view, {**configured, "run-7": TenantRule(weight=4, client_budget=12.0)})


async def test_rules_outlive_redis_and_sidecars(system: System, workers: list[ScriptedWorker], valkey: Valkey) -> None:
    """Redis is emptied, the leading sidecar dies, an operator slips: what was set stays in force."""
    configure(system, workers, **{"run-7": {"weight": 3}})
    rules = {"run-7": TenantRule(weight=3, priority=5), "eval": TenantRule(max_running=2)}
    async with system.sidecar() as first, system.router(1) as router, routers_view(valkey) as view:
        await router.sees(healthy=3)
        await ask(router, "PATCH", "run-7", {"priority": 5})
        await ask(router, "PATCH", "eval", {"max_running": 2})
        await follow(view, rules)

        async with valkey.client() as redis:
            await redis.flushall()
            await eventually(lambda: redis.hget("sfr:tenants", "eval"), what="the rules written again")
            assert json.loads(await redis.hget("sfr:tenants:intent", "run-7") or "") == {"priority": 5}
            assert await redis.hget("sfr:fleet", "schema") == "2"
        assert "tenants are written again" in first.output
        await follow(view, rules)

        async with system.sidecar() as second:
            await eventually(lambda: "started with" in second.output, what="the second sidecar")
            await first.kill()
            await eventually(lambda: "leads, token" in second.output, what="its lead")
            await follow(view, rules)
            await ask(router, "PATCH", "eval", {"max_running": 3})
            rules["eval"] = TenantRule(max_running=3)
            await follow(view, rules)
            await _slips(valkey, second, view, rules)


async def _slips(valkey: Valkey, sidecar: Program, view: FleetView, rules: Rules) -> None:
    """What redis-cli breaks is named, or written again."""
    async with valkey.client() as redis:
        await redis.hset("sfr:tenants:intent", mapping={"a b": "{}", "eval": '{"max_running":3,"weight":-1}'})
        await redis.publish("sfr:wishes", "x")
        await eventually(lambda: "Passed over: tenant eval: weight: expected" in sidecar.output, what="the bad value")
        assert "Passed over: tenant 'a b': expected a name of 1 to 64 characters" in sidecar.output
        await redis.delete("sfr:tenants")
        await redis.set("sfr:tenants", "x")
        await eventually(lambda: _is_hash(valkey), what="the rules instead of the slip")
        await redis.delete("sfr:tenants:intent")
        await redis.set("sfr:tenants:intent", "x")
        await eventually(lambda: "Passed over: sfr:tenants:intent: WRONGTYPE" in sidecar.output, what="the bad key")
        await follow(view, rules)
        await redis.delete("sfr:tenants:intent")
        await follow(view, {"run-7": TenantRule(weight=3)})


async def _is_hash(valkey: Valkey) -> bool:
    async with valkey.client() as redis:
        return bool(await redis.type("sfr:tenants") == "hash")
