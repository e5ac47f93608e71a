"""The image and the compose files agree with the code and with each other; read as text, without Docker."""

import re
import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from router.cli import main
from router.config.load import CONFIG_VARIABLE, REDIS_VARIABLE, load
from router.config.settings import Settings
from router.fleet.schema import Keys
from router.logs import LOG_FORMAT_VARIABLE

ROOT = Path(__file__).parents[2]
BASE = "docker-compose.yml"
OVERLAY = "deploy/compose.local-workers.yml"
SANDBOXES = {"sandbox1", "sandbox2"}
# What this project's own image is run as.
OURS = {"sidecar", "router"}
VARIABLES = {CONFIG_VARIABLE, REDIS_VARIABLE, LOG_FORMAT_VARIABLE, "WEB_CONCURRENCY"}


def compose(name: str) -> Any:
    """Return a compose file as Docker reads it where no variable is set: each at the default that stands beside it."""
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / name).read_text()))


def services(name: str) -> dict[str, Any]:
    """Return a compose file's services."""
    found: dict[str, Any] = compose(name)["services"]
    return found


def merged(files: list[str]) -> dict[str, Any]:
    """Return the services of `docker compose -f … -f …`: what a later file does not say of one stays."""
    known: dict[str, Any] = {}
    for file in files:
        for name, service in services(file).items():
            known[name] = {**known.get(name, {}), **service}
    return known


def stop_order(known: dict[str, Any]) -> list[set[str]]:
    """Return the services as Docker stops them: at each step those on which none depends that still runs."""
    running = set(known)
    order = []
    while running:
        needed = {name for service in running for name in known[service].get("depends_on", ())}
        assert running - needed, f"a circle among {running}"
        order.append(running - needed)
        running &= needed
    return order


def settings() -> Settings:
    """Return what the config.yaml in the image says."""
    return load(ROOT / "config.yaml")


def gunicorn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return gunicorn's settings in the router's container."""
    for variable, value in services(BASE)["router"]["environment"].items():
        monkeypatch.setenv(variable, str(value))
    monkeypatch.setenv(CONFIG_VARIABLE, str(ROOT / "config.yaml"))
    return runpy.run_path(str(ROOT / "gunicorn.conf.py"))


def instructions(keyword: str) -> list[str]:
    """Return the arguments of each `keyword` in the Dockerfile."""
    return re.findall(rf"^{keyword} (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def copied() -> set[str]:
    """Return what the Dockerfile copies from the checkout."""
    copies = [line.split()[:-1] for line in instructions("COPY") if not line.startswith("--from")]
    return {source for sources in copies for source in sources}


def local_worker_options(service: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the CLI reads from a service's command. Raises click's UsageError, KeyError."""
    program, name, *arguments = service["command"]
    assert program == "sfr"
    group = typer.main.get_group(main.app)
    return group.commands[name].make_context(name, arguments).params


def seconds(duration: str) -> int:
    """Return a compose duration that is written in seconds."""
    return int(duration.removesuffix("s"))


def test_image_is_built_in_stages_on_one_choosable_base() -> None:
    """The last stage gets the venv but no build tools; PYTHON_IMAGE is the base of all stages, and has a default."""
    first, *others = instructions("FROM")
    assert first.startswith("${PYTHON_IMAGE} AS ")
    assert others == ["${PYTHON_IMAGE}"]
    assert instructions("ARG") == ["PYTHON_IMAGE=python:3.11-slim"]


def test_image_runs_as_a_number_other_than_root() -> None:
    """Kubernetes' runAsNonRoot can check the user of the image."""
    (user,) = instructions("USER")
    assert [int(number) > 0 for number in user.split(":")] == [True, True]


