"""The alert rules and Grafana's dashboard are valid, and each alert fires on its own fault only."""

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from markdown.extensions.toc import slugify

from router.config.settings import Settings
from tests.support.programs import ROOT, program
from tests.support.promql import Wrong, exported, labels_of
from tools import grafana_dashboard, prometheus_rule

RULES = prometheus_rule.RULES
ALERTS = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
FLEET = 'job="sfr"'
ROUTER = f'{FLEET},instance="r1"'


def worker(metric: str, number: int, values: str) -> dict[str, str]:
    """Return one worker's series on one router."""
    return {f'sfr_worker_{metric}{{{ROUTER},worker="http://w{number}"}}': values}


def workers(metric: str, values: str) -> dict[str, str]:
    """Return the same series for all five workers."""
    return {name: values for number in range(1, 6) for name in worker(metric, number, values)}


def waits(bucket: str) -> dict[str, str]:
    """Return a histogram of waits: 90 of 100 are short, and the others end in the bucket `bucket`."""
    short, all_ = "0+90x90", "0+100x90"
    bounds = {"0.1": short, "20.0": short, "50.0": short, bucket: all_, "+Inf": all_}
    return {f'sfr_queue_wait_seconds_bucket{{{ROUTER},le="{bound}"}}': values for bound, values in bounds.items()}


def requests(**verdicts: int) -> dict[str, str]:
    """Return counters of requests that grow by these numbers a minute, by verdict."""
    return {
        f'sfr_requests_total{{{ROUTER},endpoint="/run_code",status="200",verdict="{verdict}"}}': f"0+{count}x90"
        for verdict, count in verdicts.items()
    }


def attempts(**verdicts: int) -> dict[str, str]:
    """Return counters of attempts that grow by these numbers a minute, by verdict."""
    return {f'sfr_attempts_total{{{ROUTER},verdict="{verdict}"}}': f"0+{n}x90" for verdict, n in verdicts.items()}


def tenant(metric: str, name: str, values: str) -> dict[str, str]:
    """Return one tenant's series, as one router shows it."""
    return {f'sfr_tenant_{metric}{{{ROUTER},tenant="{name}"}}': values}


# A healthy fleet for an hour and a half, with one sample a minute.
WELL = {
    f"up{{{ROUTER}}}": "1x90",
    f"sfr_processes{{{ROUTER}}}": "2x90",
    f"sfr_processes_degraded{{{ROUTER}}}": "0x90",
    f"sfr_workers_routable{{{ROUTER}}}": "5x90",
    f"sfr_sidecar_age_seconds{{{ROUTER}}}": "4x90",
    f"sfr_queue_length{{{ROUTER}}}": "30x90",
    f"sfr_retries_refused_total{{{ROUTER}}}": "7x90",
    f'sfr_redis_duration_seconds_bucket{{{ROUTER},le="0.001"}}': "0+100x90",
    f'sfr_redis_duration_seconds_bucket{{{ROUTER},le="+Inf"}}': "0+100x90",
    **requests(result=1000, bad_request=100, client_left=20, all_failed=5),
    **attempts(result=1000, sandbox_error=30),
    **waits("0.1"),
    **workers("up", "1x90"),
    **workers("cap", "4x90"),
    **workers("leases", "3x90"),
    **tenant("running", "a", "12x90"),
    **tenant("waiting", "a", "30x90"),
    # It waits for a moment now and then.
    **tenant("running", "b", "3x30 0x3 3x57"),
    **tenant("waiting", "b", "0x30 5x3 0x57"),
    # One ejection of a minute.
    **worker("ejected", 1, "0x30 1 0x59"),
}
# By alert: the series that differ from WELL when its fault is present.
FAULTS: dict[str, dict[str, str]] = {
    "SfrRouterDown": {f"up{{{ROUTER}}}": "1x30 0x60"},
    "SfrNoWorkers": {f"sfr_workers_routable{{{ROUTER}}}": "5x30 0x60"},
    "SfrManyWorkersDown": worker("up", 2, "0x90") | worker("up", 3, "0x90"),
    # Ejected for 0.5, 1, 2, 4, 5, 5 … minutes, with a trial after each.
    "SfrWorkerEjectedAgain": worker("ejected", 2, "0 1 0 1x1 0 1x3 0" + " 1x4 0" * 14),
    "SfrErrors": requests(result=1000, all_failed=20),
    "SfrSandboxErrors": attempts(result=1000, sandbox_error=80),
    "SfrRetryBudgetSpent": {f"sfr_retries_refused_total{{{ROUTER}}}": "7+3x90"},
    "SfrWaitsLong": waits("100.0"),
    "SfrQueueNearlyFull": {f"sfr_queue_length{{{ROUTER}}}": "6000x90"},
    "SfrTenantStarves": tenant("running", "b", "0x90") | tenant("waiting", "b", "1x90"),
    "SfrFleetFull": workers("leases", "4x90"),
    "SfrRedisAway": {f"sfr_processes_degraded{{{ROUTER}}}": "2x90"},
    "SfrRedisSlow": {f'sfr_redis_duration_seconds_bucket{{{ROUTER},le="0.001"}}': "0+90x90"}
    | {f'sfr_redis_duration_seconds_bucket{{{ROUTER},le="0.2"}}': "0+100x90"},
    "SfrSidecarStale": {f"sfr_sidecar_age_seconds{{{ROUTER}}}": "4+60x90"},
}
# Other faults that fire the same alerts.
MORE_FAULTS = {
    "SfrSidecarStale": {f"sfr_sidecar_age_seconds{{{ROUTER}}}": "_x90"},
    "SfrErrors": requests(result=1000, queue_timeout=20),
    # A worker that is down has no slots that could be free.
    "SfrFleetFull": workers("leases", "4x90") | worker("leases", 3, "0x90") | worker("up", 3, "0x90"),
}


