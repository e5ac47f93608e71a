"""A real Prometheus scrapes real routers: the dashboard's panels show values, and faults raise alerts."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import yaml

from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.load import post_jobs
from tests.support.programs import Program, System, Valkey, get_json, program
from tests.support.promql import exported, labels_of
from tests.support.scrape import scrape
from tests.support.worker import ScriptedWorker, always
from tools import grafana_dashboard, prometheus_rule

ROUND = "250ms"
# Values for the dashboard's variables, and for those that Grafana sets.
CHOSEN = {"$namespace": ".*", "$job": ".*", "$router": ".*", "$worker": ".*", "$tenant": ".*", "$__rate_interval": "1m"}


class Prometheus(Program):
    """A real Prometheus that scrapes these routers and evaluates the alert rules."""

    def __init__(self, folder: Path, *router_ports: int) -> None:
        self.port = free_port()
        targets = [f"127.0.0.1:{port}" for port in router_ports]
        config = {
            "global": {"scrape_interval": ROUND, "scrape_timeout": ROUND, "evaluation_interval": ROUND},
            "rule_files": [str(prometheus_rule.RULES)],
            "scrape_configs": [{"job_name": "sandboxfusion-router", "static_configs": [{"targets": targets}]}],
        }
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        argv = [
            *(program("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder / 'prometheus'}"),
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        super().__init__(argv, folder / "prometheus.log")

    async def start(self) -> None:
        """Start it and wait until it answers."""
        await super().start()
        self._since = asyncio.get_running_loop().time()
        await eventually(self._answers, what=f"Prometheus' answer\n{self.output}")

    async def _answers(self) -> bool:
        try:
            return bool(await self._ask("query", query="vector(1)"))
        except aiohttp.ClientError:
            return False

    async def _ask(self, what: str, **arguments: str) -> Any:
        answer = await get_json(f"http://127.0.0.1:{self.port}/api/v1/{what}?{urlencode(arguments)}")
        assert answer["status"] == "success", answer
        return answer["data"]

    async def shows(self, expression: str) -> bool:
        """Whether an expression has a value now."""
        return bool((await self._ask("query", query=expression))["result"])

    async def rules(self) -> dict[str, dict[str, Any]]:
        """Return the alert rules in their present state, by name."""
        (group,) = (await self._ask("rules"))["groups"]
        return {rule["name"]: rule for rule in group["rules"]}

    async def tells_of(self, *alerts: str) -> None:
        """Wait until these alerts are active; most fire only after minutes of that."""
        # SfrWorkerEjectedAgain depends on the share of ejected time in all the time that Prometheus has seen.
        seen_s = asyncio.get_running_loop().time() - self._since
        await eventually(lambda: self._tells_of(set(alerts)), 20 + seen_s, what=f"the alerts {alerts}")

    async def _tells_of(self, alerts: set[str]) -> bool:
        return alerts <= {name for name, rule in (await self.rules()).items() if rule["state"] != "inactive"}


def panels() -> Iterator[tuple[str, str]]:
    """Yield each panel's title and expressions, with the variables' values."""
    for panel in json.loads(grafana_dashboard.FILE.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], re.sub(r"\$\w+", lambda name: CHOSEN[name[0]], target["expr"])


def annotations() -> Iterator[tuple[str, str]]:
    """Yield each annotation's name and expression, with the variables' values."""
    for mark in json.loads(grafana_dashboard.FILE.read_text())["annotations"]["list"]:
        yield mark["name"], re.sub(r"\$\w+", lambda name: CHOSEN[name[0]], mark["expr"])


async def test_every_expression_uses_exported_metrics(system: System, workers: list[ScriptedWorker]) -> None:
    """Each metric, label and label value in a panel or rule exists at /metrics."""
    system.configure([worker.url for worker in workers], default_max_concurrency=2)
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=3)
        await post_jobs(router.url, 10, at_once=4)
        await eventually(lambda: _counts_workers(router.url), what="the fleet's counts")
        known = exported((await scrape(router.url)).families)
    rules = yaml.safe_load(prometheus_rule.RULES.read_text())["groups"][0]["rules"]
    for name, expression in [*panels(), *annotations(), *((rule["alert"], rule["expr"]) for rule in rules)]:
        assert labels_of(expression, known) is not None, name
    asked = re.findall(r"label_values\((\w+).*?, (\w+)\)", grafana_dashboard.FILE.read_text())
    assert asked
    assert all(label in known[metric] for metric, label in asked)


async def _counts_workers(url: str) -> bool:
    return (await scrape(url)).total("sfr_worker_jobs_total") > 0


async def test_panels_show_values_and_each_fault_raises_its_alert(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """With a healthy fleet each panel shows values, and then each fault raises its own alert."""
    system.configure(
        [worker.url for worker in workers],
        default_max_concurrency=2,
        breaker={"failures": 20, "base_seconds": 60},
        retry={"budget_percent": 0, "budget_per_second": 1},
    )
    async with (
        system.sidecar() as sidecar,
        system.router(2) as one,
        system.router(1) as other,
        Prometheus(system.folder, one.port, other.port) as prometheus,
    ):
        await other.sees(healthy=3)
        await one.sees(healthy=3)
        async with aiohttp.ClientSession() as session, session.get(f"{one.url}/run_code") as refused:
            assert refused.status == 405
        await post_jobs(one.url, 20, at_once=4)
        for title, expression in panels():
            await eventually(lambda query=expression: prometheus.shows(query), what=f"{title}: {expression}")  # type: ignore[misc]
        # Only a minute after a change could the others have a value.
        shown = {name for name, expression in annotations() if await prometheus.shows(expression)}
        assert shown == {"Worker joined", "Router started"}
        rules = await prometheus.rules()
        assert {rule["health"] for rule in rules.values()} == {"ok"}
        assert {rule["state"] for rule in rules.values()} == {"inactive"}

        for worker in workers:
            worker.script = always(200, {"status": "SandboxError"})
        await post_jobs(one.url, 40, at_once=4)
        await prometheus.tells_of("SfrSandboxErrors", "SfrRetryBudgetSpent")
        for worker in workers:
            worker.script = always(503)
        await post_jobs(one.url, 10, at_once=4)
        # A counter's first value gives no rate, and 80 jobs may take less than one scrape interval.
        errors = 'sfr_requests_total{verdict="all_failed"}'
        await eventually(lambda: prometheus.shows(errors), what=errors)
        await post_jobs(one.url, 80, at_once=4)
        await prometheus.tells_of("SfrErrors", "SfrWorkerEjectedAgain")
        for worker in workers:
            await worker.die()
        await prometheus.tells_of("SfrNoWorkers", "SfrManyWorkersDown")
        await sidecar.kill()
        async with valkey.client() as client:
            await client.hset("sfr:fleet", "written_at", "2026-01-01T00:00:00+00:00")
        await prometheus.tells_of("SfrSidecarStale")
        await valkey.kill()
        await prometheus.tells_of("SfrRedisAway")
        await other.kill()
        await prometheus.tells_of("SfrRouterDown")
        alerts = [alert for rule in (await prometheus.rules()).values() for alert in rule["alerts"]]
        assert alerts
        assert not [alert for alert in alerts if "<error" in alert["annotations"]["summary"]]