def test_image_is_made_of_what_dockerignore_lets_through() -> None:
    """Each file that is copied exists and reaches the build, and no other file of the checkout does."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in rules
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied()
    assert [source for source in copied() if not (ROOT / source).exists()] == []


def test_image_starts_gunicorn_on_the_port_that_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn.conf.py's port is the image's, the one behind the published port, and the one that is checked."""
    assert yaml.safe_load(instructions("CMD")[0]) == ["gunicorn", "-c", "gunicorn.conf.py"]
    router = services(BASE)["router"]
    assert "command" not in router
    port = gunicorn(monkeypatch)["bind"].rpartition(":")[2]
    assert instructions("EXPOSE") == [port]
    assert router["ports"] == [f"8000:{port}"]
    assert f'"http://127.0.0.1:{port}/v1/ping"' in router["healthcheck"]["test"][-1]


def test_router_has_four_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """WEB_CONCURRENCY reaches gunicorn.conf.py."""
    assert gunicorn(monkeypatch)["workers"] == 4


def test_router_is_given_the_time_to_finish_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker kills no gunicorn that waits for its workers, nor gunicorn one that has a job yet."""
    longest_job_s = settings().timeout  # the ceiling on a whole job, queue and retries included
    graceful_s = gunicorn(monkeypatch)["graceful_timeout"]
    assert seconds(services(BASE)["router"]["stop_grace_period"]) > graceful_s > longest_job_s


def test_sidecar_s_command_is_a_module() -> None:
    """`python -m sidecar` can be run."""
    assert services(BASE)["sidecar"]["command"] == ["python", "-m", "sidecar"]
    assert find_spec("sidecar.__main__")


def test_sidecar_is_checked_by_the_lead_it_holds() -> None:
    """The health check asks for the key that a leading sidecar renews, under config.yaml's prefix."""
    check = services(BASE)["sidecar"]["healthcheck"]["test"]
    key = Keys(settings().redis.prefix).sidecar
    assert check == f"sfr redis GET {key} | grep -q '^[0-9]'"
    assert "redis" in typer.main.get_group(main.app).commands


@pytest.mark.parametrize("name", sorted(OURS))
def test_environment_holds_what_the_code_reads(name: str) -> None:
    """No variable is misspelled, and all programs share one Redis and one configuration."""
    environment = services(BASE)[name]["environment"]
    assert environment.keys() <= VARIABLES
    assert environment.keys() >= {CONFIG_VARIABLE, REDIS_VARIABLE}


@pytest.mark.parametrize("name", sorted(OURS))
def test_configuration_is_read_from_a_mounted_folder(name: str) -> None:
    """ROUTER_CONFIG lies in a folder of the checkout, read-only; a single file would miss most editors' changes."""
    service = services(BASE)[name]
    ((source, target, mode),) = [volume.split(":") for volume in service["volumes"]]
    config = Path(service["environment"][CONFIG_VARIABLE])
    assert mode == "ro"
    assert (ROOT / source).is_dir()
    assert (ROOT / source / config.relative_to(target)).samefile(ROOT / "config.yaml")


def test_configured_workers_are_the_sandboxes() -> None:
    """config.yaml's URLs name the sandbox services, at the port where their health is checked."""
    urls = [worker.url for worker in settings().workers]
    assert {urlsplit(url).hostname for url in urls} == SANDBOXES
    for url in urls:
        parts = urlsplit(url)
        check = services(BASE)[str(parts.hostname)]["healthcheck"]["test"]
        assert check[-1] == f"http://127.0.0.1:{parts.port}{settings().health_check.path}"


@pytest.mark.parametrize("name", sorted(OURS))
def test_redis_is_where_the_programs_look(name: str) -> None:
    """REDIS_URL names a service that shares a network with the program."""
    service = services(BASE)[name]
    redis = services(BASE)[str(urlsplit(service["environment"][REDIS_VARIABLE]).hostname)]
    assert redis["command"][0] == "redis-server"
    assert set(redis["networks"]) & set(service["networks"])


def test_redis_cannot_be_reached_by_jobs_or_from_outside() -> None:
    """Redis asks for no password: it publishes no port, and shares no network with strangers' code."""
    redis = services(BASE)["redis"]
    assert "ports" not in redis
    for name in SANDBOXES:
        assert not set(redis["networks"]) & set(services(BASE)[name]["networks"])


