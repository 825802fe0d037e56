"""What a walk through its past teaches of a model's members: the weights to begin with, and a router."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from levibot.errors import DataError
from levibot.learning.ensemble_seed import EnsembleSeed
from levibot.learning.market_days import market_days
from levibot.learning.members import prior_weights
from levibot.learning.past import Past
from levibot.learning.router import fit_router, router_features
from levibot.learning.signal import SignalParameters
from levibot.learning.training import SIGNAL, TRAINING, Progress, TrainingParameters
from levibot.learning.walk_forward import Split
from levibot.learning.walk_forward_opinions import walk_forward_opinions
from levibot.learning.weights import WeightState, weights_over
from levibot.market.bars import to_datetime64
from levibot.trading.allocation import on_days, regimes_at
from levibot.trading.assembly import earned_alone
from levibot.trading.conditions import Conditions
from levibot.trading.costs import Costs
from levibot.trading.metrics import days_of
from levibot.trading.tape import Tape


def walk_ensemble(
    past: Past,
    splits: Sequence[Split],
    *,
    seed: int,
    costs: Costs,
    signal: SignalParameters = SIGNAL,
    training: TrainingParameters = TRAINING,
    progress: Progress | None = None,
) -> EnsembleSeed:
    """Let each member trade the splits alone, by models that saw only what came before, and learn from that.

    The same code as a report's: the weights after the last finished day are where live days go on. The router
    is fitted on all days of the walk, and abstains where purged folds show no skill. Nothing is chosen by it.
    Raises DataError on splits without a finished day, and as `walk_forward_opinions`.
    """
    panel = past.panel
    first, last = (
        int(np.searchsorted(panel.ts, to_datetime64(at)))
        for at in (splits[0].test_start, splits[-1].test_end)
    )
    test = panel.rows(slice(first, last))
    market = market_days(panel)
    days = days_of(test.closes_at) if len(test) else market.day[:0]
    # A day that is cut short would be learned as if it were over.
    over = np.isin(days, market.day)
    if not over.any():
        raise DataError("A walk without a finished day teaches nothing of its members.")
    opinions = walk_forward_opinions(
        past, splits, seed=seed, signal=signal, training=training, progress=progress
    )
    members = opinions.members
    tape = Tape.of(panel, slice(first, last), Conditions(costs))
    earned, days = earned_alone(opinions, tape, signal.no_trade_band)[over], days[over]
    regimes = regimes_at(market, [split.fit_at for split in splits])
    own = on_days(market.day, regimes, days)
    _, state = weights_over(WeightState.beginning(members, prior_weights(members)), days, earned, own)
    names, features = router_features(market, regimes, members, on_days(days, earned, market.day))
    router = fit_router(members, names, on_days(market.day, features, days), earned, seed=seed)
    return EnsembleSeed(state, router)
