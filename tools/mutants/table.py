"""Which modules decide, and which quick tests hold that. Tests of the whole system take too long to be asked."""

from pathlib import Path

_UNIT = "tests/unit/test_"
_SCHEDULER = ("exchange_calls", "exchange_jobs", "exchange_script", "scheduler")
_DISPATCH = ("dispatch_steps", "dispatch_faults", "dispatch_told", "dispatch_waits", "dispatch")
_ROUTED = ("http", "large", "batch", "metrics", "traces", "bodies")  # the application, before scripted workers

TESTS: dict[str, tuple[str, ...]] = {
    "router/policy/allowed.py": ("access", "config"),
    "router/policy/breaker.py": ("breaker", *_SCHEDULER),
    "router/policy/budget.py": ("verdicts", *_SCHEDULER),
    "router/policy/deadline.py": ("verdicts", "limits"),
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
    "router/fleet/scheduler.lua": _SCHEDULER,
    "router/either_exchange.py": ("either_exchange", "leases", "dispatch"),
    "router/leases.py": ("leases_calls", "leases", "dispatch", *_ROUTED),
    "router/last_answers.py": ("dispatch_steps",),
    "router/unanswered.py": ("unanswered",),
    "router/job.py": ("job", "dispatch_steps", "large"),
    "router/course.py": ("course", "dispatch_steps", "dispatch"),
    "router/dispatch.py": (*_DISPATCH, *_ROUTED),
    "router/wire.py": ("wire", "upstream", "large", "differential", "tls"),
    "router/upstream.py": ("upstream_pool", "upstream", "large", "tls", "dispatch", "reasons", "worker_auth"),
    "router/access.py": ("access", "dashboard_door"),
    "router/addresses.py": ("addresses", "config"),
    "router/strict_yaml.py": ("config",),
    "router/admin.py": ("admin", "access"),
    "router/batch.py": ("batch_door",),
    "router/batch_body.py": ("batch_body",),
    "router/results.py": ("results", "cli_run"),
    "sidecar/checkup.py": ("sidecar", "sidecar_lives"),
    "sidecar/deep.py": ("deep",),
    "sidecar/judge.py": ("judge",),
    "sidecar/loop.py": ("sidecar",),
    "sidecar/membership.py": ("membership", "intents", "sidecar"),
    "sidecar/probe.py": ("probe", "worker_auth", "tls", "reasons"),
    "sidecar/rounds.py": ("sidecar_lives",),
    "sidecar/sources.py": ("membership",),
}


def tests_of(module: str) -> list[str]:
    """Return the files whose tests hold a module's decisions; its own doctests are among them."""
    files = [file for name in TESTS[module] if Path(file := f"{_UNIT}{name}.py").exists()]
    return [module, *files] if module.endswith(".py") else files
