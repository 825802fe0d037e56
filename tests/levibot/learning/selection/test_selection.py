"""Selection of features: what is planted is found, what is noise is not, and the future changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

from levibot.errors import DataError
from levibot.learning.labels import Labels
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.past import Knowledge, known_labels
from levibot.learning.selection.boruta import BorutaParameters
from levibot.learning.selection.election import Ballot, Elected, SelectionParameters, cast_ballot, elect
from levibot.learning.selection.rows import fold_rows, shifted
from levibot.learning.selection.selection import Selection, Window, required_features
from levibot.learning.training import SIGNAL, hash_panel
from levibot.market.bars import FloatArray, Panel
from levibot.market.simulator import SimulatedSource

HOUR = timedelta(hours=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
FIT_AT = datetime(2020, 5, 1, tzinfo=UTC)
END = datetime(2020, 6, 1, tzinfo=UTC)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
NAMES = ("linear", "threshold", "hump", "switched", *(f"noise_{k}" for k in range(8)), "walk", "walk_b")
INFORMATIVE = {"linear", "threshold", "hump", "switched"}
QUICK = SelectionParameters(
    n_folds=3,
    every_bars=1,
    max_rows=4_000,
    boruta=BorutaParameters(rounds=10, trees=15, leaves=15),
    booster=LightGBMParameters(trees=40, learning_rate=0.15, l2=1.0),
)


@pytest.fixture(scope="module")
def panel() -> Panel:
    source = SimulatedSource(SYMBOLS, HOUR, seed=3, edge=0.0)
    return Panel.align({symbol: source.bars(symbol, START, END) for symbol in SYMBOLS})


def knowledge(panel: Panel, as_of: datetime, signal: float = 1.0) -> Knowledge:
    """Labels that four features tell something of, among noise: white, and two that wander."""
    rng = np.random.default_rng(11)
    shape = panel.open.shape
    x = rng.normal(size=(*shape, len(NAMES)))
    # Half of a deviation is forgotten within some 35 bars.
    x[:, :, -2:] = lfilter([0.2], [1.0, -0.98], x[:, :, -2:], axis=0)
    told = x[..., 0] + 1.5 * (x[..., 1] > 0.5) + np.abs(x[..., 2]) + x[..., 3] * (x[..., 0] > 0.0)
    # Noise that hangs together, as overlapping labels do.
    noise = np.cumsum(rng.normal(size=shape), axis=0)
    noise[24:] -= noise[:-24].copy()
    values = signal * told + noise / 3.0
    labels = known_labels(panel, values, 24)
    whole = Knowledge("test", "1", NAMES, END, panel, x, (labels,))
    return whole.until(as_of)


def elected(known: Knowledge, parameters: SelectionParameters = QUICK, seed: int = 1) -> Elected:
    folds = fold_rows(
        known,
        START,
        (24,),
        n_folds=parameters.n_folds,
        every_bars=parameters.every_bars,
        max_rows=parameters.max_rows,
    )
    return elect(NAMES, [cast_ballot(rows, parameters, seed) for rows in folds], (), parameters)


def test_planted_features_are_found_and_noise_is_not(panel: Panel) -> None:
    found = elected(knowledge(panel, FIT_AT))
    assert set(found.features) == INFORMATIVE
    assert (found.shares["linear"], found.n_ballots) == (1.0, 3)
    assert found.stability > 0.6


def test_where_nothing_is_planted_nothing_is_elected(panel: Panel) -> None:
    found = [elected(knowledge(panel, FIT_AT, signal=0.0), seed=seed) for seed in range(3)]
    assert [one.features for one in found] == [(), (), ()]


def test_permuted_shadows_would_let_a_wandering_feature_in() -> None:
    """Why shadows are turned around: they are as slow as what they shadow, to the last lag."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=(2_000, 1)), axis=0)
    steps = [
        float(np.median(np.abs(np.diff(x, axis=0))))
        for x in (walk, shifted(walk, rng), rng.permutation(walk))
    ]
    assert steps[1] == pytest.approx(steps[0], rel=0.05)
    assert steps[2] > 5.0 * steps[0]
    assert sorted(shifted(walk, rng)[:, 0]) == sorted(walk[:, 0])


def test_the_future_changes_no_selection(panel: Panel) -> None:
    early = elected(knowledge(panel, FIT_AT))
    whole = knowledge(panel, END)
    # The same knowledge, cut, and then with another future.
    assert elected(whole.until(FIT_AT)) == early
    other = whole.features.copy()
    later = panel.closes_at > np.datetime64(FIT_AT.replace(tzinfo=None))
    other[later] = -other[later]
    assert elected(replace(whole, features=other).until(FIT_AT)) == early


def test_a_label_of_the_future_would_be_noticed(panel: Panel) -> None:
    """The planted leak: a window that reads labels from beyond its end elects another feature."""
    known = knowledge(panel, FIT_AT)
    whole = knowledge(panel, END)
    # A feature that only says something about the labels of May.
    may = panel.closes_at > np.datetime64((FIT_AT + 25 * HOUR).replace(tzinfo=None))
    leaking = whole.features.copy()
    leaking[may, :, 4] = 5.0 * np.nan_to_num(whole.labels[0].values[may])
    leaky = replace(whole, features=leaking)
    assert "noise_0" in elected(leaky).features
    assert elected(leaky.until(FIT_AT)) == elected(known)


