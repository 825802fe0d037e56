"""Features as a policy sees them: scaled by what a training window showed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.market.bars import FloatArray
from levibot.trading.own_account import CLIP

Float32Array = npt.NDArray[np.float32]

# Below this share of known values a feature's mean says little of it.
LEAST_KNOWN_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Scaling:
    """Mean and deviation of each feature over a training window; saved with the policy that learned there.

    view, view_version, names: the features, in the order of the observation. since, until: the window,
    [since, until). mean, deviation: of the known values, deviation > 0. bar_volatility: deviation of one
    bar's log return over the window, > 0. All symbols count together: one policy trades them all.
    """

    view: str
    view_version: str
    names: tuple[str, ...]
    since: datetime
    until: datetime
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    bar_volatility: float

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.mean) == len(self.deviation):
            raise DataError(
                f"A scaling of {len(self.names)} features has {len(self.mean)} means and "
                f"{len(self.deviation)} deviations."
            )
        numbers = np.array([*self.mean, *self.deviation, self.bar_volatility])
        if not np.isfinite(numbers).all() or not (numbers[len(self.mean) :] > 0.0).all():
            raise DataError("A scaling needs finite means, and deviations above zero.")

    @classmethod
    def fit(
        cls,
        features: FloatArray,
        log_returns: FloatArray,
        *,
        view: str,
        view_version: str,
        names: tuple[str, ...],
        since: datetime,
        until: datetime,
    ) -> Self:
        """What the rows of a training window show.

        features: (R, F), NaN where missing. log_returns: (R',) of its bars, finite.
        Raises DataError on a feature that is missing too often or never changes, and on a still market.
        """
        known = np.isfinite(features)
        share = known.mean(axis=0)
        if (share < LEAST_KNOWN_SHARE).any():
            worst = int(share.argmin())
            raise DataError(
                f"{names[worst]} is known in {share[worst]:.0%} of the rows from {since:%Y-%m-%d} to "
                f"{until:%Y-%m-%d}; at least {LEAST_KNOWN_SHARE:.0%} are needed.",
                hint="Begin later, so that features have warmed up, or leave the feature out.",
            )
        count = known.sum(axis=0)
        mean = np.where(known, features, 0.0).sum(axis=0) / count
        gap = np.where(known, features - mean, 0.0)
        deviation = np.sqrt(np.square(gap).sum(axis=0) / count)
        still = deviation <= 1e-12 * np.maximum(np.abs(mean), 1e-12)
        if still.any():
            raise DataError(
                f"{names[int(still.argmax())]} never changes from {since:%Y-%m-%d} to {until:%Y-%m-%d}.",
                hint="Leave it out: it tells a policy nothing.",
            )
        volatility = float(np.std(log_returns))
        if not volatility > 0.0:
            raise DataError(f"No price moves from {since:%Y-%m-%d} to {until:%Y-%m-%d}.")
        return cls(
            view,
            view_version,
            names,
            since,
            until,
            tuple(mean.tolist()),
            tuple(deviation.tolist()),
            volatility,
        )

    def apply(self, features: FloatArray) -> Float32Array:
        """(R, F + 1) of features (R, F): scaled and clipped to ±CLIP, then the share that is missing.

        A missing feature stands at its mean, 0, and is counted in the last column: a policy can tell a quiet
        market from one that it cannot see.
        """
        missing = np.isnan(features)
        out = np.empty((features.shape[0], features.shape[1] + 1), dtype=np.float32)
        scaled = (features - np.array(self.mean)) / np.array(self.deviation)
        out[:, :-1] = np.clip(np.where(missing, 0.0, scaled), -CLIP, CLIP)
        out[:, -1] = missing.mean(axis=1)
        return out

    def check_window(self, since: datetime, until: datetime) -> None:
        """Refuse a window that this scaling half knows: neither within its own nor after it. DataError."""
        if not (self.since <= since and until <= self.until) and since < self.until:
            raise DataError(
                f"The scaling was learned from {self.since:%Y-%m-%d} to {self.until:%Y-%m-%d}, and the "
                f"window is {since:%Y-%m-%d} to {until:%Y-%m-%d}: it must lie within that, or after it."
            )

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self) | {
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "names": list(self.names),
            "mean": list(self.mean),
            "deviation": list(self.deviation),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The same scaling again, bit for bit. Raises DataError where it is none."""
        try:
            return cls(
                str(values["view"]),
                str(values["view_version"]),
                tuple(str(name) for name in values["names"]),
                datetime.fromisoformat(values["since"]),
                datetime.fromisoformat(values["until"]),
                tuple(float(value) for value in values["mean"]),
                tuple(float(value) for value in values["deviation"]),
                float(values["bar_volatility"]),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise DataError(f"This is no scaling of observations: {exc!r}.") from exc
