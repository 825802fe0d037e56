"""What every kind of model promises, on a history with a planted signal."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from levibot.errors import DataError, RegistryError
from levibot.learning.learned import Learned, learn
from levibot.learning.models.kinds import MODELS, ModelParameters, fit, from_bytes, kind_of
from levibot.learning.models.lesson import FEWEST_ROWS, Lesson
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.models.linear import LinearParameters
from levibot.learning.models.lstm import LSTMModel, LSTMParameters
from levibot.learning.models.model import Model
from levibot.learning.models.sequence import Samples
from levibot.learning.models.xgboost import XGBoostParameters
from levibot.market.bars import FloatArray

N_ROWS, N_SYMBOLS, N_FEATURES = 1_500, 2, 4
REACH_BARS = 9
TAUGHT = 1_000

LSTM = LSTMParameters(units=8, steps=4, every_bars=3, dropout=0.0, learning_rate=0.02, batch_rows=256)
KINDS: tuple[ModelParameters, ...] = (
    LightGBMParameters(trees=25, learning_rate=0.2, l2=1.0),
    XGBoostParameters(trees=25, learning_rate=0.2, l2=1.0, column_share=1.0),
    LSTM,
    LinearParameters(l2=0.001),
)
IDS = [kind_of(parameters) for parameters in KINDS]


def history() -> tuple[FloatArray, FloatArray]:
    """Features (T, S, F) with holes, and what column 0 says of each point, with as much noise."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N_ROWS, N_SYMBOLS, N_FEATURES)) * [1.0, 50.0, 1e-3, 1.0] + [
        0.0,
        7.0,
        0.0,
        1.0,
    ]
    label = features[:, :, 0] + rng.normal(size=(N_ROWS, N_SYMBOLS))
    features[::7, :, 2] = np.nan
    return features, label


FEATURES, LABEL = history()


def lesson(label: FloatArray = LABEL, n_rows: int = TAUGHT, n_horizons: int = 1) -> Lesson:
    row, column = np.nonzero(np.ones((n_rows, N_SYMBOLS), dtype=np.bool_))
    labels = np.repeat(label[row, column][:, None], n_horizons, axis=1)
    return Lesson(Samples(FEATURES, row, column), labels, REACH_BARS)


def points(first: int = TAUGHT, last: int = N_ROWS) -> Samples:
    row, column = np.nonzero(np.ones((last - first, N_SYMBOLS), dtype=np.bool_))
    return Samples(FEATURES, row + first, column)


@pytest.fixture(scope="module", params=KINDS, ids=IDS)
def parameters(request: pytest.FixtureRequest) -> ModelParameters:
    given: ModelParameters = request.param
    return given


@pytest.fixture(scope="module")
def model(parameters: ModelParameters) -> Model:
    return fit(lesson(), parameters=parameters, seed=1)


@pytest.fixture(scope="module")
def member(parameters: ModelParameters) -> Learned:
    return learn([lesson()], folds(), horizons_bars=(8,), parameters=parameters, seed=1)


