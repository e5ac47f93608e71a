"""The Dockerfile and the compose files agree with the code and with each other; they are read without Docker."""

import re
import runpy
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from router.cli import main
from router.config.load import CONFIG_VARIABLE, REDIS_VARIABLE, load
from router.config.settings import Settings
from router.fleet.keys import Keys
from router.logs import LOG_FORMAT_VARIABLE

ROOT = Path(__file__).parents[2]
BASE = "docker-compose.yml"
OVERLAY = "deploy/compose.local-workers.yml"
SANDBOXES = {"sandbox1", "sandbox2"}
# The services that run this project's own image.
OURS = {"sidecar", "router"}
VARIABLES = {CONFIG_VARIABLE, REDIS_VARIABLE, LOG_FORMAT_VARIABLE, "WEB_CONCURRENCY"}


def compose(name: str) -> Any:
    """Return a compose file as Docker reads it without variables, with each default in its place."""
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / name).read_text()))


def services(name: str) -> dict[str, Any]:
    """Return the services of a compose file."""
    found: dict[str, Any] = compose(name)["services"]
    return found


def merged(files: list[str]) -> dict[str, Any]:
    """Return the services of `docker compose -f … -f …`; a later file overrides only the keys that it has."""
    known: dict[str, Any] = {}
    for file in files:
        for name, service in services(file).items():
            known[name] = {**known.get(name, {}), **service}
    return known


def stop_order(known: dict[str, Any]) -> list[set[str]]:
    """Return the services in the order Docker stops them: each after all services that depend on it."""
    running = set(known)
    order = []
    while running:
        needed = {name for service in running for name in known[service].get("depends_on", ())}
        assert running - needed, f"a cycle among {running}"
        order.append(running - needed)
        running &= needed
    return order


def settings() -> Settings:
    """Return the settings in the image's config.yaml."""
    return load(ROOT / "config.yaml")


def gunicorn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return gunicorn's settings in the router's container."""
    for variable, value in services(BASE)["router"]["environment"].items():
        monkeypatch.setenv(variable, str(value))
    monkeypatch.setenv(CONFIG_VARIABLE, str(ROOT / "config.yaml"))
    return runpy.run_path(str(ROOT / "gunicorn.conf.py"))


def instructions(keyword: str) -> list[str]:
    """Return the arguments of each instruction `keyword` in the Dockerfile."""
    return re.findall(rf"^{keyword} (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def copied() -> set[str]:
    """Return the paths that the Dockerfile copies from the checkout."""
    copies = [line.split()[:-1] for line in instructions("COPY") if not line.startswith("--from")]
    return {source for sources in copies for source in sources}


def local_worker_options(service: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the CLI parses from a service's command. Raises click's UsageError, KeyError.

    The command is one that `sfr --help` shows: a hidden one is an old name that will go.
    """
    program, name, *arguments = service["command"]
    assert program == "sfr"
    command = typer.main.get_group(main.app).commands[name]
    assert not command.hidden
    return command.make_context(name, arguments).params


def seconds(duration: str) -> int:
    """Return the seconds of a compose duration such as `30s`."""
    return int(duration.removesuffix("s"))


def test_image_is_built_in_stages_on_one_choosable_base() -> None:
    """The last stage has the venv without build tools, and one base, by tag or by digest, is every stage's."""
    first, *others = instructions("FROM")
    base = "${PYTHON_IMAGE}${PYTHON_DIGEST:+@${PYTHON_DIGEST}}"
    assert first == f"{base} AS build"
    assert others == [base]
    assert instructions("ARG")[:2] == ["PYTHON_IMAGE=python:3.11-slim", "PYTHON_DIGEST"]


def test_image_says_what_it_is() -> None:
    """The labels have OCI's names, and each value that a build gives is declared in the last stage."""
    last = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', last))
    assert labels.keys() >= {"title", "version", "revision", "licenses", "base.name", "base.digest"}
    given = {name for value in labels.values() for name in re.findall(r"\$\{(\w+)\}", value)}
    assert given == {line.partition("=")[0] for line in re.findall(r"^ARG (.+)$", last, re.MULTILINE)}


def test_image_runs_as_a_number_other_than_root() -> None:
    """The image's user is a number, so Kubernetes' runAsNonRoot can check it."""
    (user,) = instructions("USER")
    assert [int(number) > 0 for number in user.split(":")] == [True, True]


