"""What a report's page draws beside the figures of its JSON: values by day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from levibot.learning.walk_forward import Split
from levibot.market.bars import FloatArray, TimeArray


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """day: (D,) datetime64[D]. daily_returns: (D,) net, by strategy. weights: (D, M) of the members, by who
    holds them; empty where nobody does. regimes: (D, R) probabilities of `regime_names`, NaN where unknown.
    splits: what each fit learned from and traded.
    """

    day: TimeArray
    daily_returns: Mapping[str, FloatArray]
    members: tuple[str, ...]
    weights: Mapping[str, FloatArray]
    regime_names: tuple[str, ...]
    regimes: FloatArray
    splits: tuple[Split, ...]
