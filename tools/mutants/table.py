"""Lists the modules that decide, and the quick tests of each. Tests of the whole system would take too long."""

_UNIT, _INTEGRATION = "tests/unit", "tests/integration"
_SCHEDULER = tuple(
    f"{_INTEGRATION}/test_scheduler_{name}"
    for name in ("calls", "events", "hedges", "jobs", "memory", "pools", "script", "tenants", "twin")
)
_LUA_PARTS = (
    *("arrivals", "breaker", "budget", "context", "head", "heartbeat", "hedges", "journal", "leases", "lines"),
    *("memory", "order", "plan", "pools", "quarantine", "queue", "reservations", "rests", "remembered", "reuse"),
    *("ring", "room", "scheduler", "selection", "serving", "sharing", "slow_start", "tenants", "turns"),
)
_DISPATCHER = tuple(
    f"{_UNIT}/jobs/test_{name}"
    for name in (
        "dispatcher",
        "dispatcher_faults",
        "dispatcher_told",
        "dispatcher_waits",
        "dispatcher_endings",
        "hooks",
    )
)
# Tests of the whole application with scripted workers.
_ROUTED = (
    *(f"{_UNIT}/downstream/test_http", f"{_UNIT}/upstream/test_large", f"{_UNIT}/jobs/test_batch"),
    *(f"{_UNIT}/telemetry/test_prometheus", f"{_UNIT}/jobs/test_tracing", f"{_UNIT}/jobs/test_body_budget"),
)