def test_folds_keep_the_reach_of_their_labels_apart(panel: Panel) -> None:
    known = knowledge(panel, FIT_AT)
    # Each row's label is the number of its bar, which its feature tells as well.
    bars = np.broadcast_to(np.arange(len(known.panel))[:, None], known.panel.open.shape).astype(float)
    labels = Labels(
        24, np.where(np.isnan(known.labels[0].values), np.nan, bars), known.labels[0].available_at
    )
    numbered = replace(known, features=bars[:, :, None], feature_names=("bar",), labels=(labels,))
    folds = fold_rows(numbered, START, (24,), n_folds=3, every_bars=2, max_rows=100_000)
    n_usable = len(known.panel) - 25 - 24
    for rows in folds:
        teach, judge = rows.features[:, 0], rows.judge_features[:, 0]
        apart = np.abs(teach[:, None] - np.unique(judge)[None, :]).min()
        assert apart > 25 + 24 - 1
        assert max(teach.max(), judge.max()) <= n_usable
    assert [rows.fold for rows in folds] == [0, 1, 2]
    assert len(np.unique(np.concatenate([rows.judge_features[:, 0] for rows in folds]))) == pytest.approx(
        n_usable / 2, abs=2
    )
    with pytest.raises(DataError, match="rows; 400 are needed"):
        fold_rows(numbered, START, (24,), n_folds=3, every_bars=2, max_rows=300)


def ballot(*named: tuple[int, int, int], size: FloatArray | None = None) -> Ballot:
    """By feature: who names it."""
    array = np.array(named, dtype=np.bool_).T
    return Ballot(24, 0, array, np.ones(len(named)) if size is None else size)


def test_votes_and_unions_are_counted_over_the_ballots() -> None:
    names = ("a", "b", "c", "d")
    size = np.array([1.0, 2.0, 3.0, 4.0])
    ballots = [
        ballot((1, 1, 1), (1, 1, 0), (0, 0, 1), (0, 0, 0), size=size),
        ballot((1, 1, 0), (0, 0, 1), (0, 1, 0), (0, 0, 0), size=size),
    ]
    votes = elect(names, ballots, (), SelectionParameters())
    assert (votes.features, votes.shares) == (("a", "b"), {"a": 1.0, "b": 0.5})
    assert votes.stability == 0.5
    union = elect(names, ballots, (), SelectionParameters(mode="union"))
    # Equal shares: the larger contribution first.
    assert union.features == ("c", "b", "a")
    assert elect(names, ballots, ("d",), SelectionParameters(n_features=2)).features == ("d", "a")
    assert elect(names, ballots, (), SelectionParameters(min_share=1.0)).features == ("a",)
    for required, places in ((("x",), 9), (("a", "b"), 1)):
        with pytest.raises(DataError, match="make no selection"):
            elect(names, ballots, required, SelectionParameters(n_features=places))


def test_a_file_says_by_its_checksum_that_it_is_whole(panel: Panel, tmp_path: Path) -> None:
    first = Window(START, FIT_AT, hash_panel(panel), ("linear", "walk"), {"linear": 1.0}, None, 2)
    second = replace(first, fit_at=END, features=("walk",), stability=0.5)
    selection = Selection("m", "test", "1", 7, {"mode": "vote"}, (first, second))
    path = tmp_path / "of" / "selection.json"
    selection.write(path)
    assert Selection.read(path) == selection
    known = knowledge(panel, END)
    assert selection.of(known).feature_names == ("walk",)
    cut = selection.of(known.until(END - HOUR))
    assert cut.feature_names == ("linear", "walk")
    np.testing.assert_array_equal(cut.features, known.until(END - HOUR).features[:, :, [0, -2]])
    assert selection.metadata(END)["sha256"] == json.loads(path.read_text())["sha256"]
    with pytest.raises(DataError, match="No features were selected by"):
        selection.of(known.until(FIT_AT - HOUR))
    with pytest.raises(DataError, match="is of view test 1; there is test 2"):
        selection.of(replace(known, view_version="2"))
    with pytest.raises(DataError, match="no feature walk among the 1"):
        selection.of(known.of_features(("linear",)))
    text = path.read_text()
    for broken, said in (
        (text.replace('"walk"', '"noise_0"', 1), "checksum differs"),
        (text.replace('"seed": 7', '"seed": 8'), "checksum differs"),
        (text[:-20], "is no feature selection"),
        ("{}", "is no feature selection"),
        (text.replace("feature selection", "else"), "not a feature selection"),
    ):
        path.write_text(broken)
        with pytest.raises(DataError, match=said):
            Selection.read(path)
    with pytest.raises(DataError, match="cannot be read"):
        Selection.read(tmp_path / "nowhere.json")


def test_the_rules_of_the_signal_always_have_what_they_read() -> None:
    names = required_features(SIGNAL)
    assert len(names) == 10
    assert {"trend_168", "relative_trend_1344", "vol_fast", "vol_slow"} <= set(names)
