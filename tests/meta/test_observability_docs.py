"""Table of metrics, dashboard and alert rules match the metrics of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from jobs.monitoring.metrics import METRICS, metrics_table
from tests.support.paths import ROOT
from tests.support.promtool import promtool

ALERTS, DASHBOARD = ROOT / "docs/deploy/alerts.yaml", ROOT / "docs/deploy/grafana-dashboard.json"
NAMES = {metric.name for metric in METRICS}


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\bpostroom_\w+", text))


def test_the_table_of_metrics_is_the_code() -> None:
    """docs/guide/observability.md contains the table that `python -m jobs.monitoring.metrics` prints."""
    assert metrics_table() in (ROOT / "docs/guide/observability.md").read_text()


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    """Each metric is in a panel, no panel queries an unknown metric, and panels do not overlap."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert metrics_in("\n".join(queries)) == NAMES
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))


def test_alert_rules_use_existing_metrics() -> None:
    """Each rule queries existing metrics only, and has a next step."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in group["rules"]:
        metrics = metrics_in(rule["expr"])
        assert metrics, rule["alert"]
        assert metrics <= NAMES, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "next_step"}
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) > 5


def test_prometheus_accepts_rules_and_queries(tmp_path: Path) -> None:
    """promtool accepts the alert rules, and each query of the dashboard as a rule."""
    promtool("check", "rules", str(ALERTS))
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"].replace("$project", ".*") for panel in panels for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.json"))
