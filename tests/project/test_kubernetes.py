"""The Kubernetes manifests are valid by Kubernetes' schemas and agree with the code and with each other."""

import json
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from router.auth.admin_token import TOKEN_VARIABLE
from router.config.load import CONFIG_VARIABLE, load
from router.logs import LOG_FORMAT_VARIABLE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
BASE = FOLDER / "base"
# The first version with policy/v1 and autoscaling/v2, and the newest version with a schema.
VERSIONS = ("1.25", kubernetes_validate.latest_version())
# These kinds are defined by Prometheus' operator, not by Kubernetes.
CUSTOM = {"ServiceMonitor", "PrometheusRule"}


def kustomization(folder: Path) -> Any:
    """Return a folder's kustomization."""
    return yaml.safe_load((folder / "kustomization.yaml").read_text())


def objects(*folders: Path) -> Iterator[dict[str, Any]]:
    """Yield all objects of the files that the folders' kustomizations name."""
    for folder in folders:
        for name in kustomization(folder)["resources"]:
            if name.endswith(".yaml"):
                yield from yaml.safe_load_all((folder / name).read_text())


def one(kind: str, name: str) -> dict[str, Any]:
    """Return the object with this kind and name."""
    (found,) = (each for each in objects(BASE) if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pod(name: str) -> dict[str, Any]:
    """Return the pod spec of a Deployment."""
    spec: dict[str, Any] = one("Deployment", name)["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    """Return the only container of a Deployment."""
    (only,) = pod(name)["containers"]
    found: dict[str, Any] = only
    return found


def deployments() -> list[str]:
    """Return the names of all Deployments."""
    return [each["metadata"]["name"] for each in objects(BASE) if each["kind"] == "Deployment"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_by_kubernetes_schema(version: str) -> None:
    """No object has an unknown field, a value of the wrong type or a missing field."""
    checked = [each for each in objects(BASE, FOLDER / "monitored") if each["kind"] not in CUSTOM]
    for each in checked:
        kubernetes_validate.validate(each, version, strict=True)
    assert len(checked) >= 12


def test_schema_finds_a_misspelled_field() -> None:
    """The schema's check is strict enough to find a misspelled field."""
    broken = one("Deployment", "router")
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def kubectl_minor() -> int:
    """Return n of kubectl 1.n, or 0 without kubectl; some vendors write n with a plus, such as "20+"."""
    if shutil.which("kubectl") is None:
        return 0
    said = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, check=True).stdout
    return int(json.loads(said)["clientVersion"]["minor"].rstrip("+"))


@pytest.mark.skipif(kubectl_minor() < 22, reason="no kubectl of 1.22 or newer is installed")
def test_kubectl_builds_it() -> None:
    """The output of `kubectl kustomize` is valid too, and its ConfigMap is mounted under its generated name."""
    built = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / "monitored")], capture_output=True, text=True, check=True
    )
    sent = list(yaml.safe_load_all(built.stdout))
    for each in sent:
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
    (config,) = (each["metadata"]["name"] for each in sent if each["kind"] == "ConfigMap")
    assert built.stdout.count(f"name: {config}\n") == 3  # its own and the mounts of router and sidecar
    images = [line.split()[1] for line in built.stdout.splitlines() if line.lstrip().startswith("image:")]
    assert all(":" in image for image in images)


def test_files_are_all_in_use() -> None:
    """Each file is named by its folder's kustomization."""
    for folder in (BASE, FOLDER / "monitored"):
        generated = [name for each in kustomization(folder).get("configMapGenerator", ()) for name in each["files"]]
        named = {name for name in kustomization(folder)["resources"] if name.endswith(".yaml")}
        assert {path.name for path in folder.iterdir()} == {"kustomization.yaml", *named, *generated}


def test_configuration_is_good_and_names_the_services() -> None:
    """Redis and the workers have the addresses that config.yaml names."""
    settings = load(BASE / "config.yaml")
    redis = urlsplit(settings.redis.url)
    assert one("Service", str(redis.hostname))["spec"]["ports"][0]["port"] == redis.port
    name, _, port = str(settings.discover.dns).partition(":")
    workers = one("Service", name)["spec"]
    assert workers["clusterIP"] == "None"  # headless: each pod has its own address
    assert container("sandbox-worker")["ports"][0]["containerPort"] == int(port)