def folds() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    row = np.arange(N_ROWS)
    early, late = row < TAUGHT // 2, (row >= TAUGHT // 2) & (row < TAUGHT)
    gap = REACH_BARS
    return (
        (late & (row >= TAUGHT // 2 + gap), early),
        (row < TAUGHT // 2 - gap, late),
    )


def test_points_teach_by_their_weights(parameters: ModelParameters) -> None:
    """Half of the points say the opposite: what is learned is what the heavy half says."""
    taught = lesson()
    is_even = taught.samples.row % 2 == 0
    turned = replace(taught, labels=np.where(is_even[:, None], 1.0, -1.0) * taught.labels)
    unseen = points()
    truth = LABEL[unseen.row, unseen.column]
    learned = [
        np.corrcoef(
            fit(replace(turned, weights=weights), parameters=parameters, seed=1).predict(unseen)[:, 0], truth
        )[0, 1]
        for weights in (np.where(is_even, 1.99, 0.01), np.where(is_even, 0.01, 1.99))
    ]
    assert learned[0] > 0.2
    assert learned[1] < -0.2
    with pytest.raises(DataError, match="as many weights"):
        fit(replace(taught, weights=np.zeros(len(taught))), parameters=parameters, seed=1)


def test_every_kind_is_here() -> None:
    assert sorted(IDS) == sorted(MODELS)


def test_a_planted_signal_is_found_out_of_sample(model: Model) -> None:
    predicted = model.predict(points())
    assert predicted.shape == (len(points()), 1)
    # The label is half noise: no prediction reaches more than 0.71.
    assert np.corrcoef(predicted[:, 0], LABEL[TAUGHT:].ravel())[0, 1] > 0.6


def test_predictions_are_in_units_of_the_label(model: Model) -> None:
    slope = np.polyfit(model.predict(points())[:, 0], LABEL[TAUGHT:].ravel(), 1)[0]
    assert 0.8 < slope < 1.25


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e300])
def test_predictions_are_finite_whatever_the_features(model: Model, value: float) -> None:
    features = FEATURES[:60].copy()
    features[30:, :, 0] = value
    features[50:] = value
    row, column = np.nonzero(np.ones((60, N_SYMBOLS), dtype=np.bool_))
    predicted = model.predict(Samples(features, row, column))
    assert np.isfinite(predicted).all()
    # What only a label of 1 or so could tell is not blown up by a large feature.
    assert np.abs(predicted).max() < 20.0


def test_the_last_window_gives_what_the_history_gives(model: Model) -> None:
    whole = model.predict(points())
    window = model.sequence.window_bars
    for row in (TAUGHT, TAUGHT + 123, N_ROWS - 1):
        last = FEATURES[row - window + 1 : row + 1]
        live = model.predict(Samples(last, np.full(N_SYMBOLS, window - 1), np.arange(N_SYMBOLS)))
        place = (row - TAUGHT) * N_SYMBOLS
        np.testing.assert_allclose(live, whole[place : place + N_SYMBOLS], rtol=1e-9, atol=1e-12)


def test_nothing_outside_the_stated_window_is_read(model: Model) -> None:
    row, window = TAUGHT + 50, model.sequence.window_bars
    one = (np.full(N_SYMBOLS, row), np.arange(N_SYMBOLS))
    changed = np.full_like(FEATURES, 9.0)
    changed[row - window + 1 : row + 1] = FEATURES[row - window + 1 : row + 1]
    np.testing.assert_array_equal(
        model.predict(Samples(changed, *one)), model.predict(Samples(FEATURES, *one))
    )


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_threads(
    parameters: ModelParameters, model: Model
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(4)
        with ThreadPoolExecutor(2) as pool:
            seeds = (1, 2, 1)
            jobs = [pool.submit(fit, lesson(), parameters=parameters, seed=seed) for seed in seeds]
            first, other, again = (job.result().to_bytes() for job in jobs)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert first == again == model.to_bytes()
    # A closed form draws nothing.
    assert (first == other) == (kind_of(parameters) == "linear")


def test_bytes_bring_back_the_same_model(model: Model) -> None:
    loaded = from_bytes(model.kind, model.to_bytes())
    assert loaded.to_bytes() == model.to_bytes()
    assert (loaded.sequence, loaded.n_features) == (model.sequence, N_FEATURES)
    np.testing.assert_array_equal(loaded.predict(points()), model.predict(points()))


@pytest.mark.parametrize("cut", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_ends_too_early_is_refused(model: Model, cut: float) -> None:
    data = model.to_bytes()
    with pytest.raises(RegistryError):
        from_bytes(model.kind, data[: int(cut * len(data))])


@pytest.mark.parametrize("data", [b"", b"not a model", b"\xff\xfe", b"{}", b"[]", b'{"learner": {}}'])
def test_bytes_of_something_else_are_refused(parameters: ModelParameters, data: bytes) -> None:
    with pytest.raises(RegistryError):
        from_bytes(kind_of(parameters), data)


def test_one_kinds_bytes_are_refused_by_the_others(model: Model) -> None:
    for kind in MODELS:
        if kind != model.kind:
            with pytest.raises(RegistryError):
                from_bytes(kind, model.to_bytes())
    with pytest.raises(RegistryError, match="'tarot'"):
        from_bytes("tarot", model.to_bytes())


# Each of these ends the process, or changes what is predicted, where the library reads it unchecked.
BROKEN = {
    "lightgbm": [(b"left_child=", b"left_child=9999 "), (b"split_feature=", b"split_feature=77 ")],
    "xgboost": [(b'"left_children":[', b'"left_children":[9999,'), (b'"tree_info":[0', b'"tree_info":[1')],
    "lstm": [(b'"dtype":"F64"', b'"dtype":"I64"'), (b'"head_bias"', b'"head_bios"')],
    "linear": [(b'"mean": [', b'"mean": [1.0, '), (b'"weights": [[', b'"weights": [[NaN, ')],
}


@pytest.mark.parametrize("case", [0, 1])
def test_a_file_with_a_broken_part_is_refused(model: Model, case: int) -> None:
    old, new = BROKEN[model.kind][case]
    broken = model.to_bytes().replace(old, new, 1)
    assert broken != model.to_bytes()
    with pytest.raises(RegistryError):
        from_bytes(model.kind, broken)


def test_lessons_that_teach_nothing_are_refused(parameters: ModelParameters) -> None:
    with pytest.raises(DataError, match=f"{FEWEST_ROWS} are needed"):
        fit(lesson(n_rows=FEWEST_ROWS // N_SYMBOLS - 1), parameters=parameters, seed=0)
    good = lesson()
    for labels in (np.full_like(good.labels, np.nan), good.labels[:-1], good.labels[:, 0]):
        with pytest.raises(DataError, match="finite labels"):
            fit(replace(good, labels=labels), parameters=parameters, seed=0)


def test_other_features_are_refused(model: Model) -> None:
    fewer = Samples(FEATURES[:, :, 1:], np.array([50]), np.array([0]))
    with pytest.raises(DataError, match=f"{N_FEATURES}"):
        model.predict(fewer)


def test_no_points_have_no_predictions(model: Model) -> None:
    assert model.predict(points(TAUGHT, TAUGHT)).shape == (0, 1)


def test_several_horizons_are_learned_together_or_refused(parameters: ModelParameters) -> None:
    two = lesson(n_horizons=2)
    two = replace(two, labels=two.labels * [1.0, -1.0])
    if kind_of(parameters) in ("lightgbm", "xgboost"):
        with pytest.raises(DataError, match="2 horizons"):
            fit(two, parameters=parameters, seed=0)
    else:
        predicted = fit(two, parameters=parameters, seed=0).predict(points())
        assert predicted.shape == (len(points()), 2)
        assert np.corrcoef(predicted.T)[0, 1] < -0.95


def test_a_sequence_finds_what_one_row_does_not_hold() -> None:
    earlier = np.zeros_like(LABEL)
    earlier[6:] = FEATURES[:-6, :, 0]
    found = {}
    for parameters in (LSTM, LinearParameters(l2=0.001)):
        predicted = fit(lesson(earlier), parameters=parameters, seed=1).predict(points())
        found[kind_of(parameters)] = np.corrcoef(predicted[:, 0], earlier[TAUGHT:].ravel())[0, 1]
    assert found["lstm"] > 0.8
    assert abs(found["linear"]) < 0.2


def test_a_net_is_not_taught_by_what_overlaps_the_rows_that_judge_it() -> None:
    """Labels between the two are garbage; where they are purged, nothing changes."""

    def fitted(reach_bars: int, *, is_garbled: bool) -> bytes:
        given = replace(lesson(), reach_bars=reach_bars)
        judge = np.quantile(given.samples.row, 1.0 - LSTM.judge_share, method="lower")
        between = (given.samples.row >= judge - REACH_BARS) & (given.samples.row < judge)
        labels = np.where(between[:, None], 100.0, given.labels) if is_garbled else given.labels
        parameters = replace(LSTM, epochs=1)
        return LSTMModel.fit(replace(given, labels=labels), parameters=parameters, seed=1).to_bytes()

    assert fitted(REACH_BARS, is_garbled=True) == fitted(REACH_BARS, is_garbled=False)
    assert fitted(0, is_garbled=True) != fitted(0, is_garbled=False)


def test_probabilities_are_calibrated_out_of_sample(member: Learned) -> None:
    said = member.predict_proba(points())[:, 0]
    happened = LABEL[TAUGHT:].ravel() > 0.0
    assert ((said > 0.0) & (said < 1.0)).all()
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        bin_ = (said >= low) & (said < high)
        assert bin_.sum() > 100
        assert abs(said[bin_].mean() - happened[bin_].mean()) < 0.09
    # Ten bins of 200 points: about 0.03 by chance alone.
    assert 0.0 < member.horizons[0].calibration_error < 0.06


def test_a_member_knows_the_size_of_its_predictions_for_unseen_rows(member: Learned) -> None:
    unseen = np.sqrt(np.mean(member.predict(points()) ** 2))
    assert member.horizons[0].usual_size == pytest.approx(unseen, rel=0.15)
    assert member.horizons[0].label_mean == pytest.approx(LABEL[:TAUGHT].mean())


def test_a_member_comes_back_from_its_files(member: Learned) -> None:
    numbers, files = member.to_files()
    loaded = Learned.from_files(numbers, files)
    assert loaded.to_files() == (numbers, files)
    np.testing.assert_array_equal(loaded.predict_proba(points()), member.predict_proba(points()))


def test_a_member_is_the_mean_of_its_models(parameters: ModelParameters) -> None:
    both = [lesson(), lesson(n_rows=TAUGHT - 100)]
    member = learn(both, folds(), horizons_bars=(8,), parameters=parameters, seed=3)
    apart = [
        fit(part.centred(), parameters=parameters, seed=3_000 + k).predict(points())
        for k, part in enumerate(both)
    ]
    np.testing.assert_allclose(member.predict(points()), np.mean(apart, axis=0), rtol=1e-12)
