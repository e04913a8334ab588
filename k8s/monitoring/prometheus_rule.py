"""The rules as the object that the Prometheus operator reads: `make monitoring` writes it anew from rules.yaml.

Text goes to text, so that the comments stay.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import Final

K8S: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = K8S / "monitoring" / "rules.yaml"
TARGET: Final = K8S / "components" / "prometheus-operator" / "prometheusrule.yaml"

_HEAD: Final = """\
# Made from k8s/monitoring/rules.yaml by `make monitoring`; change that one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: pgn-serve
spec:
"""


def prometheus_rule() -> str:
    """The object's YAML."""
    return _HEAD + indent(SOURCE.read_text(), "  ")


if __name__ == "__main__":
    TARGET.write_text(prometheus_rule())
