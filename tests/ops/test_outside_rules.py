"""The alerts of the sources outside fire when they must, on Prometheus' own engine, and not before."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

RULES = Path(__file__).resolve().parents[2] / "ops" / "prometheus" / "rules" / "outside.yml"
SILENCE = 'levibot_outside_silence_seconds{source="%s"}'
LIMIT = 'levibot_outside_silence_limit_seconds{source="%s"}'
REJECTED = 'levibot_rows_rejected_total{reason="not_finite",table="%s"}'


def verdict(
    tmp_path: Path, inputs: dict[str, str], minute: int, alert: str, labels: list[dict[str, str]]
) -> str:
    """What promtool says against the alert firing with these labels then; empty when it is so."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    rules: dict[str, Any] = yaml.safe_load(RULES.read_text())
    for rule in rules["groups"][0]["rules"]:
        # Their text holds the value, which is not what is tested.
        del rule["annotations"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    expected = [{"exp_labels": {"severity": "warning"} | label} for label in labels]
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in inputs.items()],
                "alert_rule_test": [
                    {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": expected},
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [promtool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def sources(silence: dict[str, str], limits: dict[str, float]) -> dict[str, str]:
    return {SILENCE % name: values for name, values in silence.items()} | {
        LIMIT % name: f"{limit:g}x200" for name, limit in limits.items()
    }


# Each source has its own limit: 15 minutes of silence are much for quotes and nothing for headlines.
SILENT = sources({"0x": "0+60x100", "OpenAI": "0+60x40 0+60x40"}, {"0x": 900, "OpenAI": 2700})


@pytest.mark.parametrize(
    ("minute", "silent"),
    [(15, []), (18, []), (22, ["0x"]), (60, ["0x"])],
    ids=["below its limit", "just beyond it", "five minutes beyond it", "for an hour"],
)
def test_a_source_beyond_its_own_limit_alarms_and_no_other(
    tmp_path: Path, minute: int, silent: list[str]
) -> None:
    labels = [{"source": name} for name in silent]
    assert verdict(tmp_path, SILENT, minute, "OutsideSourceSilent", labels) == ""


def test_a_disabled_source_never_alarms(tmp_path: Path) -> None:
    assert verdict(tmp_path, sources({}, {}), 60, "OutsideSourceSilent", []) == ""


@pytest.mark.parametrize(
    ("table", "values", "reasons"),
    [
        ("observations", "0+1x60", [{"reason": "not_finite"}]),
        ("observations", "0x30 1x30", []),
        ("bars", "0+1x60", []),
    ],
)
def test_many_rejected_observations_alarm(
    tmp_path: Path, table: str, values: str, reasons: list[dict[str, str]]
) -> None:
    assert verdict(tmp_path, {REJECTED % table: values}, 58, "OutsideRowsRejected", reasons) == ""
