"""Models that are kept give what models that are fitted give, and are fitted once."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.features.views import CORE
from levibot.learning.past import ComputedPast
from levibot.learning.search import kept_models
from levibot.learning.search.kept_models import KeptModels
from levibot.learning.search.pareto import Score
from levibot.learning.search.space import Candidate
from levibot.learning.training import Fit, TrainingParameters, train
from levibot.market.bars import Panel
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.trading.costs import Costs
from levibot.trading.rung_score import Exam, Judged, score_rung
from tests.trial_books import new_book

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
N_FOLDS = 2
QUICK = Candidate().with_values(
    {
        "training.kinds": ("lightgbm", "xgboost", "lstm", "linear"),
        "training.n_models": 1,
        "training.n_folds": 2,
        "training.booster.trees": 4,
        "training.xgboost.trees": 4,
        "training.lstm.epochs": 1,
    }
)
ANOTHER_SIGNAL = {"signal.half_life_bars": 2.0, "signal.short_share": 0.9, "signal.no_trade_band": 0.03}


@pytest.fixture(scope="module")
def exam() -> Exam:
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.05)
    end = MARKET_START + 4800 * HOUR
    panel = Panel.align({s: source.bars(s, MARKET_START, end) for s in SYMBOLS})
    return Exam.of(
        ComputedPast(panel, CORE, (8, 24)),
        view=CORE.name,
        view_version=CORE.version,
        costs=Costs(),
        seed=3,
        n_folds=N_FOLDS,
        judged_share=0.3,
        training=TrainingParameters(kinds=QUICK.training.kinds),
    )


def judge(exam: Exam, fit: Fit, values: Mapping[str, Any], n_folds: int = N_FOLDS) -> tuple[Judged, Score]:
    candidate = QUICK.with_values(values)
    return score_rung(
        exam, candidate, Judged.nothing(exam), n_folds, trials=new_book(), searched=dict(values), fit=fit
    )


def refuse(*_: object, **__: object) -> None:
    raise DataError("It was fitted again.")


def test_kept_models_say_to_the_bit_what_fitted_ones_say_and_are_fitted_once(
    exam: Exam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = [judge(exam, train, values) for values in ({}, ANOTHER_SIGNAL)]
    assert fitted[0][1] != fitted[1][1]
    here = KeptModels(tmp_path)
    first = judge(exam, here.fit, {})
    assert len(list(tmp_path.iterdir())) == N_FOLDS * len(QUICK.training.kinds)
    monkeypatch.setattr(kept_models, "train", refuse)
    # In the process that fitted them, and in another one that has only the folder.
    for kept in (here, pickle.loads(pickle.dumps(here))):
        again = [first, judge(exam, kept.fit, ANOTHER_SIGNAL), judge(exam, kept.fit, {})]
        for (judged, score), (true_judged, true_score) in zip(again, [*fitted, fitted[0]], strict=True):
            assert score == true_score
            np.testing.assert_array_equal(judged.targets, true_judged.targets)
    # Whatever else is trained, is trained.
    for values in ({"training.booster.trees": 5}, {"training.embargo_bars": 30}, {"training.lstm.units": 9}):
        with pytest.raises(DataError, match="fitted again"):
            judge(exam, here.fit, values, 1)
    with pytest.raises(DataError, match="fitted again"):
        judge(replace(exam, seed=4), here.fit, {}, 1)


def test_a_torn_file_is_fitted_again(exam: Exam, tmp_path: Path) -> None:
    values = {"training.kinds": ("linear",)}
    _, score = judge(exam, KeptModels(tmp_path).fit, values)
    for path in tmp_path.iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert judge(exam, KeptModels(tmp_path).fit, values)[1] == score
    whole = [path.read_bytes() for path in tmp_path.iterdir()]
    assert judge(exam, KeptModels(tmp_path).fit, values)[1] == score
    assert [path.read_bytes() for path in tmp_path.iterdir()] == whole
