"""The Helm chart renders valid objects, which say the same as the kustomize files.

Helm itself is not needed: tests/support/helm.py renders the few constructs that the templates use. Where it is
installed, the two renderings are compared.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.project.test_kubernetes import BASE, CUSTOM, FOLDER, VERSIONS, kustomization, objects
from tests.support.helm import CHART, CannotRender, render, rendered
from tests.support.programs import program

RELEASE = "rel"
DIGEST = f"sha256:{'0' * 64}"
ALL_ON = {
    "images": {"router": {"digest": DIGEST}},
    "imagePullSecrets": [{"name": "registry"}],
    "router": {"extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}]},
    "valkey": {"enabled": False},
    "redis": {"urlSecret": "redis-url"},
    "workers": {"runtimeClassName": "gvisor", "extraEnv": [{"name": "HOME", "value": "/tmp"}]},
    "networkPolicy": {"extraEgress": [{"ports": [{"port": 4318}]}]},
    "ingress": {"enabled": True, "host": "sandbox.example.com"},
    "monitoring": {"enabled": True, "docsUrl": "https://docs.example", "labels": {"release": "prometheus"}},
}
SHOWN = {"ingress": {"enabled": True, "host": "sandbox.example.com"}, "monitoring": {"enabled": True}}


def substance(value: Any) -> Any:
    """Return an object without what differs on purpose: the release's prefix and labels, the checksum."""
    if isinstance(value, dict):
        own = {"app.kubernetes.io/instance", "app.kubernetes.io/part-of", "checksum/config"}
        kept = {key: substance(each) for key, each in value.items() if key not in own}
        return {key: each for key, each in kept.items() if (key, each) != ("annotations", {})}
    if isinstance(value, list):
        return [substance(each) for each in value]
    return value.removeprefix(f"{RELEASE}-") if isinstance(value, str) else value


def by_name(found: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """Return the objects without what differs on purpose, by kind and name."""
    return {(each["kind"], each["metadata"]["name"]): each for each in map(substance, found)}


def kustomized() -> list[dict[str, Any]]:
    """Return the objects of the kustomize files, with the images and the ConfigMap that kustomize puts in."""
    images = {each["name"]: f"{each['newName']}:{each['newTag']}" for each in kustomization(BASE)["images"]}
    made = list(objects(BASE, FOLDER / "monitored", FOLDER / "ingress"))
    for each in made:
        if each["kind"] == "Deployment":
            for container in each["spec"]["template"]["spec"]["containers"]:
                container["image"] = images[container["image"]]
    config = {"config.yaml": (BASE / "config.yaml").read_text()}
    return [*made, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "router-config"}, "data": config}]


