"""A signal, how the ensemble came to it, and its form in Redis."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import date, datetime
from typing import Any, Self

from levibot.errors import DataError
from levibot.stores.feature_hash import instant_text


@dataclass(frozen=True, slots=True)
class Blend:
    """How the members' opinions of one symbol became its position.

    opinions: of each member, in [-1, 1]; one without an opinion is left out. positions: fractions of equity,
    before the no-trade band, that each member would hold alone, and each way of weighing
    (levibot/serving/weighing.py). no_trade_band: fraction of equity. weights: of each member that has an
    opinion, sum 1, the ones that made the position: what the others weigh went to these in proportion.
    route: `router` or `ensemble`, what gave them; abstained: why the router did not, else empty. regime:
    probability of each, empty where none is known. weights_from: redis, memory, prior or configuration.
    weights_as_of: the last day that the weights have learned from, None where from none. weights_age_s:
    market time since that day was over, None likewise. absent: the members that did not answer, and why
    (levibot/serving/member_panel.py).
    """

    opinions: Mapping[str, float]
    positions: Mapping[str, float]
    no_trade_band: float
    weights: Mapping[str, float]
    route: str
    abstained: str
    regime: Mapping[str, float]
    weights_from: str
    weights_as_of: date | None
    weights_age_s: float | None
    absent: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        told = None if self.weights_as_of is None else self.weights_as_of.isoformat()
        return asdict(self) | {"weights_as_of": told}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The same blend again. Raises ValueError, TypeError or KeyError on anything else."""
        told = values["weights_as_of"]
        return cls(**{**values, "weights_as_of": None if told is None else date.fromisoformat(told)})


@dataclass(frozen=True, slots=True)
class Signal:
    """What the ensemble says about one symbol at `as_of`, the close of the newest bar it has seen.

    probability_up: in [0, 1]. target_position: in units of capital, negative = short.
    source: what produced it. expected_return: over the model's horizon, None where the model gives none.
    blend: how the position came about, None of a signal that was written before members were told.
    """

    symbol: str
    as_of: datetime
    probability_up: float
    target_position: float
    model_version: str
    view_version: str
    market_id: str
    source: str
    expected_return: float | None = None
    blend: Blend | None = None

    def age_s(self, now: datetime) -> float:
        """Seconds of market time since `as_of`, never negative."""
        return max(0.0, (now - self.as_of).total_seconds())

    def to_json(self) -> str:
        """All of it. Raises ValueError on a number that JSON has no word for."""
        blend = None if self.blend is None else self.blend.to_json()
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return json.dumps(values | {"as_of": instant_text(self.as_of), "blend": blend}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """What `to_json` gave. Raises ValueError, TypeError or KeyError on anything else."""
        values = json.loads(text)
        as_of = datetime.fromisoformat(values["as_of"])
        told = values.get("blend")
        blend = None if told is None else Blend.from_json(told)
        return cls(**values | {"as_of": as_of, "blend": blend})


def check_signal(signal: Signal, market_id: str, view_version: str) -> None:
    """Raises DataError on a signal of another market or view, or with a number out of its limits."""
    if (signal.market_id, signal.view_version) != (market_id, view_version):
        raise DataError(
            f"The signal of {signal.symbol} is of market {signal.market_id}, view {signal.view_version}; "
            f"this store holds {market_id}, {view_version}."
        )
    if signal.as_of.tzinfo is None:
        raise DataError(f"The signal of {signal.symbol} is as of {signal.as_of}, without a time zone.")
    if not 0.0 <= signal.probability_up <= 1.0:
        raise DataError(f"probability_up of {signal.symbol} is {signal.probability_up}, not in [0, 1].")
    for name in ("target_position", "expected_return"):
        value = getattr(signal, name)
        if value is not None and not math.isfinite(value):
            raise DataError(f"{name} of {signal.symbol} is {value}, not a finite number.")
    if signal.blend is not None:
        _check_blend(signal.symbol, signal.blend)


def _check_blend(symbol: str, blend: Blend) -> None:
    for name in ("opinions", "positions", "weights", "regime"):
        numbers: Mapping[str, float] = getattr(blend, name)
        wrong = [key for key, value in numbers.items() if not math.isfinite(value)]
        if wrong:
            raise DataError(f"{name} of {symbol} holds {numbers[wrong[0]]} for {wrong[0]}, no finite number.")
    if abs(sum(blend.weights.values()) - 1.0) > 1e-9:
        raise DataError(f"The weights of {symbol} sum to {sum(blend.weights.values())}: they must sum to 1.")
    if not 0.0 <= blend.no_trade_band < math.inf:
        raise DataError(f"no_trade_band of {symbol} is {blend.no_trade_band}: it must not be negative.")
