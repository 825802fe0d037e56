"""Which of two return streams earns more, looked at every day without paying for the looking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from levibot.errors import DataError, UsageError
from levibot.market.bars import FloatArray

FIRST_LOOK_DAYS = 60


@dataclass(frozen=True, slots=True, eq=False)
class ConfidenceSequence:
    """Bounds of the mean daily difference that hold on all days together.

    mean, low, high: (T,) as known after each day; the bounds are infinite before the first look and as long
    as the streams have not differed. decided_after: days until zero was first outside, None where it never
    was.
    """

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    decided_after: int | None

    @property
    def first_is_better(self) -> bool | None:
        """What was decided on the day of the decision; None without one. Later days do not take it back."""
        return None if self.decided_after is None else bool(self.low[self.decided_after - 1] > 0.0)


def confidence_sequence(
    first: FloatArray,
    second: FloatArray,
    *,
    alpha: float = 0.05,
    plan_days: int = 365,
    first_look_days: int = FIRST_LOOK_DAYS,
) -> ConfidenceSequence:
    """Compare two streams (T,) of returns of the same days, oldest first; `second` may be the control.

    An asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, Annals of
    Statistics 52(6), theorem 2.2): on streams whose differences have mean zero given the past, zero is ever
    outside with probability alpha or less, however often it is looked at and whenever one stops. Changing
    volatility and heavy tails are allowed for. Days that hang together are not: sum the returns of weeks, and
    give `plan_days` and `first_look_days` in weeks. It compares means, so let both streams run at one risk.

    plan_days: for which length the bounds are tightest. first_look_days: the theorem is of many days, so
    earlier ones decide nothing.
    Raises DataError on different lengths or a return that is not finite, UsageError on alpha outside (0, 1).
    """
    if first.shape != second.shape:
        raise DataError(f"{len(first)} days cannot be compared with {len(second)}.")
    if not 0.0 < alpha < 1.0 or plan_days < 1 or first_look_days < 2:
        raise UsageError(
            f"alpha {alpha}, plan_days {plan_days} and first_look_days {first_look_days} must be in (0, 1), "
            "at least 1 and at least 2."
        )
    difference = first - second
    if not np.isfinite(difference).all():
        raise DataError("Streams with returns that are not finite cannot be compared.")
    n = np.arange(1.0, len(difference) + 1.0)
    mean = np.cumsum(difference) / n
    variance = np.maximum(np.cumsum(difference**2) / n - mean**2, 0.0)
    # The width that is tightest after `plan_days` (their equation 26, with the logarithm written out).
    wanted = -2.0 * np.log(alpha)
    rho2 = (wanted + np.log(wanted + 1.0)) / plan_days
    reach = np.sqrt(
        variance * 2.0 * (n * rho2 + 1.0) / (n**2 * rho2) * np.log(np.sqrt(n * rho2 + 1.0) / alpha)
    )
    reach[(n < first_look_days) | (variance == 0.0)] = np.inf
    low, high = mean - reach, mean + reach
    outside = np.flatnonzero((low > 0.0) | (high < 0.0))
    return ConfidenceSequence(mean, low, high, int(outside[0]) + 1 if len(outside) else None)