def read_config(objects_by_name: dict[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    """Replace the text of config.yaml by what it says, because comments and order are no substance."""
    config = objects_by_name["ConfigMap", "router-config"]
    config["data"]["config.yaml"] = yaml.safe_load(config["data"]["config.yaml"])
    config["metadata"].pop("labels", None)
    return objects_by_name


def test_chart_says_the_same_as_kustomize() -> None:
    """Each object of the base, of `monitored` and of `ingress` is in the chart, field by field, and no other is."""
    chart, base = read_config(by_name(render(SHOWN, RELEASE))), read_config(by_name(kustomized()))
    assert chart.keys() == base.keys()
    for name, each in base.items():
        assert chart[name] == each, name


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [{}, ALL_ON], ids=["defaults", "all on"])
def test_every_object_is_valid_by_kubernetes_schema(version: str, values: dict[str, Any]) -> None:
    """No object has an unknown field, a value of the wrong type or a missing field."""
    checked = [each for each in render(values) if each["kind"] not in CUSTOM]
    for each in checked:
        kubernetes_validate.validate(each, version, strict=True)
    assert len(checked) >= 14


def test_values_reach_their_places() -> None:
    """A digest, a runtime class, another Redis, more variables and more egress are where Kubernetes reads them."""
    found = by_name(render(ALL_ON, RELEASE))
    pods = {name: found["Deployment", name]["spec"]["template"]["spec"] for name in ("router", "sandbox-worker")}
    (router,) = pods["router"]["containers"]
    env = {each["name"]: each for each in router["env"]}
    assert router["image"] == f"sandboxfusion-router@{DIGEST}"
    assert env["REDIS_URL"]["valueFrom"]["secretKeyRef"] == {"name": "redis-url", "key": "url"}
    assert env["OTEL_EXPORTER_OTLP_ENDPOINT"]["value"] == "http://collector:4318"
    assert pods["sandbox-worker"]["runtimeClassName"] == "gvisor"
    assert {"ports": [{"port": 4318}]} in found["NetworkPolicy", "router"]["spec"]["egress"]
    assert ("Deployment", "valkey") not in found
    assert found["ServiceMonitor", "router"]["metadata"]["labels"]["release"] == "prometheus"
    (group,) = found["PrometheusRule", "router"]["spec"]["groups"]
    assert all(rule["annotations"]["runbook_url"].startswith("https://docs.example/") for rule in group["rules"])


def test_names_that_look_like_something_else_stay_texts() -> None:
    """A release 2026, Secrets named like numbers and an Ingress for all hosts below one are what Kubernetes takes."""
    names = {
        "valkey": {"secret": "007"},
        "router": {"adminSecret": "true"},
        "ingress": {"enabled": True, "host": "*.example.com", "tlsSecret": "1e3"},
    }
    found = [each for each in render({**SHOWN, **names}, "2026") if each["kind"] not in CUSTOM]
    for each in found:
        kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
    assert {
        each["metadata"]["labels"]["app.kubernetes.io/instance"] for each in found if "labels" in each["metadata"]
    } == {"2026"}
    (ingress,) = by_kind(found, "Ingress").values()
    assert ingress["spec"]["tls"] == [{"hosts": ["*.example.com"], "secretName": "1e3"}]


def test_two_releases_in_one_namespace_share_nothing() -> None:
    """Each has names of its own, and no selector of one finds pods of the other."""
    one, other = render(SHOWN, "one"), render(SHOWN, "other")
    assert not {(each["kind"], each["metadata"]["name"]) for each in one} & {
        (each["kind"], each["metadata"]["name"]) for each in other
    }
    selectors = [
        each["spec"].get("podSelector", each["spec"].get("selector", {})).get("matchLabels")
        for each in one
        if each["kind"] in {"Deployment", "NetworkPolicy", "PodDisruptionBudget"}
    ]
    assert all(selector["app.kubernetes.io/instance"] == "one" for selector in selectors)


def test_changed_configuration_rolls_the_pods_over() -> None:
    """Routers and sidecars carry a checksum of the configuration."""
    pods = [
        {
            name: each["spec"]["template"]["metadata"]["annotations"]
            for name, each in by_kind(render({"config": {"timeout": timeout}}), "Deployment").items()
            if name in {"rel-router", "rel-sidecar"}
        }
        for timeout in (300, 200)
    ]
    assert all(pods[0][name] != pods[1][name] for name in ("rel-router", "rel-sidecar"))


def by_kind(found: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the objects of one kind by name."""
    return {each["metadata"]["name"]: each for each in found if each["kind"] == kind}


def test_values_are_held_by_their_schema() -> None:
    """values.yaml is good by values.schema.json, and a misspelled value is refused."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values, schema)
    values["workers"]["replica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="'replica' was unexpected"):
        jsonschema.validate(values, schema)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"valkey": {"enabled": False}}, "redis.urlSecret: expected the name of a Secret"),
        ({"ingress": {"enabled": True}}, "ingress.host: expected the name by which clients reach the router"),
    ],
)
def test_missing_value_is_named(values: dict[str, Any], said: str) -> None:
    """A value that another one needs is asked for in our words."""
    with pytest.raises(CannotRender, match=said):
        render(values)


@pytest.mark.parametrize(
    "text", ["{{ range .Values.x }}", "{{ .Values.y }}", '{{ include "x" . }}', "{{ if .Values.x }}"]
)
def test_double_refuses_what_it_does_not_know(text: str) -> None:
    """A template that leaves the subset fails here, and does not render something else than helm does."""
    with pytest.raises(CannotRender):
        rendered(text, {"Values": {"x": 1}})


@pytest.mark.parametrize("values", [{}, ALL_ON], ids=["defaults", "all on"])
def test_helm_renders_the_same(values: dict[str, Any], tmp_path: Path) -> None:
    """Helm and the double agree on every object, and helm's linter finds nothing."""
    helm, given = program("helm"), tmp_path / "values.yaml"
    given.write_text(yaml.safe_dump(values))
    options = [str(CHART), "--values", str(given), "--namespace", "sandbox"]
    subprocess.run([helm, "lint", "--strict", *options], check=True, capture_output=True)
    argv = [helm, "template", RELEASE, *options, "--kube-version", "1.29.0"]
    made = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    theirs = [each for each in yaml.safe_load_all(made) if each is not None]
    assert by_name(theirs) == by_name(render(values, RELEASE))