TESTS: dict[str, tuple[str, ...]] = {
    "router/api/admin.py": (f"{_UNIT}/api/test_admin", f"{_UNIT}/auth/test_access"),
    "router/api/fleet_admin.py": (f"{_UNIT}/api/test_admin",),
    "router/auth/access.py": (f"{_UNIT}/auth/test_access", f"{_UNIT}/dashboard/test_handler"),
    "router/auth/origin.py": (f"{_UNIT}/auth/test_origin",),
    "router/cli/doctor/findings.py": (f"{_UNIT}/cli/test_doctor",),
    "router/cli/run/results_file.py": (f"{_UNIT}/cli/test_results_file", f"{_UNIT}/cli/test_run_command"),
    "router/config/addresses.py": (f"{_UNIT}/config/test_addresses", f"{_UNIT}/config/test_config"),
    "router/config/allowlist.py": (f"{_UNIT}/config/test_allowlist", f"{_UNIT}/config/test_config"),
    "router/config/strict_yaml.py": (f"{_UNIT}/config/test_config",),
    "router/fleet/journal/failed_job.py": (f"{_UNIT}/fleet/journal/test_failures",),
    "router/fleet/journal/points.py": (f"{_UNIT}/fleet/journal/test_points", f"{_UNIT}/fleet/journal/test_history"),
    "router/fleet/journal/rates.py": (f"{_UNIT}/fleet/journal/test_rates", f"{_UNIT}/fleet/journal/test_points"),
    "router/fleet/lua_source.py": (f"{_UNIT}/fleet/test_lua_source",),
    "router/jobs/batch/body.py": (f"{_UNIT}/jobs/test_batch_body",),
    "router/jobs/batch/handler.py": (f"{_UNIT}/jobs/test_batch_handler",),
    "router/jobs/dispatcher.py": (*_DISPATCHER, *_ROUTED),
    "router/jobs/judging.py": (*_DISPATCHER, *_ROUTED),
    "router/jobs/sooner/hedging.py": (f"{_UNIT}/jobs/test_hedging",),
    "router/jobs/ending.py": (*_DISPATCHER, *_ROUTED),
    "router/jobs/job.py": (f"{_UNIT}/jobs/test_job", f"{_UNIT}/jobs/test_job_run", *_DISPATCHER),
    "router/jobs/answers.py": _DISPATCHER,
    "router/jobs/sooner/adoption.py": (f"{_UNIT}/jobs/test_adoption",),
    "router/jobs/sooner/left_runs.py": (f"{_UNIT}/jobs/test_adoption",),
    "router/jobs/streaming.py": (f"{_UNIT}/jobs/test_streaming", f"{_UNIT}/upstream/test_large"),
    "router/policy/client_timeouts.py": (f"{_UNIT}/policy/test_client_timeouts", f"{_UNIT}/downstream/test_downstream"),
    "router/policy/deadline.py": (f"{_UNIT}/policy/test_deadline",),
    "router/policy/endpoints.py": (f"{_UNIT}/policy/test_deadline", f"{_UNIT}/jobs/test_dispatcher_endings"),
    "router/policy/request_head.py": (f"{_UNIT}/policy/test_client_timeouts", f"{_UNIT}/downstream/test_downstream"),
    "router/policy/retry.py": (f"{_UNIT}/policy/test_retry", f"{_UNIT}/jobs/test_dispatcher"),
    "router/policy/retry_after.py": (f"{_UNIT}/policy/test_verdict",),
    "router/policy/scaling.py": (f"{_UNIT}/policy/test_scaling", f"{_UNIT}/telemetry/test_scaling"),
    "router/policy/verdict.py": (f"{_UNIT}/policy/test_verdict", f"{_UNIT}/upstream/test_large"),
    "router/scheduling/local/breaker.py": (f"{_UNIT}/scheduling/local/test_breaker", *_SCHEDULER),
    "router/scheduling/failover.py": (f"{_UNIT}/scheduling/test_failover", f"{_INTEGRATION}/test_leases"),
    "router/scheduling/leases.py": (f"{_UNIT}/scheduling/test_leases", f"{_INTEGRATION}/test_leases"),
    "router/scheduling/local/scheduler.py": _SCHEDULER,
    **dict.fromkeys((f"router/scheduling/lua/{part}.lua" for part in _LUA_PARTS), _SCHEDULER),
    "router/scheduling/local/plan.py": (f"{_UNIT}/scheduling/local/test_plan", *_SCHEDULER),
    "router/scheduling/local/memory.py": _SCHEDULER,
    "router/scheduling/local/pools.py": _SCHEDULER,
    "router/scheduling/local/sharing.py": _SCHEDULER,
    "router/scheduling/local/turns.py": _SCHEDULER,
    "router/scheduling/local/quarantine.py": (f"{_UNIT}/scheduling/local/test_quarantine", *_SCHEDULER),
    "router/scheduling/local/rests.py": _SCHEDULER,
    "router/scheduling/local/budget.py": (f"{_UNIT}/scheduling/local/test_budget", *_SCHEDULER),
    "router/scheduling/local/ring.py": (f"{_UNIT}/scheduling/local/test_ring", *_SCHEDULER),
    "router/upstream/connection.py": (
        *(f"{_UNIT}/upstream/test_{name}" for name in ("connection", "upstream", "large", "differential", "tls")),
    ),
    "router/upstream/pool.py": (
        *(f"{_UNIT}/upstream/test_{name}" for name in ("pool", "upstream", "large", "tls")),
        *(f"{_UNIT}/http/test_reasons", f"{_UNIT}/config/test_worker_auth"),
    ),
    "sidecar/checker.py": (
        f"{_UNIT}/sidecar/test_checker",
        f"{_UNIT}/sidecar/test_controller",
        f"{_UNIT}/sidecar/test_sidecar_lives",
    ),
    "sidecar/controller.py": (f"{_UNIT}/sidecar/test_controller",),
    "sidecar/discovery.py": (f"{_UNIT}/sidecar/test_discovery", f"{_UNIT}/fleet/test_intents"),
    "sidecar/job_probe.py": (f"{_UNIT}/sidecar/test_job_probe",),
    "sidecar/probe.py": (
        *(f"{_UNIT}/sidecar/test_probe", f"{_UNIT}/config/test_worker_auth", f"{_UNIT}/upstream/test_tls"),
        f"{_UNIT}/http/test_reasons",
    ),
    "sidecar/rounds.py": (f"{_UNIT}/sidecar/test_sidecar_lives",),
    "sidecar/sources.py": (f"{_UNIT}/sidecar/test_discovery",),
    "sidecar/thresholds.py": (f"{_UNIT}/sidecar/test_thresholds",),
}


def tests_of(module: str) -> list[str]:
    """Return the files with a module's tests. A Python module's own doctests are among them."""
    files = [f"{name}.py" for name in TESTS[module]]
    return [module, *files] if module.endswith(".py") else files
