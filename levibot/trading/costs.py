"""What a trade costs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray
from levibot.trading.liquidity import Liquidity

BPS = 1e-4
_MAX_BPS = 1_000.0
# Where `impact_bps` is stated: an order of 1 % of a bar's volume, at a volatility of 1 % a bar.
_STATED_SHARE, _STATED_VOLATILITY = 0.01, 0.01


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of one side of a trade, in basis points of the traded value.

    fee_bps: what the exchange takes, out of cash. slippage_bps: half the spread: how far the fill of an order
    of any size moves against it. The default is 10 bps a side all in.
    impact_bps: how much further the fill of an order of 1 % of a bar's volume moves at a volatility of 1 % a
    bar. It grows with the square root of that share and in proportion to volatility (Almgren, Thum,
    Hauptmann & Li 2005; Toth et al. 2011, eq. 1: impact = Y * volatility * sqrt(size / volume), where 10 bps
    is Y = 1). 0 leaves it out. All lie in [0, 1000]. Raises DataError outside.
    """

    fee_bps: float = 7.5
    slippage_bps: float = 2.5
    impact_bps: float = 0.0

    def __post_init__(self) -> None:
        for name in ("fee_bps", "slippage_bps", "impact_bps"):
            value = getattr(self, name)
            if not 0.0 <= value <= _MAX_BPS:
                raise DataError(f"{name} is {value}: it must lie between 0 and {_MAX_BPS:g}.")

    @property
    def total_bps(self) -> float:
        """Fee and slippage together, a side: what an order pays whatever its size."""
        return self.fee_bps + self.slippage_bps

    @property
    def fee_rate(self) -> float:
        """Fee as a fraction of the traded value."""
        return self.fee_bps * BPS

    @property
    def slippage_rate(self) -> float:
        """Move of the fill against the order, as a fraction of the price."""
        return self.slippage_bps * BPS

    def impact_per_root_unit(self, liquidity: Liquidity) -> FloatArray:
        """(T, S): times the square root of an order's units, its impact as a fraction of the price."""
        at_one_volume = self.impact_bps * BPS / _STATED_VOLATILITY / np.sqrt(_STATED_SHARE)
        scale: FloatArray = at_one_volume * liquidity.volatility / np.sqrt(liquidity.volume)
        return scale

    def with_total(self, total_bps: float) -> Costs:
        """Costs of `total_bps` a side with the same split and the same impact; all of it is fee where nothing
        is to be split.
        """
        if self.total_bps == 0.0:
            return replace(self, fee_bps=total_bps)
        factor = total_bps / self.total_bps
        return replace(self, fee_bps=self.fee_bps * factor, slippage_bps=self.slippage_bps * factor)


NO_COSTS = Costs(0.0, 0.0)
