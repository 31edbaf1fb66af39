"""Writes the rules as a PrometheusRule of the operator: ``python deploy/prometheus/prometheusrule.py``."""

from __future__ import annotations

import textwrap
from pathlib import Path

HERE = Path(__file__).parent
TARGET = HERE.parent / "kubernetes" / "monitoring" / "prometheusrule.yaml"
HEAD = """\
# Made of prometheus/rules.yml and prometheus/alerts.yml by prometheus/prometheusrule.py.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: asyncckpt
  labels:
    app.kubernetes.io/name: asyncckpt
spec:
  groups:
"""


def text() -> str:
    """The file, as it is checked in."""
    groups = [(HERE / name).read_text().partition("groups:\n")[2] for name in ("rules.yml", "alerts.yml")]
    return HEAD + textwrap.indent("".join(groups), "  ")


if __name__ == "__main__":
    TARGET.write_text(text())
