"""Writes Grafana's dashboard, deploy/grafana/sandboxfusion-router.json: `python -m tools.grafana_dashboard`.

This module has what matters: titles, units and expressions. The JSON is long, and mostly the same for each panel.
"""

import json
from pathlib import Path
from typing import Any

from tools.grafana_annotations import ANNOTATIONS
from tools.grafana_model import Board, Link, Panel, Row, Variable, dashboard
from tools.grafana_series import FLEET, MOST, ROUTERS, TENANTS, WORKERS

FILE = Path(__file__).parent.parent / "deploy" / "grafana" / "sandboxfusion-router.json"

# The router's own dashboard: where it is, and its pages of one worker and one tenant.
ADDRESS = ("router_url", "http://localhost:8000")
_OWN = f"${{{ADDRESS[0]}}}/dashboard"
_WORKER = Link("The router's page of this worker", f"{_OWN}#/worker?url=${{__field.labels.worker:percentencode}}")
_ROW = Link("The router's page of this worker", f"{_OWN}#/worker?url=${{__data.fields.Worker:percentencode}}")
_TENANT = Link("The router's page of tenants", f"{_OWN}#/tenants?q=${{__field.labels.tenant:percentencode}}")


def _rate(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{ROUTERS}{more}}}[$__rate_interval]))"


def _quantiles(metric: str) -> list[tuple[str, str]]:
    buckets = f"sum by (le) (rate({metric}_bucket{{{ROUTERS}}}[$__rate_interval]))"
    return [(f"p{share * 100:g}", f"histogram_quantile({share}, {buckets})") for share in (0.5, 0.9, 0.99)]


def _fleet(metric: str) -> str:
    """Return a metric that has the same value on every router, once."""
    return f"max({metric}{{{FLEET}}})"


def _worker(metric: str) -> str:
    return f"max by (worker) ({metric}{{{WORKERS}}})"


def _worker_rate(metric: str) -> str:
    return f"max by (worker) (rate({metric}{{{WORKERS}}}[$__rate_interval]))"


def _tenant(metric: str) -> str:
    return f"max by (tenant) ({metric}{{{TENANTS}}})"


def _tenant_rate(metric: str) -> str:
    return f"max by (tenant) (rate({metric}{{{TENANTS}}}[$__rate_interval]))"


def _most(expression: str, of: str = "worker") -> list[tuple[str, str]]:
    return [(f"{{{{{of}}}}}", f"topk({MOST}, {expression})")]


_NO_RESULT = "all_failed|no_workers|queue_full|queue_timeout|deadline|buffers_full|error"
_ERROR_SHARE = (
    f'(sum(rate(sfr_requests_total{{{ROUTERS},verdict=~"{_NO_RESULT}"}}[$__rate_interval])) or vector(0))'
    f" / sum(rate(sfr_requests_total{{{ROUTERS}}}[$__rate_interval]))"
)
_JOBS = f"sum(rate(sfr_requests_total{{{ROUTERS}}}[$__rate_interval]))"
_P99 = _quantiles("sfr_request_duration_seconds")[-1][1]
_LEASES, _CAPS = f"sum({_worker('sfr_worker_leases')})", f"sum({_worker('sfr_worker_cap')})"
_LOAD = f"{_worker('sfr_worker_leases')} / {_worker('sfr_worker_cap')}"
_MEAN_TIME = f"{_worker_rate('sfr_worker_busy_seconds_total')} / {_worker_rate('sfr_worker_jobs_total')}"
_FAILED_SHARE = f"{_worker_rate('sfr_worker_failures_total')} / {_worker_rate('sfr_worker_jobs_total')}"
_USE = _tenant_rate("sfr_tenant_busy_seconds_total")
_SHARE = f"{_USE} / scalar(sum(max by (tenant) (rate(sfr_tenant_busy_seconds_total{{{FLEET}}}[$__rate_interval]))))"
_TENANT_JOBS = _tenant_rate("sfr_tenant_jobs_total")
_TENANT_WAIT = f"{_tenant_rate('sfr_tenant_queue_seconds_total')} / {_TENANT_JOBS}"
_TENANT_FAILED = f"{_tenant_rate('sfr_tenant_failures_total')} / {_TENANT_JOBS}"

# How the columns of the workers' table are shown. All others are plain numbers.
_COLUMNS: dict[str, dict[str, Any]] = {
    "Up": {"mappings": [{"type": "value", "options": {"0": {"text": "no", "color": "red"}, "1": {"text": "yes"}}}]},
    "Draining": {
        "mappings": [{"type": "value", "options": {"0": {"text": ""}, "1": {"text": "yes", "color": "blue"}}}]
    },
    "Ejected": {"mappings": [{"type": "value", "options": {"0": {"text": ""}, "1": {"text": "yes", "color": "red"}}}]},
    "Full": {"unit": "percentunit", "min": 0, "max": 1, "custom.cellOptions": {"type": "gauge", "mode": "basic"}},
    "Jobs/s": {"unit": "reqps"},
    "Failed": {"unit": "percentunit"},
    "Mean time": {"unit": "s"},
}


