"""Copies the alert rules to where others want them: `python -m tools.prometheus_rule`.

Prometheus' operator reads them as an object, and the Helm chart makes that object of a copy in its own folder.
"""

from pathlib import Path
from textwrap import indent

_DEPLOY = Path(__file__).parent.parent / "deploy"
RULES = _DEPLOY / "prometheus" / "alerts.yaml"
FILE = _DEPLOY / "kubernetes" / "monitored" / "prometheusrule.yaml"
CHART_FILE = _DEPLOY / "helm" / "sandboxfusion-router" / "files" / "alerts.yaml"
# Where the alerts' runbooks lead until somebody says where the documentation's site is: a name that nobody can have.
DOCS = "https://sandboxfusion-router.example"

_HEAD = """\
# `python -m tools.prometheus_rule` makes this file from ../../prometheus/alerts.yaml: change that file instead. Many
# Prometheus servers use only rules with a certain label, such as `release: …`: add it in an overlay.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: router
  labels: {app.kubernetes.io/name: router}
spec:
"""


def text() -> str:
    """Return the text of the operator's object."""
    return _HEAD + indent(RULES.read_text(), "  ")


if __name__ == "__main__":
    FILE.write_text(text())
    CHART_FILE.write_text(RULES.read_text())