@pytest.mark.parametrize("name", sorted(OURS))
def test_programs_reach_the_sandboxes(name: str) -> None:
    """The router and the sidecar share a network with each worker."""
    for sandbox in SANDBOXES:
        assert set(services(BASE)[name]["networks"]) & set(services(BASE)[sandbox]["networks"])


def test_router_alone_publishes_a_port() -> None:
    """All else is reached inside only."""
    assert [name for name, service in services(BASE).items() if "ports" in service] == ["router"]
    assert not any("ports" in service for service in services(OVERLAY).values())


def test_every_service_is_checked_and_started_again() -> None:
    """`docker compose ps` tells of each service how it is; one that ends comes back."""
    for service in services(BASE).values():
        assert service["healthcheck"]["test"]
        assert service["restart"] == "unless-stopped"


def test_what_is_waited_for_exists() -> None:
    """Each depends_on names a service; Redis alone has to be healthy, for without workers the router starts, too."""
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
def test_stopping_ends_the_router_before_what_its_jobs_need(files: list[str]) -> None:
    """`docker compose stop` killed running jobs: the workers stopped at the same time as the router."""
    order = stop_order(merged(files))
    router = next(place for place, together in enumerate(order) if "router" in together)
    needed = SANDBOXES | {"sidecar", "redis"}
    assert {name for together in order[router + 1 :] for name in together} >= needed


@pytest.mark.parametrize("files", [[BASE], [BASE, OVERLAY]], ids=["the image", "local workers"])
def test_stopped_worker_may_finish_its_jobs(files: list[str]) -> None:
    """`docker compose stop sandbox1` gives it as long as the longest job; Docker's own is 10 s."""
    known = merged(files)
    for name in SANDBOXES:
        assert seconds(known[name]["stop_grace_period"]) > settings().timeout


def test_networks_in_use_are_declared() -> None:
    """Compose refuses a service in an unknown network."""
    used = {network for service in services(BASE).values() for network in service["networks"]}
    assert used == compose(BASE)["networks"].keys()


def test_overlay_replaces_the_sandboxes_and_nothing_else() -> None:
    """Each sandbox gets another image and command, and neither network, file nor secret that the base does not give."""
    assert services(OVERLAY).keys() == SANDBOXES
    for service in services(OVERLAY).values():
        assert not service.keys() & {"networks", "volumes", "environment"}
        assert service["image"] == services(BASE)["router"]["image"]
        assert service["build"] == services(BASE)["router"]["build"]


def test_local_workers_serve_where_the_sandboxes_do() -> None:
    """A local worker listens to the network, on the port that config.yaml and its own health check name."""
    for worker in settings().workers:
        parts = urlsplit(worker.url)
        service = services(OVERLAY)[str(parts.hostname)]
        assert local_worker_options(service) == {"host": "0.0.0.0", "port": parts.port}
        assert f'"http://127.0.0.1:{parts.port}/v1/ping"' in service["healthcheck"]["test"][-1]


def test_page_names_what_the_environment_sets() -> None:
    """docs/deployment-compose.md has each variable that the compose files read, with its default."""
    page = (ROOT / "docs" / "deployment-compose.md").read_text()
    shown = {name: default.strip("`") for name, default in re.findall(r"^\| `(\w+)` \| (\S+) \|", page, re.MULTILINE)}
    text = "".join((ROOT / name).read_text() for name in (BASE, OVERLAY))
    assert shown == dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))


def test_build_s_default_base_is_the_dockerfile_s() -> None:
    """Compose passes PYTHON_IMAGE on; where it is not set, both files mean the same image."""
    (argument,) = instructions("ARG")
    name, _, image = argument.partition("=")
    for file in (BASE, OVERLAY):
        built = [service["build"] for service in services(file).values() if "build" in service]
        assert built
        assert all(build == {"context": ".", "args": {name: image}} for build in built)