def test_worker_has_a_core_for_each_of_its_jobs() -> None:
    """The cap equals the container's cores, because with more jobs than cores good code exceeds its time limit."""
    cores = container("sandbox-worker")["resources"]
    assert int(cores["requests"]["cpu"]) == int(cores["limits"]["cpu"])
    assert load(BASE / "config.yaml").default_max_concurrency == int(cores["limits"]["cpu"])


def test_router_has_time_to_finish_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes waits longer than the preStop hook and gunicorn's graceful timeout together."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(BASE / "config.yaml"))
    graceful_s = runpy.run_path(str(ROOT / "gunicorn.conf.py"))["graceful_timeout"]
    _, stop_s = container("router")["lifecycle"]["preStop"]["exec"]["command"]
    assert pod("router")["terminationGracePeriodSeconds"] > int(stop_s) + graceful_s


def test_probes_ask_the_router_s_own_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes use gunicorn's port and ask whether the router, not its workers, is alive."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(BASE / "config.yaml"))
    (port,) = container("router")["ports"]
    assert runpy.run_path(str(ROOT / "gunicorn.conf.py"))["bind"].endswith(f":{port['containerPort']}")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container("router")[probe]["httpGet"] == {"path": "/v1/ping", "port": port["name"]}


@pytest.mark.parametrize("name", ["router", "sidecar"])
def test_environment_and_mounts_match_the_code(name: str) -> None:
    """No variable is misspelled, the configuration is in a mounted folder, and the root file system is read-only."""
    given = {each["name"]: each.get("value") for each in container(name)["env"]}
    assert given.keys() <= {CONFIG_VARIABLE, LOG_FORMAT_VARIABLE, TOKEN_VARIABLE, "WEB_CONCURRENCY"}
    mounts = {each["mountPath"]: each["name"] for each in container(name)["volumeMounts"]}
    assert mounts[str(Path(str(given[CONFIG_VARIABLE])).parent)] == "config"
    assert container(name)["securityContext"]["readOnlyRootFilesystem"]
    assert pod(name)["securityContext"]["runAsNonRoot"]


def test_router_and_sidecar_have_two_pods() -> None:
    """One pod may end without an outage, and a node's maintenance evicts only one at a time."""
    assert one("HorizontalPodAutoscaler", "router")["spec"]["minReplicas"] == 2
    assert "replicas" not in one("Deployment", "router")["spec"]
    assert one("Deployment", "sidecar")["spec"]["replicas"] == 2
    for name in ("router", "sidecar"):
        budget = one("PodDisruptionBudget", name)["spec"]
        assert (budget["maxUnavailable"], budget["selector"]) == (1, one("Deployment", name)["spec"]["selector"])


def test_selectors_find_their_pods() -> None:
    """The labels in each Service, policy and monitor exist on their target."""
    labels = [one("Deployment", name)["spec"]["template"]["metadata"]["labels"] for name in deployments()]
    for each in objects(BASE):
        spec = each["spec"]
        if each["kind"] == "Service":
            assert spec["selector"] in labels
        if each["kind"] == "NetworkPolicy":
            assert spec["podSelector"]["matchLabels"] in labels
            (allowed,) = spec["ingress"][0]["from"][0]["podSelector"]["matchExpressions"]
            assert all({allowed["key"]: value} in labels for value in allowed["values"])
    (monitor,) = (each for each in objects(FOLDER / "monitored") if each["kind"] == "ServiceMonitor")
    service = one("Service", "router")
    assert service["metadata"]["labels"] == monitor["spec"]["selector"]["matchLabels"]
    assert [each["name"] for each in service["spec"]["ports"]] == [
        each["port"] for each in monitor["spec"]["endpoints"]
    ]


def test_only_routers_and_sidecars_reach_valkey_and_workers() -> None:
    """Valkey has no password, and workers run foreign code, so both are closed to others and have no egress."""
    for name in ("valkey", "sandbox-worker"):
        policy = one("NetworkPolicy", name)["spec"]
        (allowed,) = policy["ingress"][0]["from"][0]["podSelector"]["matchExpressions"]
        assert allowed["values"] == ["router", "sidecar"]
        assert "Egress" in policy["policyTypes"]
        assert "egress" not in policy
    assert pod("sandbox-worker")["automountServiceAccountToken"] is False
