"""The expressions of `cluster/monitoring`: what the dashboard draws and what the alerts look at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from benchmarks.workloads import ROOT

FOLDER = ROOT / "cluster" / "monitoring"
_THRESHOLD = re.compile(r"\s(?:==|!=|<=|>=|<|>)\s+[\d.]+$")
_VARIABLES = {"$model": ".*", "$__rate_interval": "1m"}


@dataclass(frozen=True)
class Expression:
    """One expression.

    Attributes:
        name: Of the panel and the series in it, or of the alert.
        promql: As Grafana sends it; an alert's without its threshold.
    """

    name: str
    promql: str


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    return found


def dashboard_expressions() -> Iterator[Expression]:
    """Of every panel, with Grafana's variables filled in."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            promql = target["expr"]
            for variable, value in _VARIABLES.items():
                promql = promql.replace(variable, value)
            yield Expression(f"{panel['title']}: {target['legendFormat']}", promql)


def alerts() -> list[dict[str, Any]]:
    """Every alert rule."""
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alert_expressions() -> Iterator[Expression]:
    """Of every alert, its threshold taken off: the number that it looks at.

    Raises:
        ValueError: An expression does not end in a comparison with a number.
    """
    for rule in alerts():
        number, count = _THRESHOLD.subn("", rule["expr"])
        if not count:
            raise ValueError(f"{rule['alert']} does not end in a threshold: {rule['expr']}")
        yield Expression(rule["alert"], number)
