"""The marks on Grafana's charts: what happened to workers, routers and Redis, seen in metrics that have changed."""

from tools.grafana_model import Annotation
from tools.grafana_series import FLEET, ROUTERS, WORKERS


def _turned(metric: str, before: int, after: int) -> str:
    series = f"{metric}{{{WORKERS}}}"
    now, then = f"max by (worker) ({series})", f"max by (worker) ({series} offset 1m)"
    return f"{now} == {after} and on (worker) {then} == {before}"


def _came(metric: str, by: str, labels: str) -> str:
    now, then = f"max by ({by}) ({metric}{{{labels}}})", f"max by ({by}) ({metric}{{{labels}}} offset 1m)"
    return f"{now} unless on ({by}) {then}"


def _went(metric: str, by: str, labels: str) -> str:
    now, then = f"max by ({by}) ({metric}{{{labels}}})", f"max by ({by}) ({metric}{{{labels}}} offset 1m)"
    return f"{then} unless on ({by}) {now}"


_DEGRADED = f"max by (instance) (sfr_processes_degraded{{{ROUTERS}}})"
_DEGRADED_THEN = f"max by (instance) (sfr_processes_degraded{{{ROUTERS}}} offset 1m)"
_BY_NAME = "worker_joined|worker_left|worker_healthy|worker_unhealthy|worker_ejected|worker_drained|router_started"
_OTHERS = f'max by (kind) (increase(sfr_events_total{{{FLEET},kind!~"{_BY_NAME}"}}[1m])) > 0'

# What `sfr events` tells: of workers and routers by their names, of all else by its kind.
ANNOTATIONS = (
    Annotation("Worker unhealthy", "{{worker}} is unhealthy", _turned("sfr_worker_up", 1, 0), "red"),
    Annotation("Worker healthy", "{{worker}} is healthy again", _turned("sfr_worker_up", 0, 1), "green"),
    Annotation("Worker ejected", "{{worker}} is ejected", _turned("sfr_worker_ejected", 0, 1), "orange"),
    Annotation("Worker drained", "{{worker}} is drained", _turned("sfr_worker_draining", 0, 1), "blue"),
    Annotation("Worker joined", "{{worker}} has joined", _came("sfr_worker_up", "worker", WORKERS), "purple"),
    Annotation("Worker left", "{{worker}} has left", _went("sfr_worker_up", "worker", WORKERS), "purple"),
    Annotation(
        "Router started", "{{instance}} has started", _came("sfr_processes", "instance", ROUTERS), "super-light-blue"
    ),
    Annotation(
        "Redis lost",
        "{{instance}} is without Redis",
        f"{_DEGRADED} > 0 and on (instance) {_DEGRADED_THEN} == 0",
        "dark-red",
    ),
    Annotation("Other events", "{{kind}}", _OTHERS, "yellow"),
)
