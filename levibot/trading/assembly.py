"""From opinions to what is held: the one place where the ensemble of a backtest is put together.

The report and its audit both call it, so that what is audited is what is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from levibot.learning.market_days import market_days
from levibot.learning.members import Opinions, prior_weights
from levibot.learning.voting import Voting, votes_over
from levibot.learning.walk_forward import Split
from levibot.market.bars import FloatArray, Panel, to_datetime64
from levibot.trading.allocation import Allocation, allocate
from levibot.trading.metrics import days_of
from levibot.trading.tape import Tape


@dataclass(frozen=True, slots=True, eq=False)
class Assembly:
    """What the members earned alone, and each way of weighting them that followed from it.

    earned: (D, M) daily net returns of each member alone. held: (D, M) by name of the way, the weights held
    on each day. votes: one a fit, see `levibot/learning/voting.py`.
    """

    opinions: Opinions
    earned: FloatArray
    allocation: Allocation
    votes: tuple[Voting, ...]
    held: Mapping[str, FloatArray]

    def positions(self, panel: Panel, way: str) -> FloatArray:
        """(T, S) of the panel, decided at its closes under the weights of that way."""
        return self.opinions.positions(self.allocation.of_rows(panel.closes_at, self.held[way]))


def earned_alone(opinions: Opinions, tape: Tape, band: float) -> FloatArray:
    """(D, M) daily net returns of each member that has the account to itself."""
    return np.column_stack(
        [
            tape.daily_returns(tape.trade(tape.ordered(opinions.alone(member)), band))
            for member in opinions.members
        ]
    )


def assemble_ensemble(
    opinions: Opinions, panel: Panel, splits: Sequence[Split], tape: Tape, *, band: float, seed: int
) -> Assembly:
    """Trade every member alone, and let the weights follow.

    opinions: of the panel's rows. tape: of the test, which begins with the first split. Nothing of a day is
    in the weights that are held on it. Raises DataError as `allocate` does.
    """
    earned = earned_alone(opinions, tape, band)
    day = days_of(tape.test.closes_at)
    last_close = tape.test.closes_at[-1]
    fits = [split.fit_at for split in splits if to_datetime64(split.fit_at) < last_close]
    allocation = allocate(opinions.members, day, earned, market_days(panel), fits, seed=seed)
    prior = prior_weights(opinions.members)
    voted, votes = votes_over(opinions.members, day, earned, fits, prior)
    held = {
        "ensemble": allocation.ensemble,
        "router": allocation.routed,
        "fixed_weights": np.broadcast_to(prior, allocation.ensemble.shape),
        "vote": voted,
    }
    return Assembly(opinions, earned, allocation, votes, held)