def test_dockerignore_admits_exactly_the_copied_files() -> None:
    """Each copied file exists and reaches the build, and no other file of the checkout does."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in rules
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied()
    assert [source for source in copied() if not (ROOT / source).exists()] == []


def test_image_starts_gunicorn_on_the_port_that_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn.conf.py, the image, the published port and the health check name the same port."""
    assert yaml.safe_load(instructions("CMD")[0]) == ["gunicorn", "-c", "gunicorn.conf.py"]
    router = services(BASE)["router"]
    assert "command" not in router
    port = gunicorn(monkeypatch)["bind"].rpartition(":")[2]
    assert instructions("EXPOSE") == [port]
    assert router["ports"] == [f"127.0.0.1:8000:{port}"]  # others reach it only if they are meant to
    assert f'"http://127.0.0.1:{port}/v1/ping"' in router["healthcheck"]["test"][-1]


def test_router_has_four_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """WEB_CONCURRENCY reaches gunicorn.conf.py."""
    assert gunicorn(monkeypatch)["workers"] == 4


def test_router_has_time_to_finish_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker waits longer than gunicorn's graceful timeout, and that is longer than the longest job."""
    longest_job_s = settings().timeout  # the limit of a whole job with its queue and retries
    graceful_s = gunicorn(monkeypatch)["graceful_timeout"]
    assert seconds(services(BASE)["router"]["stop_grace_period"]) > graceful_s > longest_job_s


def test_sidecar_s_command_runs_an_existing_module() -> None:
    """The module of `python -m sidecar` exists."""
    assert services(BASE)["sidecar"]["command"] == ["python", "-m", "sidecar"]
    assert find_spec("sidecar.__main__")


def test_sidecar_s_health_check_reads_the_leader_s_key() -> None:
    """The health check reads the key that a leading sidecar renews, with config.yaml's prefix."""
    check = services(BASE)["sidecar"]["healthcheck"]["test"]
    key = Keys(settings().redis.prefix).sidecar
    assert check == f"sfr redis GET {key} | grep -q '^[0-9]'"
    assert "redis" in typer.main.get_group(main.app).commands


@pytest.mark.parametrize("name", sorted(OURS))
def test_environment_has_only_variables_that_the_code_reads(name: str) -> None:
    """No variable is misspelled, and all programs get Redis' URL and the configuration's path."""
    environment = services(BASE)[name]["environment"]
    assert environment.keys() <= VARIABLES
    assert environment.keys() >= {CONFIG_VARIABLE, REDIS_VARIABLE}


@pytest.mark.parametrize("name", sorted(OURS))
def test_configuration_is_read_from_a_mounted_folder(name: str) -> None:
    """ROUTER_CONFIG is in a mounted folder; a mount of the single file would miss most editors' changes."""
    service = services(BASE)[name]
    config = Path(service["environment"][CONFIG_VARIABLE])
    (source, target, mode) = next(volume.split(":") for volume in service["volumes"] if str(config.parent) in volume)
    assert mode == "ro"
    assert (ROOT / source).is_dir()
    assert (ROOT / source / config.relative_to(target)).samefile(ROOT / "config.yaml")


def test_configured_workers_are_the_sandboxes() -> None:
    """config.yaml's URLs name the sandbox services, at the port of their health checks."""
    urls = [worker.url for worker in settings().workers]
    assert {urlsplit(url).hostname for url in urls} == SANDBOXES
    for url in urls:
        parts = urlsplit(url)
        check = services(BASE)[str(parts.hostname)]["healthcheck"]["test"]
        assert check[-1] == f"http://127.0.0.1:{parts.port}{settings().health_check.path}"


@pytest.mark.parametrize("name", sorted(OURS))
def test_redis_url_names_redis_socket_in_a_shared_volume(name: str) -> None:
    """REDIS_URL is the socket that Redis makes in a volume of both, open to the programs' user."""
    service, redis = services(BASE)[name], services(BASE)["redis"]
    url = urlsplit(service["environment"][REDIS_VARIABLE])
    (volume,) = [mount.partition(":")[0] for mount in service["volumes"] if mount.endswith(f":{Path(url.path).parent}")]
    assert volume in compose(BASE)["volumes"]
    (folder,) = [mount.partition(":")[2] for mount in redis["volumes"] if mount.startswith(f"{volume}:")]
    options = dict(pairwise(redis["command"]))
    assert (url.scheme, redis["command"][0]) == ("unix", "redis-server")
    assert Path(options["--unixsocket"]) == Path(folder) / Path(url.path).name
    assert options["--unixsocketperm"] == "777"
    assert set(redis["networks"]) & set(service["networks"])


