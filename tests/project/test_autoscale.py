"""The manifests that scale workers are valid, and agree with the code, with each other and with the base."""

import os
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from router.api.schemas import FleetNeeds
from router.auth.admin_token import TOKEN_VARIABLE
from router.cli.main import app
from router.config.load import DISCOVER_VARIABLE, REDIS_VARIABLE, load
from tests.project.test_kubernetes import kubectl_minor

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
AUTOSCALE = FOLDER / "autoscale"
PATCH = next(yaml.safe_load_all((AUTOSCALE / "agents" / "workers.yaml").read_text()))["spec"]["template"]["spec"]
SANDBOX, AGENT = PATCH["containers"]
OPTIONS = dict(each.removeprefix("--").split("=", 1) for each in AGENT["args"])


def built(tmp_path: Path, way: str) -> list[dict[str, Any]]:
    """Return the objects that kubectl makes of an overlay with the base and one way of scaling."""
    overlay = tmp_path / "kustomization.yaml"
    base, component = (os.path.relpath(each, tmp_path) for each in (FOLDER / "base", AUTOSCALE / way))
    overlay.write_text(yaml.safe_dump({"resources": [base], "components": [component], "namespace": "sandbox"}))
    done = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.skipif(kubectl_minor() < 22, reason="no kubectl of 1.22 or newer is installed")
@pytest.mark.parametrize(("way", "kind"), [("keda", "ScaledObject"), ("hpa", "HorizontalPodAutoscaler")])
def test_overlay_gives_each_worker_an_agent_and_one_autoscaler(tmp_path: Path, way: str, kind: str) -> None:
    """All objects are valid, the number of pods is the autoscaler's to say, and the router allows agents."""
    objects = built(tmp_path, way)
    for each in objects:
        if each["kind"] != "ScaledObject":
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    (workers,) = (
        each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"] == "sandbox-worker"
    )
    assert "replicas" not in workers["spec"]
    containers = {each["name"]: each for each in workers["spec"]["template"]["spec"]["containers"]}
    assert containers["sandbox"]["resources"]["limits"]["cpu"] == OPTIONS["max-concurrency"]
    (router,) = (each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"] == "router")
    assert containers["agent"]["image"] == router["spec"]["template"]["spec"]["containers"][0]["image"]
    (sidecar,) = (each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"] == "sidecar")
    env = {each["name"] for each in sidecar["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert REDIS_VARIABLE in env
    assert DISCOVER_VARIABLE not in env  # agents say which workers there are
    (config,) = (each for each in objects if each["kind"] == "ConfigMap")
    (tmp_path / "config.yaml").write_text(config["data"]["config.yaml"])
    settings = load(tmp_path / "config.yaml")
    assert settings.admin.allowed_workers
    assert settings.default_max_concurrency == int(OPTIONS["max-concurrency"])
    targets = [each["spec"]["scaleTargetRef"]["name"] for each in objects if each["kind"] == kind]
    assert "sandbox-worker" in targets


def test_each_file_is_in_use() -> None:
    """Each file is named by its folder's component."""
    for folder in AUTOSCALE.iterdir():
        component = yaml.safe_load((folder / "kustomization.yaml").read_text())
        named = {*component.get("resources", ()), *(each["path"] for each in component.get("patches", ()))}
        named |= set(component.get("configurations", ()))
        named |= {name for each in component.get("configMapGenerator", ()) for name in each["files"]}
        assert {path.name for path in folder.iterdir()} == {"kustomization.yaml", *named}


def test_pod_lives_until_the_longest_job_has_ended() -> None:
    """The agent waits for longer than a job may take, and Kubernetes for longer than the agent."""
    timeout_s = load(AUTOSCALE / "agents" / "config.yaml").timeout
    assert timeout_s < int(OPTIONS["grace"]) < PATCH["terminationGracePeriodSeconds"]


def test_agent_s_options_are_the_command_s_and_only_the_agent_has_the_token() -> None:
    """The worker's code can neither read the token nor take away the mark for which its preStop hook waits."""
    assert AGENT["command"][-1] == "agent"
    known = {option for param in _agent_s_params() for option in param.opts}
    assert {f"--{name}" for name in OPTIONS} <= known
    assert [each["name"] for each in AGENT["env"] if "secretKeyRef" in each.get("valueFrom", {})] == [TOKEN_VARIABLE]
    assert "env" not in SANDBOX
    (mount,) = SANDBOX["volumeMounts"]
    assert mount["readOnly"]
    assert f"{mount['mountPath']}/in-fleet" == OPTIONS["mark"]
    assert OPTIONS["mark"] in SANDBOX["lifecycle"]["preStop"]["exec"]["command"][-1]


def _agent_s_params() -> list[Any]:
    group: Any = typer.main.get_command(app)
    params: list[Any] = group.commands["agent"].params
    return params


def test_autoscalers_read_what_the_router_tells() -> None:
    """KEDA's field is one of the API's, and a worker is asked for fewer slots than it has."""
    (trigger,) = yaml.safe_load((AUTOSCALE / "keda" / "scaledobject.yaml").read_text())["spec"]["triggers"]
    assert trigger["metadata"]["url"].endswith("/admin/scaling")
    assert trigger["metadata"]["valueLocation"] in FleetNeeds.model_fields
    hpa = yaml.safe_load((AUTOSCALE / "hpa" / "hpa.yaml").read_text())
    target = hpa["spec"]["metrics"][0]["external"]["target"]["averageValue"]
    assert trigger["metadata"]["targetValue"] == target
    assert int(target) <= int(OPTIONS["max-concurrency"])