ROWS = (
    Row(
        "Now",
        (
            Panel("Jobs", "Jobs that are answered a second.", [("", _JOBS)], "reqps", "stat", 3),
            Panel(
                "Without a result",
                "The share of jobs that got an error instead.",
                [("", _ERROR_SHARE)],
                "percentunit",
                "stat",
                3,
                colour="green",
                turns=(0.01, "red"),
            ),
            Panel("p99", "From a job's request to its answer.", [("", _P99)], "s", "stat", 3),
            Panel("Running", "Leases on all workers.", [("", _LEASES)], "short", "stat", 3),
            Panel("Waiting", "Pending jobs of all routers.", [("", _fleet("sfr_queue_length"))], "short", "stat", 3),
            Panel(
                "Workers that get jobs",
                "Healthy, not draining, not ejected.",
                [("", _fleet("sfr_workers_routable"))],
                "short",
                "stat",
                3,
                colour="red",
                turns=(1, "green"),
            ),
            Panel(
                "Without Redis",
                "Router processes that give leases by themselves.",
                [("", f"sum(sfr_processes_degraded{{{FLEET}}})")],
                "short",
                "stat",
                3,
                colour="green",
                turns=(1, "red"),
            ),
            Panel(
                "Sidecar's age",
                "Since a sidecar last wrote its results.",
                [("", f"min(sfr_sidecar_age_seconds{{{FLEET}}})")],
                "s",
                "stat",
                3,
                colour="green",
                turns=(90, "red"),
            ),
        ),
        height=4,
    ),
    Row(
        "Alerts and waits",
        (
            Panel(
                "Alerts",
                "Those of deploy/prometheus/alerts.yaml that fire or soon will. Each leads to its runbook.",
                [],
                kind="alertlist",
            ),
            Panel(
                "How long jobs wait for a worker",
                "Jobs by the length of their wait: each column is a moment, each row a range of seconds.",
                [
                    (
                        "{{le}}",
                        f"sum by (le) (increase(sfr_queue_wait_seconds_bucket{{{ROUTERS}}}[$__rate_interval]))",
                    )
                ],
                "s",
                "heatmap",
                16,
            ),
        ),
    ),
    Row(
        "Jobs",
        (
            Panel(
                "Jobs by verdict",
                "Answers a second. docs/metrics.md explains the verdicts.",
                [("{{verdict}}", _rate("sfr_requests_total", "verdict"))],
                "reqps",
                is_stacked=True,
            ),
            Panel(
                "Errors by status",
                "Answers of 400 and above, without those to jobs that were skipped as their clients wished.",
                [("{{status}}", _rate("sfr_requests_total", "status", ',status=~"[45]..",verdict!="skipped"'))],
                "reqps",
                is_stacked=True,
            ),
            Panel(
                "Jobs by endpoint",
                "SandboxFusion's endpoints.",
                [("{{endpoint}}", _rate("sfr_requests_total", "endpoint"))],
                "reqps",
                is_stacked=True,
            ),
            Panel(
                "Duration",
                "From a job's whole request to its answer, queue and retries included.",
                _quantiles("sfr_request_duration_seconds"),
                "s",
            ),
            Panel(
                "Wait for a worker",
                "From the request for a lease to the lease.",
                _quantiles("sfr_queue_wait_seconds"),
                "s",
            ),
            Panel(
                "Worker's time", "From the lease to the worker's answer.", _quantiles("sfr_worker_time_seconds"), "s"
            ),
        ),
    ),
    Row(
        "Room",
        (
            Panel(
                "Running against the cap",
                "Leases on the chosen workers, and the sum of their caps.",
                [("running", _LEASES), ("cap", _CAPS)],
            ),
            Panel("Queue", "Pending jobs of all routers.", [("waiting", _fleet("sfr_queue_length"))]),
            Panel(
                "By router",
                "Running and pending jobs of each router's processes.",
                [
                    ("{{instance}} running", f"sum by (instance) (sfr_jobs_running{{{ROUTERS}}})"),
                    ("{{instance}} waiting", f"sum by (instance) (sfr_jobs_waiting{{{ROUTERS}}})"),
                ],
            ),
        ),
    ),
    Row(
        "Tenants",
        (
            Panel(
                "Worker-seconds by tenant",
                "How many slots each has had on average, counted when its attempts end.",
                _most(_USE, "tenant"),
                is_stacked=True,
                link=_TENANT,
            ),
            Panel(
                "Share by tenant",
                "Of the worker-seconds of all tenants.",
                _most(_SHARE, "tenant"),
                "percentunit",
                link=_TENANT,
            ),
            Panel(
                "Jobs by tenant",
                "Jobs that have ended.",
                _most(_TENANT_JOBS, "tenant"),
                "reqps",
                is_stacked=True,
                link=_TENANT,
            ),
            Panel(
                "Waiting by tenant",
                "Pending jobs of all routers.",
                _most(_tenant("sfr_tenant_waiting"), "tenant"),
                is_stacked=True,
                link=_TENANT,
            ),
            Panel(
                "Wait by tenant",
                "How long a job waits for leases (mean).",
                _most(_TENANT_WAIT, "tenant"),
                "s",
                link=_TENANT,
            ),
            Panel(
                "Without a result by tenant",
                "The share of its jobs that got an error instead.",
                _most(_TENANT_FAILED, "tenant"),
                "percentunit",
                link=_TENANT,
            ),
        ),
    ),
    Row(
        "Failures",
        (
            Panel(
                "Attempts without a result",
                "Attempts a second, by verdict.",
                [("{{verdict}}", _rate("sfr_attempts_total", "verdict", ',verdict!="result"'))],
                "reqps",
                is_stacked=True,
                width=6,
            ),
            Panel(
                "Retries by cause",
                "Retries a second, by the verdict of the attempt before.",
                [("{{cause}}", _rate("sfr_retries_total", "cause"))],
                "reqps",
                is_stacked=True,
                width=6,
            ),
            Panel(
                "Retry budget",
                "How many retries the fleet may make at once, and how many a second are refused.",
                [
                    ("left", _fleet("sfr_retry_budget")),
                    ("refused", f"sum(rate(sfr_retries_refused_total{{{ROUTERS}}}[$__rate_interval]))"),
                ],
                width=6,
            ),
            Panel(
                "Answers cut",
                "Large answers that broke off after their clients had a part of them.",
                [("cut", f"sum(rate(sfr_answers_cut_total{{{ROUTERS}}}[$__rate_interval]))")],
                "reqps",
                width=6,
            ),
        ),
    ),
    Row(
        "Workers",
        (
            Panel(
                "Workers out",
                "Workers that fail their checks, are ejected by the breaker, or are drained.",
                [
                    ("unhealthy", f"count({_worker('sfr_worker_up')} == 0) or vector(0)"),
                    ("ejected", f"sum({_worker('sfr_worker_ejected')})"),
                    ("draining", f"sum({_worker('sfr_worker_draining')})"),
                ],
                width=6,
            ),
            Panel(f"The {MOST} fullest", "Leases by cap.", _most(_LOAD), "percentunit", width=6, link=_WORKER),
            Panel(f"The {MOST} slowest", "Mean time of an attempt.", _most(_MEAN_TIME), "s", width=6, link=_WORKER),
            Panel(
                f"The {MOST} that fail most",
                "The share of attempts without a result.",
                _most(_FAILED_SHARE),
                "percentunit",
                width=6,
                link=_WORKER,
            ),
            Panel(
                "Each worker",
                "The chosen workers, as they are now.",
                [
                    ("Up", _worker("sfr_worker_up")),
                    ("Draining", _worker("sfr_worker_draining")),
                    ("Ejected", _worker("sfr_worker_ejected")),
                    ("Running", _worker("sfr_worker_leases")),
                    ("Cap", _worker("sfr_worker_cap")),
                    ("Full", _LOAD),
                    ("Jobs/s", _worker_rate("sfr_worker_jobs_total")),
                    ("Failed", _FAILED_SHARE),
                    ("Mean time", _MEAN_TIME),
                ],
                kind="table",
                columns=_COLUMNS,
                width=24,
                link=_ROW,
            ),
        ),
    ),
    Row(
        "Redis and sidecar",
        (
            Panel("Redis' answer", "Calls of the scheduler.", _quantiles("sfr_redis_duration_seconds"), "s", width=6),
            Panel(
                "Redis' failures",
                "Calls that Redis did not answer in time.",
                [("{{instance}}", _rate("sfr_redis_failures_total", "instance"))],
                "reqps",
                width=6,
            ),
            Panel(
                "Router processes",
                "All router processes, and those that give leases by themselves.",
                [
                    ("all", f"sum(sfr_processes{{{ROUTERS}}})"),
                    ("without Redis", f"sum(sfr_processes_degraded{{{ROUTERS}}})"),
                ],
                width=6,
            ),
            Panel(
                "Sidecar's age",
                "As each router sees it.",
                [("{{instance}}", f"max by (instance) (sfr_sidecar_age_seconds{{{ROUTERS}}})")],
                "s",
                width=6,
            ),
        ),
    ),
)

VARIABLES = (
    Variable("namespace", "label_values(sfr_processes, namespace)"),
    Variable("job", 'label_values(sfr_processes{namespace=~"$namespace"}, job)'),
    Variable("router", f"label_values(sfr_processes{{{FLEET}}}, instance)"),
    Variable("tenant", f"label_values(sfr_tenant_jobs_total{{{FLEET}}}, tenant)"),
    Variable("worker", f"label_values(sfr_worker_up{{{FLEET}}}, worker)"),
)


def text() -> str:
    """Return the file's text."""
    own = Link("The router's own dashboard", _OWN)
    board = Board("sandboxfusion-router", "SandboxFusion Router", VARIABLES, ADDRESS, [own], ANNOTATIONS, ROWS)
    return json.dumps(dashboard(board), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