def test_redis_cannot_be_reached_by_jobs_or_from_outside() -> None:
    """Redis has no password, so it publishes no port and shares neither a network nor a volume with the sandboxes."""
    redis = services(BASE)["redis"]
    assert "ports" not in redis
    for name in SANDBOXES:
        assert "volumes" not in services(BASE)[name]
        assert not set(redis["networks"]) & set(services(BASE)[name]["networks"])


@pytest.mark.parametrize("name", sorted(OURS))
def test_programs_reach_the_sandboxes(name: str) -> None:
    """The router and the sidecar share a network with each sandbox."""
    for sandbox in SANDBOXES:
        assert set(services(BASE)[name]["networks"]) & set(services(BASE)[sandbox]["networks"])


def test_only_the_router_publishes_a_port() -> None:
    """All other services can be reached only from inside."""
    assert [name for name, service in services(BASE).items() if "ports" in service] == ["router"]
    assert not any("ports" in service for service in services(OVERLAY).values())


def test_every_service_has_a_health_check_and_restarts() -> None:
    """`docker compose ps` shows each service's health, and a service that ends is started again."""
    for service in services(BASE).values():
        assert service["healthcheck"]["test"]
        assert service["restart"] == "unless-stopped"


def test_dependencies_exist_and_only_redis_must_be_healthy() -> None:
    """Each depends_on names a service; the router also starts without workers, so only Redis must be healthy."""
    known = services(BASE)
    conditions = {
        name: waited["condition"]
        for service in known.values()
        for name, waited in service.get("depends_on", {}).items()
    }
    healthy = {name for name, condition in conditions.items() if condition == "service_healthy"}
    assert healthy == {"redis"}
    assert conditions.keys() <= known.keys()


@pytest.mark.parametrize("files", [[BASE], [BASE, OVERLAY]], ids=["the image", "local workers"])
def test_router_stops_before_the_services_its_jobs_need(files: list[str]) -> None:
    """Workers that stop at the same time as the router would kill its running jobs."""
    order = stop_order(merged(files))
    router = next(place for place, together in enumerate(order) if "router" in together)
    needed = SANDBOXES | {"sidecar", "redis"}
    assert {name for together in order[router + 1 :] for name in together} >= needed


@pytest.mark.parametrize("files", [[BASE], [BASE, OVERLAY]], ids=["the image", "local workers"])
def test_stopped_worker_has_time_to_finish_its_jobs(files: list[str]) -> None:
    """A stopped sandbox has as long as the longest job, instead of Docker's default of 10 s."""
    known = merged(files)
    for name in SANDBOXES:
        assert seconds(known[name]["stop_grace_period"]) > settings().timeout


def test_networks_in_use_are_declared() -> None:
    """Compose refuses a service in an undeclared network."""
    used = {network for service in services(BASE).values() for network in service["networks"]}
    assert used == compose(BASE)["networks"].keys()


def test_overlay_changes_only_the_sandboxes_image_and_command() -> None:
    """The overlay gives each sandbox another image and command, and adds no network, file or secret."""
    assert services(OVERLAY).keys() == SANDBOXES
    for service in services(OVERLAY).values():
        assert not service.keys() & {"networks", "volumes", "environment"}
        assert service["image"] == services(BASE)["router"]["image"]
        assert service["build"] == services(BASE)["router"]["build"]


def test_local_workers_serve_at_the_sandboxes_addresses() -> None:
    """A local worker listens on the network, at the port in config.yaml and in its own health check."""
    for worker in settings().workers:
        parts = urlsplit(worker.url)
        service = services(OVERLAY)[str(parts.hostname)]
        assert local_worker_options(service) == {"host": "0.0.0.0", "port": parts.port}
        assert f'"http://127.0.0.1:{parts.port}/v1/ping"' in service["healthcheck"]["test"][-1]


def test_page_names_every_variable() -> None:
    """docs/deployment-compose.md has each variable of the compose files with its default."""
    page = (ROOT / "docs" / "deployment-compose.md").read_text()
    shown = {
        name: default.strip("`").replace("none", "")
        for name, default in re.findall(r"^\| `(\w+)` \| (\S+) \|", page, re.MULTILINE)
    }
    text = "".join((ROOT / name).read_text() for name in (BASE, OVERLAY))
    assert shown == dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))


def test_build_s_default_base_is_the_dockerfile_s() -> None:
    """Compose passes the base to the build, with the same defaults as the Dockerfile's."""
    arguments = dict(argument.partition("=")[::2] for argument in instructions("ARG")[:2])
    for file in (BASE, OVERLAY):
        built = [service["build"] for service in services(file).values() if "build" in service]
        assert built
        assert all(
            build["context"] == "." and {name: value or "" for name, value in build["args"].items()} == arguments
            for build in built
        )
