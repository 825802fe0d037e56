"""The page of a report, as a browser shows it: every strategy, every plot, nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from levibot.learning.walk_forward import walk_forward
from levibot.trading.report_curves import Curves
from levibot.trading.report_page import page

CHROMIUM = shutil.which("chromium")
NAMES = ("ensemble", "trend", "lightgbm <b>", "equal_weight")
PLOTS = 9


@pytest.fixture(scope="module")
def curves() -> Curves:
    rng = np.random.default_rng(1)
    regimes = rng.dirichlet(np.ones(3), 400)
    regimes[:50] = np.nan
    return Curves(
        np.datetime64("2023-01-01") + np.arange(400),
        {name: rng.normal(0.001, 0.02, 400) for name in NAMES},
        ("trend", "lightgbm <b>"),
        {who: rng.dirichlet(np.ones(2), 400) for who in ("ensemble", "router", "vote")},
        ("bear", "sideways", "bull"),
        regimes,
        walk_forward(*(datetime(year, 1, 1, tzinfo=UTC) for year in (2020, 2023, 2024)), refit="quarterly"),
    )


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    part = {"days": 365, "sharpe_net": 1.25, "total_return": 0.5, "max_drawdown": -0.125}
    row = {
        "sharpe_net": 1.5,
        "sharpe_gross": 1.75,
        "sharpe_ci95": [0.25, None],
        "max_drawdown": -0.125,
        "turnover_per_day": 0.125,
        "annual_return": None,
        "psr": 0.9,
        "deflated_sharpe": {"probability": 0.75},
        "sortino": 2.5,
        "capacity": 12_345_678.0,
        "years": {"2023": part, "2024": part | {"sharpe_net": None}},
        "regimes": {"bull": part},
        "cost_curve": [{"cost_bps": bps, "sharpe_net": 2.0 - bps / 20.0} for bps in (0.0, 10.0, 30.0)],
    }
    overfitted = {"strategies": 3, "blocks": 16, "probability": 0.625, "probability_of_loss": 0.25}
    nothing = {"strategies": 1, "blocks": 16, "probability": None, "probability_of_loss": None}
    trials = {
        "counted": 3,
        "effective": 1.5,
        "hold_out": {"name": "final", "looks": 1},
        "overfitting": {"report": overfitted, "ledger": nothing},
    }
    pair = {
        "first": "ensemble",
        "second": "trend",
        "sharpe_difference": 0.5,
        "p": 0.0625,
        "ci95": [-0.5, 1.5],
    }
    duel = {"weeks": 40, "mean": 0.1, "low": -0.5, "high": None, "decided_after_weeks": None}
    said = np.linspace(0.45, 0.55, 10)
    bins = [{"said": p, "happened": 0.5, "predictions": 100} for p in said.tolist()]
    told = {"error": 0.025, "gain": 0.0, "predictions": 1000, "bins": bins}
    return dict.fromkeys(NAMES, row) | {
        "trials": trials | {"strategies": list(NAMES)},
        "period": {
            "train_start": "2020-01-01T00:00",
            "test_start": "2023-01-01T00:00",
            "test_end": "2024-02-04T00:00",
            "fits": ["2023-01-01T00:00"],
        },
        "costs": {"total_bps": 10.0},
        "run": {
            "source": "simulated",
            "symbols": ["BTCUSDT"],
            "data_hash": "f" * 64,
            "view": "core",
            "view_version": "v",
            "seed": 1,
        },
        "audit": None,
        "comparisons": {
            "paired": [pair | {"standard_error": 0.5}],
            "router_against_fixed_weights": duel | {"first_is_better": None},
        },
        "calibration": {"probability_up": {"ensemble": told, "stacked": told}, "stacking": {}},
    }


def test_it_loads_nothing_and_every_plot_draws_every_strategy(record: dict[str, Any], curves: Curves) -> None:
    text = page(record, curves)
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(plots) == PLOTS
    for number, plot in enumerate(plots):
        said = "".join(ET.fromstring(plot).itertext())
        wanted: tuple[str, ...] = NAMES
        if "share of all weight" in said:
            wanted = curves.members
        elif "share that rose" in said:
            wanted = ("ensemble: error 0.025", "stacked: error 0.025")
        elif "learned from" in said:
            wanted = ("learned from", "traded", "fit")
        assert all(name in said for name in wanted), number
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)[^\"]+\"", text)
    outside = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert "lightgbm &lt;b&gt;" in outside
    assert "0.25 … –" in outside
    assert "12.35 M" in outside
    assert "nan" not in outside
    assert "not decided" in outside
    assert "0.62 among the 3 of the report" in " ".join(outside.split())
    assert "– among the 1 of the ledger" in " ".join(outside.split())


def test_the_audit_is_said_where_there_was_one(record: dict[str, Any], curves: Curves) -> None:
    check = {"name": "no bar to come", "done": "cut", "holds": False}
    shown = page(record | {"audit": {"holds": False, "checks": [check]}}, curves)
    assert "a limit is broken" in shown
    assert "FAILS" in shown
    assert "was audited" not in page(record, curves)


def test_the_same_report_is_the_same_page(record: dict[str, Any], curves: Curves) -> None:
    assert page(record, curves) == page(record, curves)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_every_plot_and_row(record: dict[str, Any], curves: Curves, tmp_path: Path) -> None:
    """A script in the page measures what the browser has laid out, and writes it where the dump shows it."""
    measure = (
        "<script>onload=()=>{const p=[...document.querySelectorAll('figure svg')].map(s=>{"
        "const b=s.getBoundingClientRect();return b.width>300&&b.height>100&&"
        "s.querySelectorAll('path').length>5});"
        "document.body.dataset.shown=p.filter(Boolean).length+'/'+"
        "document.querySelectorAll('#strategies tr').length}</script>"
    )
    path = tmp_path / "report.html"
    path.write_text(page(record, curves).replace("</head>", measure + "</head>"), encoding="utf-8")
    browser = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900", path.as_uri()),
    ]
    done = subprocess.run(browser, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-shown="(\d+)/(\d+)"', done.stdout)
    assert found is not None, done.stderr
    assert found.groups() == (str(PLOTS), str(len(NAMES) + 1))
