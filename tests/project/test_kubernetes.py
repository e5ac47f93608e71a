"""The Kubernetes manifests are valid by Kubernetes' schemas and agree with the code and with each other."""

import json
import os
import re
import runpy
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from router.auth.admin_token import TOKEN_VARIABLE
from router.config.load import CONFIG_VARIABLE, DISCOVER_VARIABLE, REDIS_VARIABLE, load
from router.logs import LOG_FORMAT_VARIABLE
from router.policy.endpoints import SANDBOX_FUSION
from sidecar.alive import FILE_VARIABLE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
BASE = FOLDER / "base"
COMPONENTS = ("gvisor", "nonroot", "ingress")
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
        for name in kustomization(folder).get("resources", ()):
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
    checked = [each for each in objects(BASE, FOLDER / "monitored", FOLDER / "ingress") if each["kind"] not in CUSTOM]
    checked += yaml.safe_load_all((FOLDER / "gvisor" / "runtimeclass.yaml").read_text())
    for each in checked:
        kubernetes_validate.validate(each, version, strict=True)
    assert len(checked) >= 18


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


needs_kubectl = pytest.mark.skipif(kubectl_minor() < 22, reason="no kubectl of 1.22 or newer is installed")


def built(folder: Path) -> list[dict[str, Any]]:
    """Return the objects that `kubectl kustomize` makes, after a check by Kubernetes' schema."""
    said = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True).stdout
    made = list(yaml.safe_load_all(said))
    for each in made:
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
    return made


