"""The rules of an episode: what may be done, what it costs, what is rewarded, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from levibot.errors import DataError
from levibot.learning.signal import SignalParameters
from levibot.market.bars import FloatArray
from levibot.trading.backtest import START_EQUITY
from levibot.trading.costs import Costs
from levibot.trading.liquidity import Liquidity
from levibot.trading.market_step import Rules, rules_of
from levibot.trading.own_account import per_unrealised_of
from levibot.trading.terms import UNLIMITED, Terms
from rl.reward import Reward, RewardRule

Actions = Literal["discrete", "continuous"]

# An account that is lost counts as this share of the ruin line: the logarithm of what it lost is finite.
LOST_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Episode:
    """A window of the market that is played as one.

    length_bars: decisions in an episode; None plays the market from its first row to its last.
    random_start: begin at any row from which that many bars follow, each as likely; else at the first one.
    ruin_share: an account at or below this share of its start is bankrupt, and the episode ends.
    Raises DataError on a length below 1 and on a share outside (0, 1).
    """

    length_bars: int | None = None
    random_start: bool = False
    ruin_share: float = 0.1

    def __post_init__(self) -> None:
        if self.length_bars is not None and self.length_bars < 1:
            raise DataError(f"An episode of {self.length_bars} bars has no decision; it needs at least 1.")
        if not 0.0 < self.ruin_share < 1.0:
            raise DataError(f"ruin_share is {self.ruin_share}: it must lie between 0 and 1.")


LOG_RETURN, WHOLE_WINDOW, COSTS = Reward(), Episode(), Costs()
NO_TRADE_BAND = SignalParameters().no_trade_band


@dataclass(frozen=True, slots=True)
class Game:
    """How an account is played.

    actions: "discrete": 0 short, 1 flat, 2 long, which are positions of -1, 0 and 1 times equity;
        "continuous": the position itself, in [-1, 1]. Either is a target on every bar, as in a backtest.
    costs, terms, no_trade_band, start_equity: as in `levibot.trading.backtest.simulate`. With a band an
        order stops at its edge, so that "flat" may leave a position as large as the band; 0 has none.
    Raises DataError on a negative band and a start equity that is not above zero.
    """

    actions: Actions = "discrete"
    reward: Reward = LOG_RETURN
    episode: Episode = WHOLE_WINDOW
    costs: Costs = COSTS
    terms: Terms = UNLIMITED
    no_trade_band: float = NO_TRADE_BAND
    start_equity: float = START_EQUITY

    def __post_init__(self) -> None:
        if self.actions not in get_args(Actions):
            raise DataError(f"The actions are {self.actions!r}: they must be one of {get_args(Actions)}.")
        if not 0.0 <= self.no_trade_band < np.inf:
            raise DataError(f"The no-trade band is {self.no_trade_band}: it must not be negative.")
        if not 0.0 < self.start_equity < np.inf:
            raise DataError(f"The start equity is {self.start_equity}: it must be above zero.")

    def play(self, bar_volatility: float) -> Play:
        """As the kernel reads it. bar_volatility: of the training window, a log return."""
        ruin = self.start_equity * self.episode.ruin_share
        return Play(
            rules_of(self.costs, self.terms),
            self.reward.rule,
            float(self.no_trade_band),
            float(self.start_equity),
            ruin,
            ruin * LOST_SHARE,
            self.episode.length_bars or 0,
            self.episode.random_start,
            per_unrealised_of(bar_volatility),
        )

    def impact(self, liquidity: Liquidity) -> FloatArray:
        """What an order's root unit moves its fill by, of the liquidity's shape; zeros without an impact."""
        if self.costs.impact_bps == 0.0:
            return np.zeros_like(liquidity.volume)
        return self.costs.impact_per_root_unit(liquidity)

    def funding(self, rates: FloatArray) -> FloatArray:
        """The rates that are charged; zeros where the terms fund nothing."""
        return np.zeros_like(rates) if self.terms.funded == "none" else rates


class Play(NamedTuple):
    """A `Game` as the compiled kernel reads it. length_bars: 0 = to the last row."""

    rules: Rules
    reward: RewardRule
    no_trade_band: float
    start_equity: float
    ruin_equity: float
    lost_equity: float
    length_bars: int
    random_start: bool
    per_unrealised: float
