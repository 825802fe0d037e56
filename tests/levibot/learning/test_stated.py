from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.learning.members import Opinions
from levibot.learning.stated import stated
from levibot.learning.walk_forward import walk_forward
from levibot.market.bars import FIELDS, Panel, to_datetime64

HOUR = timedelta(hours=1)
HORIZON = 24
SPLITS = walk_forward(
    *(datetime(2020, month, 1, tzinfo=UTC) for month in (1, 2, 6)),
    refit="monthly",
)


@pytest.fixture(scope="module")
def panel() -> Panel:
    rng = np.random.default_rng(1)
    n = 24 * 152
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, (n, 2)), axis=0))
    ts = np.datetime64("2020-01-01", "us") + np.arange(n) * np.timedelta64(HOUR)
    return Panel(("A", "B"), HOUR, ts, close, close, close, close, np.ones_like(close))


@pytest.fixture(scope="module")
def opinions(panel: Panel) -> Opinions:
    """`linear` knows a little of what comes and overstates it; `lightgbm` knows nothing and says one half."""
    rng = np.random.default_rng(2)
    ahead = np.zeros(panel.open.shape)
    ahead[: -HORIZON - 1] = np.log(panel.open[HORIZON + 1 :] / panel.open[1:-HORIZON])
    knows = np.tanh(5.0 * ahead + rng.normal(0.0, 0.5, ahead.shape))
    noise = rng.uniform(-1.0, 1.0, ahead.shape)
    members = ("trend", "strength", "lightgbm", "linear")
    said = np.stack([noise, -noise, rng.uniform(-1.0, 1.0, ahead.shape), knows], axis=2)
    probability = np.full(said.shape, np.nan)
    probability[..., 2], probability[..., 3] = 0.5, 0.5 + 0.49 * np.sign(knows)
    begin = int(np.searchsorted(panel.closes_at, to_datetime64(SPLITS[0].test_start)))
    said[:begin], probability[:begin] = np.nan, np.nan
    return Opinions(members, said, np.ones(ahead.shape), probability)


def test_a_meta_learner_is_better_calibrated_than_what_overstates(panel: Panel, opinions: Opinions) -> None:
    found = stated(opinions, panel, SPLITS, HORIZON)
    assert set(found.by_name) == {"lightgbm", "linear", "ensemble", "stacked"}
    # The first stretch has nothing to be taught by.
    assert list(found.stackings) == [1, 2, 3]
    assert found.by_name["linear"].error > 0.2 > 0.05 > found.by_name["stacked"].error
    assert found.by_name["stacked"].gain > 0.0 > found.by_name["linear"].gain
    counts = {of.count.sum() for of in found.by_name.values()}
    assert len(counts) == 1
    assert found.stackings[3].coefficients[3] > 5.0 * np.abs(found.stackings[3].coefficients[:3]).max()
    told = found.to_json()["probability_up"]["stacked"]
    assert sum(b["predictions"] for b in told["bins"]) == told["predictions"]


def test_a_meta_learner_knows_only_outcomes_that_were_known(panel: Panel, opinions: Opinions) -> None:
    """Another market after a fit, and within the embargo before it, changes nothing of that fit."""
    fit_at = SPLITS[2].fit_at - timedelta(hours=23)
    later = (panel.closes_at > to_datetime64(fit_at))[:, None]
    changed = replace(
        panel, **{n: np.where(later, 1.0 / getattr(panel, n), getattr(panel, n)) for n in FIELDS}
    )
    kept, found = (stated(opinions, p, SPLITS, HORIZON).stackings for p in (panel, changed))
    for number in (1, 2):
        np.testing.assert_array_equal(found[number].coefficients, kept[number].coefficients)
    assert (found[3].coefficients != kept[3].coefficients).any()


def test_without_outcomes_there_is_nothing_to_hold_it_against(panel: Panel, opinions: Opinions) -> None:
    silent = replace(opinions, probability_up=np.full(opinions.values.shape, np.nan))
    assert stated(silent, panel, SPLITS, HORIZON).by_name == {}
