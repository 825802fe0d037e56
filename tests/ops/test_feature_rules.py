"""The alerts of the features fire when they must, on Prometheus' own engine, and not before."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "ops" / "prometheus" / "rules"
RULES = FOLDER / "features.yml"
LIMIT = "levibot_feature_staleness_limit_seconds"
STALENESS = 'levibot_feature_staleness_seconds{symbol="BTCUSDT"%s}'
# A live market of hourly bars: they age by an hour and begin anew.
HOURLY = {"series": LIMIT, "values": "3900x120"}


def series(values: str, process: str = "") -> dict[str, str]:
    return {"series": STALENESS % (f',process="{process}"' if process else ""), "values": values}


def firing(
    tmp_path: Path,
    inputs: list[dict[str, str]],
    minute: int,
    alert: str,
    symbols: list[str],
    path: Path = RULES,
) -> str:
    """What promtool says against these symbols being under `alert` then; empty when it is so."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    rules: dict[str, Any] = yaml.safe_load(path.read_text())
    for rule in rules["groups"][0]["rules"]:
        # Their text holds the value, which is not what is tested.
        del rule["annotations"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    severity = next(r["labels"]["severity"] for r in rules["groups"][0]["rules"] if r["alert"] == alert)
    alerts = [
        {"exp_labels": {"severity": severity} | ({"symbol": symbol} if symbol else {})} for symbol in symbols
    ]
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": inputs,
                "alert_rule_test": [
                    {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": alerts},
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [promtool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "minute", "symbols"),
    [
        # Up to the next bar, and while it is a little late.
        ("0+60x64", 60, []),
        ("0+60x64", 64, []),
        ("0+60x90", 68, ["BTCUSDT"]),
        # It came at last.
        ("0+60x68 0+60x30", 72, []),
    ],
)
def test_features_that_are_five_minutes_late_raise_an_alert(
    tmp_path: Path, values: str, minute: int, symbols: list[str]
) -> None:
    assert firing(tmp_path, [series(values), HOURLY], minute, "FeaturesStale", symbols) == ""


def test_the_older_of_what_is_written_and_what_is_read_counts(tmp_path: Path) -> None:
    inputs = [series("0x90", "online_features"), series("9000x90"), HOURLY]
    assert firing(tmp_path, inputs, 10, "FeaturesStale", ["BTCUSDT"]) == ""


def test_features_that_are_not_there_raise_another(tmp_path: Path) -> None:
    inputs = [series(" ".join(["NaN"] * 20)), HOURLY]
    assert firing(tmp_path, inputs, 3, "FeaturesMissing", []) == ""
    assert firing(tmp_path, inputs, 10, "FeaturesMissing", ["BTCUSDT"]) == ""
    assert firing(tmp_path, inputs, 10, "FeaturesStale", []) == ""


def test_no_word_at_all_raises_the_third(tmp_path: Path) -> None:
    assert firing(tmp_path, [HOURLY], 10, "FeaturesUnwatched", [""]) == ""
    assert firing(tmp_path, [series("0x90"), HOURLY], 10, "FeaturesUnwatched", []) == ""


def test_the_check_itself_finds_an_alert_that_is_missing(tmp_path: Path) -> None:
    assert firing(tmp_path, [series("0x90"), HOURLY], 10, "FeaturesStale", ["BTCUSDT"]) != ""


def drift(n_beyond: int, n_features: int = 20) -> list[dict[str, str]]:
    """So many of the features are beyond a limit, for four hours."""
    return [
        {"series": f'levibot_feature_drift{{feature="f{k}"}}', "values": f"{int(k < n_beyond)}x240"}
        for k in range(n_features)
    ]


def loss(value: float) -> dict[str, str]:
    return {"series": 'levibot_drift_shadow_loss{model_version="v1"}', "values": f"{value}x240"}


@pytest.mark.parametrize(("n_beyond", "minute", "fires"), [(2, 90, []), (3, 30, []), (3, 90, [""])])
def test_one_feature_beyond_a_limit_is_noise_and_many_are_not(
    tmp_path: Path, n_beyond: int, minute: int, fires: list[str]
) -> None:
    path = FOLDER / "drift.yml"
    assert firing(tmp_path, drift(n_beyond), minute, "FeaturesDrift", fires, path) == ""


@pytest.mark.parametrize(
    ("n_beyond", "lost", "fires"), [(1, 0.05, [""]), (0, 0.05, []), (1, 0.01, []), (1, -0.05, [])]
)
def test_drift_on_a_day_of_losses_is_told_apart_from_either(
    tmp_path: Path, n_beyond: int, lost: float, fires: list[str]
) -> None:
    inputs = [*drift(n_beyond), loss(lost)]
    assert firing(tmp_path, inputs, 90, "DriftWithDamage", fires, FOLDER / "drift.yml") == ""


def test_a_watch_that_has_stopped_is_said(tmp_path: Path) -> None:
    seen = [{"series": "levibot_drift_checked_timestamp_seconds", "values": "0x240"}]
    assert firing(tmp_path, seen, 50, "DriftUnwatched", [], FOLDER / "drift.yml") == ""
    assert firing(tmp_path, seen, 70, "DriftUnwatched", [""], FOLDER / "drift.yml") == ""