def rule_test(name: str, series: dict[str, str], *fire: str) -> dict[str, Any]:
    """Return a test in promtool's format, at whose end exactly these alerts fire."""
    firing = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "1h20m"}
    samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in fire]
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{**firing, "exp_samples": samples}],
    }


def promtool(*arguments: str) -> str:
    """Run promtool and return its output; fail with the output if its status is not 0."""
    said = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def test_every_alert_has_a_fault() -> None:
    """Each alert is tested below."""
    assert FAULTS.keys() == ALERTS.keys()


def test_rules_are_valid() -> None:
    """Prometheus reads the rules, and its linter finds nothing."""
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", "--lint-fatal", str(RULES))


def test_each_alert_fires_on_its_own_fault_only(tmp_path: Path) -> None:
    """Each fault fires its alert and no other, and a healthy fleet fires none."""
    tests = [rule_test("all is well", WELL)]
    tests += [
        rule_test(f"{alert}, {number}", {**WELL, **series}, alert)
        for number, faults in enumerate((FAULTS, MORE_FAULTS), start=1)
        for alert, series in faults.items()
    ]
    file = tmp_path / "faults.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(file))


def test_alerts_wait_and_are_explained() -> None:
    """Each alert waits for a while, and has a summary, a severity and a link to its section in the handbook."""
    handbook = (ROOT / "docs" / "failures.md").read_text()
    anchors = {slugify(heading, "-"): heading for heading in re.findall(r"^#+ (.+)$", handbook, re.MULTILINE)}
    for name, rule in ALERTS.items():
        assert rule["for"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]
        address = urlsplit(rule["annotations"]["runbook_url"])
        assert f"{address.scheme}://{address.netloc}/failures.html" == f"{prometheus_rule.DOCS}/failures.html"
        assert anchors[address.fragment] == name


def test_thresholds_follow_the_settings_defaults() -> None:
    """A threshold that depends on a key of config.yaml names the key and follows its default."""
    settings = Settings()
    assert ALERTS["SfrWaitsLong"]["expr"].endswith(f"> {settings.queue.timeout / 2:g}")
    assert ALERTS["SfrQueueNearlyFull"]["expr"].endswith(f"> {settings.queue.max_waiting // 2}")
    assert f"> {3 * settings.health_check_interval:g}" in ALERTS["SfrSidecarStale"]["expr"]
    for name, key in (("SfrWaitsLong", "queue.timeout"), ("SfrSidecarStale", "health_check_interval")):
        assert re.search(rf"alert: {name}\n +# .*{re.escape(key)}", RULES.read_text())


