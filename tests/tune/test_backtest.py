"""The backtest on a cluster: the numbers of one process, whoever does which piece."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from levibot.errors import DataError
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.models.lstm import LSTMParameters
from levibot.learning.models.xgboost import XGBoostParameters
from levibot.learning.training import TrainingParameters
from levibot.learning.walk_forward_opinions import Walk, opinions_of
from levibot.market.simulator import SimulatedSource
from levibot.stores.frozen_history import FrozenHistories
from levibot.trading.report import run_backtest
from tests.trial_books import new_book
from tune.backtest import main, walk_on_cluster

SYMBOLS = ("BTCUSDT", "ETHUSDT")
SOURCE = SimulatedSource(SYMBOLS, timedelta(hours=1), seed=5, edge=0.03)
QUICK = TrainingParameters(
    kinds=("lightgbm", "xgboost", "lstm", "linear"),
    booster=LightGBMParameters(trees=8),
    xgboost=XGBoostParameters(trees=8),
    lstm=LSTMParameters(units=4, steps=3, epochs=1),
    n_models=1,
    n_folds=2,
)


@pytest.fixture(scope="module")
def histories() -> Iterator[FrozenHistories]:
    with tempfile.TemporaryDirectory() as folder:
        yield FrozenHistories(Path(folder), say=pytest.fail)


def report(histories: FrozenHistories, walk: Walk | None, **change: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "train_start": datetime(2020, 1, 1, tzinfo=UTC),
        "test_start": datetime(2020, 7, 1, tzinfo=UTC),
        "test_end": datetime(2020, 8, 20, tzinfo=UTC),
        "refit": "monthly",
        "rolling": timedelta(days=170),
    }
    return run_backtest(
        SOURCE,
        SYMBOLS,
        seed=1,
        trials=new_book(),
        histories=histories,
        training=QUICK,
        walk=walk,
        **{**arguments, **change},
    ).to_json()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_one_after_the_other_beside_each_other_and_on_a_cluster_are_one(
    cluster: None, histories: FrozenHistories
) -> None:
    alone = report(histories, lambda past, pieces, recipe: (opinions_of(past, p, recipe) for p in pieces))
    assert report(histories, None) == alone
    assert report(histories, walk_on_cluster) == alone
    # What cannot be taught is said in one sentence there too.
    with pytest.raises(DataError, match="rows with a label") as refused:
        report(histories, walk_on_cluster, rolling=timedelta(days=10))
    assert "\n" not in str(refused.value)


def test_a_job_that_cannot_run_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("LEVIBOT_HOME", str(tmp_path))
    dates = ("--train-start", "2020-01-01", "--test-start", "2020-07-01", "--test-end", "2020-08-01")
    monkeypatch.setattr(sys, "argv", ["backtest", *dates, "--json", "/no/such/folder/report.json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "backtest: The folder /no/such/folder for the report does not exist.\n"