def by_name(made: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects by kind and name."""
    return {(each["kind"], each["metadata"]["name"]): each for each in made}


@needs_kubectl
def test_kubectl_builds_it() -> None:
    """The ConfigMap is mounted under its generated name, and each image has a tag."""
    made = built(FOLDER / "monitored")
    (config,) = (each["metadata"]["name"] for each in made if each["kind"] == "ConfigMap")
    text = yaml.safe_dump_all(made)
    assert text.count(f"name: {config}\n") == 3  # its own and the mounts of router and sidecar
    images = [line.split()[-1] for line in text.splitlines() if "image:" in line]
    assert images
    assert all(":" in image for image in images)


@needs_kubectl
def test_prefix_reaches_every_name() -> None:
    """With a namePrefix and a label of its own, routers still find Valkey and workers, and selectors their own pods."""
    made = by_name(built(FOLDER / "example"))
    assert all(name.startswith("blue-") for _, name in made)
    for part in ("router", "sidecar"):
        (container,) = made["Deployment", f"blue-{part}"]["spec"]["template"]["spec"]["containers"]
        env = {each["name"]: each.get("value", "") for each in container["env"]}
        assert ("Service", env["REDIS_HOST"]) in made
        assert "$(REDIS_HOST)" in env[REDIS_VARIABLE]
    assert env[DISCOVER_VARIABLE] == "$(WORKERS_SERVICE):8080"
    assert ("Service", env["WORKERS_SERVICE"]) in made
    assert made["HorizontalPodAutoscaler", "blue-router"]["spec"]["scaleTargetRef"]["name"] == "blue-router"
    paths = made["Ingress", "blue-router"]["spec"]["rules"][0]["http"]["paths"]
    assert {path["backend"]["service"]["name"] for path in paths} == {"blue-router"}
    selectors = json.dumps([each["spec"] for (kind, _), each in made.items() if kind == "NetworkPolicy"])
    assert selectors.count('"matchLabels"') == selectors.count('"app.kubernetes.io/instance": "blue"')


@needs_kubectl
def test_prefix_and_label_reach_what_operators_of_others_read(tmp_path: Path) -> None:
    """KEDA scales the Deployment of its own installation, and a monitor scrapes no other one's routers."""
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    folder = tmp_path / "kubernetes" / "mine"
    folder.mkdir()
    own = {"app.kubernetes.io/instance": "blue"}
    overlay = {
        "resources": ["../monitored"],
        "components": ["../autoscale/keda"],
        "namePrefix": "blue-",
        "labels": [{"pairs": own, "includeSelectors": True}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    made = by_name(list(yaml.safe_load_all(done.stdout)))
    target = made["ScaledObject", "blue-sandbox-worker"]["spec"]["scaleTargetRef"]["name"]
    assert ("Deployment", target) in made
    selector = made["ServiceMonitor", "blue-router"]["spec"]["selector"]["matchLabels"]
    assert selector == made["Service", "blue-router"]["spec"]["selector"]


@needs_kubectl
def test_components_change_the_workers(tmp_path: Path) -> None:
    """gVisor, another user and a digest can be chosen together, over the base."""
    digest = f"sha256:{'0' * 64}"
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    folder = tmp_path / "kubernetes" / "mine"
    folder.mkdir()
    overlay = {
        "resources": ["../base"],
        "components": [f"../{name}" for name in COMPONENTS],
        "images": [{"name": "volcengine/sandbox-fusion", "newName": "registry.example/worker", "digest": digest}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    worker = by_name(built(folder))["Deployment", "sandbox-worker"]["spec"]["template"]["spec"]
    assert worker["runtimeClassName"] == "gvisor"
    assert worker["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert worker["containers"][0]["image"] == f"registry.example/worker@{digest}"


def test_files_are_all_in_use() -> None:
    """Each file is named by its folder's kustomization; an admin applies gVisor's RuntimeClass once."""
    by_hand = {"gvisor": {"runtimeclass.yaml"}}
    for folder in ("base", "monitored", "example", *COMPONENTS):
        its = kustomization(FOLDER / folder)
        generated = {name for each in its.get("configMapGenerator", ()) for name in each["files"]}
        named = {name for name in its.get("resources", ()) if name.endswith(".yaml")} | set(
            its.get("configurations", ())
        )
        known = {"kustomization.yaml", *named, *generated, *by_hand.get(folder, ())}
        assert {path.name for path in (FOLDER / folder).iterdir()} == known


def environment(name: str) -> dict[str, str]:
    """Return a container's variables as Kubernetes puts them together, with a password from the Secret."""
    given = {"REDIS_PASSWORD": "secret"}
    for each in container(name)["env"]:
        if "value" in each:
            given[each["name"]] = re.sub(r"\$\((\w+)\)", lambda found: given[found[1]], each["value"])
    return given


def test_configuration_is_good_and_the_variables_name_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis and the workers have the addresses that routers and sidecars get, as Kubernetes puts them together."""
    for name in ("router", "sidecar"):
        given = environment(name)
        for variable in (REDIS_VARIABLE, DISCOVER_VARIABLE):
            monkeypatch.setenv(variable, given.get(variable, ""))
        settings = load(BASE / "config.yaml")
        redis = urlsplit(settings.redis.url)
        assert redis.password == "secret"
        assert one("Service", str(redis.hostname))["spec"]["ports"][0]["port"] == redis.port
    service, _, port = str(settings.discover.dns).partition(":")
    assert one("Service", service)["spec"]["clusterIP"] == "None"  # headless: each pod has its own address
    assert container("sandbox-worker")["ports"][0]["containerPort"] == int(port)


def test_password_is_in_no_file() -> None:
    """Valkey, routers and sidecars take one password from one Secret, and no file of ours makes that."""
    taken = [
        each["valueFrom"]["secretKeyRef"]
        for name in ("valkey", "router", "sidecar")
        for each in container(name)["env"]
        if each["name"].endswith("_PASSWORD")
    ]
    assert taken == [{"name": "valkey-auth", "key": "password"}] * 3
    assert container("valkey")["args"][-2:] == ["--requirepass", "$(VALKEY_PASSWORD)"]
    assert not [each for each in objects(BASE) if each["kind"] == "Secret"]


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
    put_together = {"REDIS_PASSWORD", "REDIS_HOST", "WORKERS_SERVICE"}
    read = {CONFIG_VARIABLE, REDIS_VARIABLE, DISCOVER_VARIABLE, LOG_FORMAT_VARIABLE, TOKEN_VARIABLE, FILE_VARIABLE}
    assert given.keys() <= {*read, *put_together, "WEB_CONCURRENCY"}
    mounts = {each["mountPath"]: each["name"] for each in container(name)["volumeMounts"]}
    assert mounts[str(Path(str(given[CONFIG_VARIABLE])).parent)] == "config"
    assert container(name)["securityContext"]["readOnlyRootFilesystem"]
    assert pod(name)["securityContext"]["runAsNonRoot"]


def test_sidecar_s_probe_looks_at_the_file_that_it_touches() -> None:
    """The file lies in a folder that can be written, and the probe allows it a minute and more."""
    sidecar = container("sidecar")
    (file,) = (each["value"] for each in sidecar["env"] if each["name"] == FILE_VARIABLE)
    assert str(Path(file).parent) in {each["mountPath"] for each in sidecar["volumeMounts"]}
    probe = sidecar["livenessProbe"]
    assert probe["exec"]["command"] == ["sh", "-c", f'test -n "$(find {file} -mmin -1)"']
    assert probe["failureThreshold"] >= 2


def test_sidecar_s_probe_tells_a_file_s_age(tmp_path: Path) -> None:
    """A file of now is good; an old one or none is not."""
    *shell, command = container("sidecar")["livenessProbe"]["exec"]["command"]
    file = tmp_path / "alive"

    def is_good() -> bool:
        argv = [*shell, command.replace("/tmp/alive", str(file))]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    assert not is_good()
    file.touch()
    assert is_good()
    os.utime(file, (now := time.time() - 120, now))
    assert not is_good()


def test_every_pod_gives_up_what_it_does_not_need() -> None:
    """No pod has a token, a capability, a way to more rights, or system calls beyond the runtime's default."""
    for name in deployments():
        spec, security = pod(name), container(name)["securityContext"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["allowPrivilegeEscalation"] is False
        assert spec["securityContext"].get("runAsNonRoot", name == "sandbox-worker")


def test_workers_are_spread_and_not_all_evicted_at_once() -> None:
    """They lie on different nodes if they can, and a node's maintenance leaves most of them."""
    (spread,) = pod("sandbox-worker")["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    budget = one("PodDisruptionBudget", "sandbox-worker")["spec"]
    assert budget["maxUnavailable"] == "25%"
    assert (
        budget["selector"]
        == one("Deployment", "sandbox-worker")["spec"]["selector"]
        == {"matchLabels": spread["labelSelector"]["matchLabels"]}
    )


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
    labels = [one("Deployment", name)["spec"]["template"]["metadata"]["labels"].items() for name in deployments()]

    def finds(selector: dict[str, str]) -> bool:
        return any(selector.items() <= each for each in labels)

    for each in objects(BASE):
        spec = each["spec"]
        if each["kind"] == "Service":
            assert finds(spec["selector"])
        if each["kind"] == "NetworkPolicy":
            assert finds(spec["podSelector"]["matchLabels"])
            ends = [end for rule in spec.get("ingress", ()) for end in rule.get("from", ())]
            ends += [end for rule in spec.get("egress", ()) for end in rule.get("to", ())]
            assert all(finds(end["podSelector"]["matchLabels"]) for end in ends)
    (monitor,) = (each for each in objects(FOLDER / "monitored") if each["kind"] == "ServiceMonitor")
    service = one("Service", "router")
    assert service["metadata"]["labels"] == monitor["spec"]["selector"]["matchLabels"]
    assert [each["name"] for each in service["spec"]["ports"]] == [
        each["port"] for each in monitor["spec"]["endpoints"]
    ]


def names(rules: list[dict[str, Any]], side: str) -> set[str]:
    """Return the names of the pods that some rules of a policy allow."""
    return {end["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for rule in rules for end in rule.get(side, ())}


def test_nothing_is_reached_but_what_is_named() -> None:
    """All pods are closed by default; routers and sidecars reach Valkey, workers and DNS, and those reach nobody."""
    closed = one("NetworkPolicy", "default-deny")["spec"]
    assert set(closed["policyTypes"]) == {"Ingress", "Egress"}
    assert not closed.keys() & {"ingress", "egress"}
    for name in deployments():
        assert one("Deployment", name)["spec"]["template"]["metadata"]["labels"].items() >= (
            closed["podSelector"]["matchLabels"].items()
        )
        policy = one("NetworkPolicy", name)["spec"]
        assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
        if name in {"valkey", "sandbox-worker"}:
            assert names(policy["ingress"], "from") == {"router", "sidecar"}
            assert "egress" not in policy
        else:
            assert names(policy["egress"], "to") == {"valkey", "sandbox-worker"}
            (dns,) = (rule for rule in policy["egress"] if "to" not in rule)
            assert {each["port"] for each in dns["ports"]} == {53}
    assert "ingress" not in one("NetworkPolicy", "sidecar")["spec"]


def test_ingress_shows_what_clients_need_and_no_more() -> None:
    """Each endpoint of SandboxFusion, tenants' URLs, /health and /v1/ping are there; /admin and the rest are not."""
    (ingress,) = objects(FOLDER / "ingress")
    shown = {path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]}
    assert shown == {*SANDBOX_FUSION, "/t", "/health", "/v1/ping"}


def test_ingress_waits_longer_than_a_job_takes() -> None:
    """It gives up on no job that a router still runs, and takes bodies that are larger than the router's limit."""
    (ingress,) = objects(FOLDER / "ingress")
    told = {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}
    settings = load(BASE / "config.yaml")
    assert int(told["proxy-read-timeout"]) > settings.timeout
    assert int(told["proxy-body-size"].removesuffix("m")) > settings.max_body_mb
