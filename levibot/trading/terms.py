"""On what terms an account trades, besides what a trade costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from levibot.errors import DataError

Funded = Literal["all", "shorts", "none"]


@dataclass(frozen=True, slots=True)
class Terms:
    """Which positions are funded, and how much an account may hold.

    funded: "all": every position is a perpetual contract; longs pay a positive rate and shorts receive it.
        "shorts": what is held long is spot and pays none, only shorts are contracts. "none": nobody pays.
    max_leverage: gross positions over equity that orders may reach. max_notional: of one position, in quote
        currency. Both are kept when orders are sized; what prices do later closes no position.
    limit_buys: a buy never costs more than the cash that is there; it is cut, not refused.
    Raises DataError on a limit that is not above zero.
    """

    funded: Funded = "all"
    max_leverage: float = math.inf
    max_notional: float = math.inf
    limit_buys: bool = True

    def __post_init__(self) -> None:
        if self.funded not in get_args(Funded):
            raise DataError(f"funded is {self.funded!r}: it must be one of {', '.join(get_args(Funded))}.")
        for name in ("max_leverage", "max_notional"):
            value = getattr(self, name)
            if not value > 0.0:
                raise DataError(f"{name} is {value}: it must be above zero; leave it out for no limit.")


UNLIMITED = Terms()
