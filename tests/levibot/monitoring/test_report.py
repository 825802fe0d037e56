"""The page: every feature is in it, with its plots, and nothing from elsewhere."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest

from levibot.features.views import CORE
from levibot.learning.signal import SignalModel
from levibot.market.bars import FloatArray, Panel
from levibot.monitoring.correlation import collinearity
from levibot.monitoring.drift import drift_of, shadow_loss
from levibot.monitoring.importance import importance_of, rank_change
from levibot.monitoring.reference import DriftReference
from levibot.monitoring.report import FeatureReport
from levibot.monitoring.watch import Checked, Weighed
from levibot.trading.costs import Costs

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def page(
    model: SignalModel, reference: DriftReference, still_market: Panel, still_features: FloatArray
) -> str:
    features = still_features[-2_000:].copy()
    features[-24:, :, CORE.index("return_4")] += 10.0
    rows = 24 + model.window_bars
    loss = shadow_loss(model, still_market.tail(rows), features[-rows:], 24, Costs())
    pooled = features.reshape(-1, len(CORE.names))
    importance = importance_of(model, pooled)
    return FeatureReport(
        NOON,
        "still <market>",
        reference.n_days,
        Checked(NOON, "v1.0.6", drift_of(reference, features), loss),
        Weighed(NOON, "v1.0.6", importance, rank_change(importance, importance)),
        importance,
        collinearity(pooled, CORE.names),
        len(pooled),
        {"BTCUSDT": 30.0, "ETHUSDT": None},
    ).to_html()


def test_every_feature_has_a_row_and_the_drifting_one_comes_first(page: str) -> None:
    rows = re.findall(r"<tr><td>(\w+)</td>\n<td( class=\"beyond\")?>", page)
    assert sorted(name for name, _ in rows) == sorted(CORE.names)
    assert rows[0][0] == "return_4"
    assert 'class="beyond"' in page


def test_the_page_has_three_plots_and_loads_nothing(page: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 3
    for plot in plots:
        assert len(ET.fromstring(plot)) > 0
    # Names of XML vocabularies are no addresses to load from; the heat map is inside, as data.
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)[^\"]+\"", page)
    assert "data:image/png;base64," in plots[2]


def test_what_is_put_in_is_escaped_and_missing_values_are_dashes(page: str) -> None:
    assert "still &lt;market&gt;" in page
    assert "<td>ETHUSDT</td><td>–</td>" in page
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL).lower().replace("nanos", "")
