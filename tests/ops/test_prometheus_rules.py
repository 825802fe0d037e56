"""The alert rules are what Prometheus reads, and ask for nothing that no code counts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from levibot.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "ops" / "prometheus" / "rules").glob("*.yml"))
SEVERITIES = {"warning", "critical"}
# What a metric of each kind is called where it is read.
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def rules_of(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def unknown_metrics(expression: str) -> set[str]:
    """The metrics of an expression that no code counts, or that lack a label that it asks for."""
    registry = CollectorRegistry()
    known: dict[str, set[str]] = {}
    for collector in vars(Metrics(registry)).values():
        if collector is not registry:
            (family,) = collector.describe()
            known |= {family.name + suffix: set(collector._labelnames) for suffix in SUFFIXES[family.type]}
    wrong = set()
    for name, selector in re.findall(r"\b(levibot_\w+)(?:\{([^}]*)\})?", expression):
        asked = set(re.findall(r"(\w+)\s*[=!]~?", selector))
        if name not in known or not asked <= known[name]:
            wrong.add(name)
    return wrong


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_rule_is_whole_and_its_metrics_exist(path: Path) -> None:
    rules = rules_of(path)
    assert rules
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in SEVERITIES
        assert set(rule["annotations"]) == {"summary", "description"}
        assert "levibot_" in rule["expr"]
        assert unknown_metrics(rule["expr"]) == set()


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_prometheus_accepts_the_rules(path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    checked = subprocess.run(
        [promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_metric_or_a_label_that_nobody_counts_would_be_found() -> None:
    assert unknown_metrics("rate(levibot_slow_queries_total[5m]) > 0") == set()
    assert unknown_metrics("rate(levibot_slow_queries[5m]) > 0") == {"levibot_slow_queries"}
    assert unknown_metrics('levibot_circuit_state{place="x"} == 2') == {"levibot_circuit_state"}
