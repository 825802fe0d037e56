"""The rule that lets a new model serve, on a market with an edge that one of two models has found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.features.views import CORE
from levibot.learning.evidence.book import TrialBook
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.past import ComputedPast, Knowledge
from levibot.learning.promotion import Decision, PromotionRule, Rival, decide
from levibot.learning.rehearsal import rehearse
from levibot.learning.signal import SignalModel
from levibot.learning.training import SIGNAL, TrainingParameters, hash_panel, train
from levibot.market.bars import Panel
from levibot.market.simulator import SimulatedSource
from levibot.trading.costs import Costs
from levibot.trading.metrics import sharpe
from tests.trial_books import new_book, trial

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
END = datetime(2020, 10, 1, tzinfo=UTC)
SEEN = END - 100 * DAY
SYMBOLS = ("BTCUSDT", "ETHUSDT")
QUICK = TrainingParameters(booster=LightGBMParameters(trees=15), n_models=1, n_folds=2)
RULE = PromotionRule(days=90)
# Dear enough that ninety days tell the two apart.
COSTS = Costs().with_total(60.0)


def learn(known: Knowledge) -> SignalModel:
    return train(known, seed=1, train_start=START, training=QUICK)


def learn_to_trade_too_much(known: Knowledge) -> SignalModel:
    """A model that follows every flicker: as good before costs, and ruined by them."""
    signal = replace(SIGNAL, no_trade_band=0.0, half_life_bars=0.3)
    return train(known, seed=1, train_start=START, signal=signal, training=QUICK)


@pytest.fixture(scope="module")
def known() -> Knowledge:
    source = SimulatedSource(SYMBOLS, HOUR, seed=3, edge=0.12)
    panel = Panel.align({symbol: source.bars(symbol, START, END) for symbol in SYMBOLS})
    return ComputedPast(panel, CORE, SIGNAL.horizons_bars).at(END)


@pytest.fixture(scope="module")
def good(known: Knowledge) -> SignalModel:
    return learn(known.until(SEEN))


@pytest.fixture(scope="module")
def bad(known: Knowledge) -> SignalModel:
    return learn_to_trade_too_much(known.until(SEEN))


@pytest.fixture
def book() -> TrialBook:
    return new_book()


def judged(
    known: Knowledge,
    fit: Callable[[Knowledge], SignalModel],
    rival: SignalModel | None,
    book: TrialBook,
    rule: PromotionRule = RULE,
) -> Decision:
    against = None if rival is None else Rival("v1.0.0", rival)
    return decide(known, fit, against, trials=book, seed=7, costs=COSTS, rule=rule)


def test_the_first_model_is_promoted_and_said_to_be_the_first(known: Knowledge, book: TrialBook) -> None:
    decision = judged(known, learn, None, book)
    assert decision.is_promoted
    assert decision.reason == "The first model of this registry: there is none to hold it against."
    [counted] = book.journal.newest()
    assert (counted.kind, counted.net_sharpe) == ("hand", decision.numbers["net_sharpe"])
    assert counted.start == END - 90 * DAY
    assert decision.numbers["against"] is None


def test_a_better_model_is_promoted_with_its_numbers(
    known: Knowledge, bad: SignalModel, book: TrialBook
) -> None:
    seen: list[Knowledge] = []

    def fit(cut: Knowledge) -> SignalModel:
        seen.append(cut)
        return learn(cut)

    decision = judged(known, fit, bad, book)
    assert decision.is_promoted, decision.reason
    assert decision.reason.startswith("Promoted over v1.0.0: net Sharpe ratio +")
    # It was made with what was known before the days that it is judged on.
    start = END - 90 * DAY
    [cut] = seen
    assert (cut.as_of, cut.panel.closes_at[-1]) == (start, np.datetime64(start.replace(tzinfo=None)))
    assert np.isnan(cut.labels_of(24).values[-24:]).all()
    ours, theirs = (rehearse(model, known, start, COSTS) for model in (learn(known.until(start)), bad))
    numbers = decision.numbers
    assert (numbers["days"], numbers["net_sharpe"]) == (90, sharpe(ours.net))
    assert numbers["active_net_sharpe"] == sharpe(theirs.net)
    assert numbers["difference"]["net_sharpe"] == pytest.approx(sharpe(ours.net) - sharpe(theirs.net))
    assert numbers["difference"]["low"] > 0.0
    assert numbers["deflated_sharpe"]["n_trials"] == 1
    assert {t.parameters["strategy"]: t.kind for t in book.journal.newest()} == {
        "promotion": "hand",
        "active": "yardstick",
    }
    # The same again is the same decision, and no further trial.
    assert judged(known, learn, bad, book) == decision
    assert len(book.journal.newest()) == 2


@pytest.mark.parametrize("fit", [learn, learn_to_trade_too_much])
def test_a_model_that_is_not_better_is_not_promoted(
    known: Knowledge, good: SignalModel, book: TrialBook, fit: Callable[[Knowledge], SignalModel]
) -> None:
    decision = judged(known, fit, good, book)
    assert not decision.is_promoted
    assert decision.reason.endswith("which is not above 0.")


def test_what_many_trials_would_have_shown_without_edge_is_not_promoted(
    known: Knowledge, bad: SignalModel, book: TrialBook
) -> None:
    rng = np.random.default_rng(0)
    days = {"start": END - 90 * DAY, "end": END, "market_id": "test", "data_hash": hash_panel(known.panel)}
    book.journal.make()
    # A search whose trials lie far apart.
    book.journal.add([trial(rng.normal(0.01 * rng.normal(), 0.01, 90), n=n, **days) for n in range(200)])
    decision = judged(known, learn, bad, book)
    assert not decision.is_promoted
    assert "but deflated Sharpe ratio" in decision.reason
    assert decision.numbers["difference"]["low"] > 0.0


def test_an_active_model_that_has_seen_the_days_is_kept(known: Knowledge, book: TrialBook) -> None:
    model = learn(known.until(END - 30 * DAY))
    decision = judged(known, learn, model, book)
    assert not decision.is_promoted
    assert "30 days that the active model has not seen; 60 are needed" in decision.reason
    assert book.journal.newest() == []
    with pytest.raises(DataError, match="nothing that it earns is out of sample"):
        rehearse(model, known, END - 31 * DAY, COSTS)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"symbols": ("BTCUSDT", "SOLUSDT")}, "trades BTCUSDT, SOLUSDT"),
        ({"view_version": "gone"}, "core gone"),
    ],
)
def test_an_active_model_that_cannot_serve_is_replaced(
    known: Knowledge, good: SignalModel, book: TrialBook, change: dict[str, object], problem: str
) -> None:
    decision = judged(known, learn, replace(good, **change), book)  # type: ignore[arg-type]
    assert decision.is_promoted
    assert decision.reason.startswith("Promoted over v1.0.0, which cannot serve this run: ")
    assert problem in decision.reason


def test_a_model_of_another_view_is_held_against_on_its_own_features(
    known: Knowledge, bad: SignalModel, book: TrialBook
) -> None:
    names = known.feature_names[::-1]
    wide = replace(known.of_features(names), view="full", view_version="another")
    assert judged(wide, learn, bad, book).numbers["active_net_sharpe"] == pytest.approx(
        judged(known, learn, bad, new_book()).numbers["active_net_sharpe"], abs=1e-9
    )


def test_a_first_model_that_is_too_young_to_be_scored_says_so(known: Knowledge, book: TrialBook) -> None:
    decision = judged(known, learn, None, book, replace(RULE, days=250))
    assert decision.is_promoted
    assert "It was not scored: Training needs at least" in decision.reason
    assert book.journal.newest() == []
