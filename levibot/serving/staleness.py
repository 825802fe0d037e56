"""How old features may get before somebody should look."""

from __future__ import annotations

from datetime import timedelta

# On the machine's clock: what a slow exchange and a restarted actor take is far below it.
LATE_S = 300.0


def staleness_limit_s(interval: timedelta, rate: float) -> float:
    """Seconds on the market's clock: the bar that features age by until the next one closes, and LATE_S.

    rate: seconds of the market in one of the machine.
    """
    return interval.total_seconds() + LATE_S * rate
