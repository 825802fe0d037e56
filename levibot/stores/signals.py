"""A signal, and its form in Redis."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Self

from levibot.errors import DataError
from levibot.stores.feature_hash import instant_text


@dataclass(frozen=True, slots=True)
class Signal:
    """What the ensemble says about one symbol at `as_of`, the close of the newest bar it has seen.

    probability_up: in [0, 1]. target_position: in units of capital, negative = short.
    source: what produced it. expected_return: over the model's horizon, None where the model gives none.
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

    def age_s(self, now: datetime) -> float:
        """Seconds of market time since `as_of`, never negative."""
        return max(0.0, (now - self.as_of).total_seconds())

    def to_json(self) -> str:
        """All of it. Raises ValueError on a number that JSON has no word for."""
        return json.dumps(asdict(self) | {"as_of": instant_text(self.as_of)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """What `to_json` gave. Raises ValueError, TypeError or KeyError on anything else."""
        fields = json.loads(text)
        return cls(**fields | {"as_of": datetime.fromisoformat(fields["as_of"])})


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