def test_generated_files_are_up_to_date() -> None:
    """The dashboard, and the rules for Prometheus' operator, are generated again after each change."""
    assert grafana_dashboard.FILE.read_text() == grafana_dashboard.text(), "python -m tools.grafana_dashboard"
    assert prometheus_rule.FILE.read_text() == prometheus_rule.text(), "python -m tools.prometheus_rule"
    assert prometheus_rule.CHART_FILE.read_text() == RULES.read_text(), "python -m tools.prometheus_rule"
    (rule,) = yaml.safe_load_all(prometheus_rule.FILE.read_text())
    assert rule["spec"] == yaml.safe_load(RULES.read_text())


def test_panels_do_not_overlap() -> None:
    """Each panel has its own place and id, a title, and the data source chosen at the top."""
    board = json.loads(grafana_dashboard.FILE.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [[panel["gridPos"][side] for side in "xywh"] for panel in panels]
    assert all(x + w <= 24 for x, _, w, _ in places)
    for (x1, y1, w1, h1), (x2, y2, w2, h2) in combinations(places, 2):
        assert x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1
    for panel in panels:
        assert panel["title"]
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
    assert all(mark["datasource"]["uid"] == "${datasource}" for mark in board["annotations"]["list"])
    asked = set(re.findall(r"\$(\w+)", grafana_dashboard.FILE.read_text())) - {"__all", "__rate_interval"}
    assert asked == {variable["name"] for variable in board["templating"]["list"]} - {"datasource", "router_url"}


def test_grafana_s_models_keep_every_field() -> None:
    """A field that is misspelled, misplaced or of a wrong type would be lost in Grafana's models."""
    register_default_plugins()
    board = json.loads(grafana_dashboard.FILE.read_text())
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    # These two are the Prometheus plugin's own, which Grafana's models of annotations leave out.
    of_plugin = {
        f".annotations.list[{n}].{key}"
        for n in range(len(board["annotations"]["list"]))
        for key in ("step", "titleFormat")
    }
    assert set(lost(board, kept)) == of_plugin
    board["panels"][1]["fieldConfigs"] = {}
    assert set(lost(board, kept)) == of_plugin | {".panels[1].fieldConfigs"}


def test_links_lead_to_pages_of_the_router_s_dashboard() -> None:
    """Each series of a worker or a tenant leads to its page, by a label that the panel has."""
    board = json.loads(grafana_dashboard.FILE.read_text())
    (own,) = board["links"]
    assert own["url"] == "${router_url}/dashboard"
    linked = 0
    for panel in board["panels"]:
        for link in panel.get("fieldConfig", {}).get("defaults", {}).get("links", ()):
            linked += 1
            (label,) = re.findall(
                r"^\$\{router_url\}/dashboard#/\w+\?\w+=\$\{__\w+\.\w+\.(\w+):percentencode\}$", link["url"]
            )
            legends = {target["legendFormat"] for target in panel["targets"]}
            assert panel["type"] == "table" or legends == {f"{{{{{label}}}}}"}
    assert linked >= 10


def lost(given: Any, kept: Any, place: str = "") -> list[str]:
    """Return the places in `given` whose value `kept` lacks or changes."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [
            missed
            for key, value in given.items()
            for missed in (lost(value, kept[key], f"{place}.{key}") if key in kept else [f"{place}.{key}"])
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = enumerate(zip(given, kept, strict=True))
        return [missed for number, (one, other) in pairs for missed in lost(one, other, f"{place}[{number}]")]
    return [] if given == kept else [place]


@pytest.mark.parametrize(
    "expression",
    [
        "sfr_worker_upp",
        'sfr_worker_up{node="x"}',
        'sfr_requests_total{verdict=~"result|eror"}',
        "sum by (node) (sfr_worker_up)",
        "sfr_worker_up and on (verdict) sfr_requests_total",
        "sfr_worker_up / sfr_requests_total",
        "sum without (job) (sfr_worker_up)",
    ],
)
def test_wrong_names_are_found(expression: str) -> None:
    """The check of expressions finds a wrong metric, label, value or grouping."""
    known = exported([])
    known["sfr_worker_up"] = known["up"] | {"worker"}
    known["sfr_requests_total"] = known["up"] | {"endpoint", "status", "verdict"}
    with pytest.raises(Wrong):
        labels_of(expression, known)
