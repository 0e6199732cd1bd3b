"""Dashboard and alerts: every name in them is one that the service exports, and nothing that it exports is left out.

That each expression returns data, and each alert fires, is `make proof NAME=monitoring`'s to show.
"""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from tests.resilience.monitoring_files import (
    FOLDER,
    alert_expressions,
    alerts,
    dashboard,
    dashboard_expressions,
)

DOCS = Path(__file__).resolve().parents[3] / "docs" / "reference" / "metrics.md"
_LISTED = re.compile(r"^\| `([\w:]+)` \| (\w+) \|", re.MULTILINE)
_NAME = re.compile(r"\b(?:vllm:|eda_)\w+")
_PARTS = ("_bucket", "_sum", "_count")


def exported() -> set[str]:
    """Names of samples; of a histogram its three."""
    names: set[str] = set()
    for name, kind in _LISTED.findall(DOCS.read_text(encoding="utf-8")):
        names |= {name + part for part in _PARTS} if kind == "histogram" else {name}
    return names


def used() -> set[str]:
    return {name for each in (*dashboard_expressions(), *alert_expressions()) for name in _NAME.findall(each.promql)}


def test_every_name_is_exported_and_every_family_is_shown() -> None:
    assert used() - exported() == set()
    families = {re.sub("(_bucket|_sum|_count)$", "", name) for name in used()}
    assert {name for name, _ in _LISTED.findall(DOCS.read_text(encoding="utf-8"))} - families == set()


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["title"], *(panel["gridPos"][side] for side in "xywh")) for panel in panels]
    assert all(x + w <= 24 for _, x, _, w, _ in places)
    for (one, x, y, w, h), (other, x2, y2, w2, h2) in combinations(places, 2):
        apart = x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
        assert apart, (one, other)
    assert all(panel["description"] for panel in panels if panel["type"] != "row")


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "next_step"}


def test_each_alert_has_a_unit_test_in_which_it_fires() -> None:
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    fired = [sample["labels"] for test in tests for each in test["promql_expr_test"] for sample in each["exp_samples"]]
    assert sorted(fired) == sorted(f'{{alertname="{rule["alert"]}"}}' for rule in alerts())


def test_thresholds_are_taken_off() -> None:
    numbers = {each.name: each.promql for each in alert_expressions()}
    assert numbers["EdaAcceptanceFell"] == "eda_drift_ratio"
    assert numbers["EdaStoppedDrafting"].endswith('(eda_pack_info{pack!=""} > bool 0)')
