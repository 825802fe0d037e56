"""`python -m levibot features …`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from levibot.cli import app
from levibot.errors import UsageError
from levibot.features import views
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.returns import RETURNS
from levibot.features.view import FeatureView
from levibot.features.views import CORE, VIEWS
from levibot.market.bars import FloatArray


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["features", *arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.exit_code, result.stdout


def next_return(inputs: Inputs) -> FloatArray:
    """The return of the next bar."""
    return np.roll(inputs.log_return, -1, axis=0)


def endless_mean(inputs: Inputs) -> FloatArray:
    """Mean of all returns since the first."""
    known = np.nan_to_num(inputs.log_return)
    return np.cumsum(known, axis=0) / np.arange(1, len(known) + 1)[:, None]


def planted(formula) -> Feature:
    return Feature(formula.__name__, "planted", "log return", "a planted fault", ("close",), 200, formula)


@pytest.fixture
def small_view(monkeypatch):
    """Puts a view of a few features in the place of the shipped ones."""

    def put(*features: Feature) -> FeatureView:
        view = FeatureView("small", features)
        monkeypatch.setattr(views, "VIEWS", (view,))
        return view

    return put


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_every_feature_of_a_view_is_listed(view) -> None:
    code, text = run("list", "--view", view.name)
    assert code == 0
    for feature in (*view.features, *view.on_demand):
        assert f" {feature.name} " in text
    assert view.version in text


def test_a_list_is_json_when_asked() -> None:
    _, text = run("list", "--family", "volume", "--json")
    record = json.loads(text)
    assert record["version"] == CORE.version
    assert {feature["family"] for feature in record["features"]} == {"volume"}
    assert record["features"][0]["warmup_bars"] == 168


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no family 'volum'.*calendar, cross_asset"):
        run("list", "--family", "volum")


def test_a_feature_is_described() -> None:
    code, text = run("describe", "skew_168")
    assert code == 0
    for part in ("Realised skewness", "bars = 168", "169 bars", "Amaya", "sensitivity"):
        assert (part in text) is (part != "sensitivity")


def test_an_unknown_feature_is_refused() -> None:
    with pytest.raises(UsageError, match="no feature 'skew_169'"):
        run("describe", "skew_169")


def test_the_sensitivity_is_measured_when_asked(small_view) -> None:
    small_view(planted(endless_mean), RETURNS[0])
    _, text = run("describe", "endless_mean", "--view", "small", "--sensitivity", "--json")
    assert json.loads(text)["sensitivity"] > 1e-3


def test_a_view_that_keeps_the_laws_passes(small_view) -> None:
    small_view(*(replace(feature, scaled=False) for feature in CORE.features if feature.window_bars == 25))
    code, text = run("check", "--view", "small", "--symbols", "BTCUSDT,ETHUSDT")
    assert code == 0
    assert "All laws hold for" in text


@pytest.mark.parametrize(
    ("formula", "law"),
    [(next_return, "no future"), (endless_mean, "one feature path")],
    ids=["leak", "memory"],
)
def test_a_view_that_breaks_a_law_fails_and_says_which(small_view, formula, law) -> None:
    small_view(planted(formula))
    code, text = run("check", "--view", "small", "--symbols", "BTCUSDT,ETHUSDT")
    assert code == 1
    assert f"{formula.__name__} breaks the law of {law}" in text
    code, text = run("check", "--view", "small", "--symbols", "BTCUSDT,ETHUSDT", "--json")
    assert code == 1
    assert law in {violation["law"] for violation in json.loads(text)["violations"]}


@pytest.mark.market
@pytest.mark.skipif("LEVIBOT_MARKET_DATA" not in os.environ, reason="LEVIBOT_MARKET_DATA is not set")
def test_the_recorded_market_is_checked(small_view) -> None:
    small_view(*RETURNS)
    code, text = run(
        "check", "--view", "small", "--source", "parquet", "--path", os.environ["LEVIBOT_MARKET_DATA"]
    )
    assert code == 0
    assert "All laws hold for" in text
