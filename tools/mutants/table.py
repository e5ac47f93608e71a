"""Which modules decide, and which quick tests hold that. Tests of the whole system take too long to be asked."""

from pathlib import Path

_UNIT = "tests/unit/test_"
_SCHEDULER = ("scheduler", "exchange_jobs", "exchange_script")
_ROUTED = ("http", "large", "batch", "metrics", "traces", "bodies")  # the application, before scripted workers

TESTS: dict[str, tuple[str, ...]] = {
    "router/config/allowlist.py": ("access", "config"),
    "router/scheduling/breaker.py": ("breaker", *_SCHEDULER),
    "router/scheduling/retry_budget.py": ("verdicts", *_SCHEDULER),
    "router/policy/deadline.py": ("verdicts", "limits", *_ROUTED),
    "router/policy/endpoints.py": ("limits", "dispatch", "http"),
    "router/scheduling/local_scheduler.py": (*_SCHEDULER, "leases"),
    "router/auth/origin.py": ("pages",),
    "router/policy/client_timeouts.py": ("patience", "downstream"),
    "router/scheduling/plan.py": ("policy", *_SCHEDULER),
    "router/scheduling/quarantine.py": ("verdicts", *_SCHEDULER),
    "router/policy/request_head.py": ("patience", "downstream"),
    "router/scheduling/rests.py": _SCHEDULER,
    "router/policy/retry.py": ("verdicts", "dispatch"),
    "router/policy/retry_after.py": ("verdicts",),
    "router/scheduling/ring.py": ("policy", *_SCHEDULER),
    "router/policy/verdict.py": ("verdicts", "http", "large"),
    "router/scheduling/lua/scheduler.lua": ("exchange_script", "exchange_jobs", "scheduler"),
    "router/scheduling/failover.py": ("either_exchange", "leases", "dispatch"),
    "router/scheduling/leases.py": ("leases_calls", "leases", "dispatch", *_ROUTED),
    "router/jobs/last_answers.py": ("dispatch_steps",),
    "router/jobs/unanswered.py": ("unanswered",),
    "router/jobs/job.py": ("job", "dispatch_steps", "large"),
    "router/course.py": ("course", "dispatch_steps", "dispatch"),
    "router/jobs/dispatcher.py": ("dispatch_steps", "dispatch", *_ROUTED),
    "router/upstream/connection.py": ("wire", "upstream", "large", "differential", "tls"),
    "router/upstream/pool.py": ("upstream_pool", "upstream", "large", "tls", "dispatch", "reasons", "worker_auth"),
    "router/auth/access.py": ("access", "dashboard_door"),
    "router/config/addresses.py": ("addresses", "config"),
    "router/config/strict_yaml.py": ("config",),
    "router/api/admin.py": ("admin", "access"),
    "router/jobs/batch/handler.py": ("batch",),
    "router/jobs/batch/body.py": ("batch", "entries", "limits"),
    "router/cli/run/results_file.py": ("results", "cli_run"),
    "sidecar/checker.py": ("sidecar", "sidecar_lives"),
    "sidecar/job_probe.py": ("deep",),
    "sidecar/thresholds.py": ("judge",),
    "sidecar/controller.py": ("sidecar",),
    "sidecar/discovery.py": ("membership", "sidecar"),
    "sidecar/probe.py": ("probe", "worker_auth", "tls", "reasons"),
    "sidecar/rounds.py": ("sidecar_lives",),
    "sidecar/sources.py": ("membership",),
}


def tests_of(module: str) -> list[str]:
    """Return the files whose tests hold a module's decisions; its own doctests are among them."""
    files = [file for name in TESTS[module] if Path(file := f"{_UNIT}{name}.py").exists()]
    return [module, *files] if module.endswith(".py") else files
