"""Writes the alert rules as the object that Prometheus' operator reads: `python -m tools.prometheus_rule`."""

from pathlib import Path
from textwrap import indent

_DEPLOY = Path(__file__).parent.parent / "deploy"
RULES = _DEPLOY / "prometheus" / "alerts.yaml"
FILE = _DEPLOY / "kubernetes" / "monitored" / "prometheusrule.yaml"

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
    """Return the file's text."""
    return _HEAD + indent(RULES.read_text(), "  ")


if __name__ == "__main__":
    FILE.write_text(text())
