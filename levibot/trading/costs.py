"""What a trade costs."""

from __future__ import annotations

from dataclasses import dataclass

from levibot.errors import DataError

BPS = 1e-4
_MAX_BPS = 1_000.0


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of one side of a trade, in basis points of the traded value.

    fee_bps: what the exchange takes, out of cash. slippage_bps: how far the fill moves against the order.
    The default is 10 bps a side all in. Both lie in [0, 1000]. Raises DataError outside.
    """

    fee_bps: float = 7.5
    slippage_bps: float = 2.5

    def __post_init__(self) -> None:
        for name in ("fee_bps", "slippage_bps"):
            value = getattr(self, name)
            if not 0.0 <= value <= _MAX_BPS:
                raise DataError(f"{name} is {value}: it must lie between 0 and {_MAX_BPS:g}.")

    @property
    def total_bps(self) -> float:
        """Fee and slippage together, a side."""
        return self.fee_bps + self.slippage_bps

    @property
    def fee_rate(self) -> float:
        """Fee as a fraction of the traded value."""
        return self.fee_bps * BPS

    @property
    def slippage_rate(self) -> float:
        """Move of the fill against the order, as a fraction of the price."""
        return self.slippage_bps * BPS

    def scaled(self, factor: float) -> Costs:
        """Both parts times `factor`."""
        return Costs(self.fee_bps * factor, self.slippage_bps * factor)

    def with_total(self, total_bps: float) -> Costs:
        """Costs of `total_bps` a side with the same split; all of it is fee where nothing is to be split."""
        if self.total_bps == 0.0:
            return Costs(total_bps, 0.0)
        return self.scaled(total_bps / self.total_bps)


NO_COSTS = Costs(0.0, 0.0)
