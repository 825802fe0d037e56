"""The views that models are trained on and served with."""

from __future__ import annotations

from levibot.errors import UsageError
from levibot.features.calendar import CALENDAR
from levibot.features.cross_asset import CROSS_ASSET
from levibot.features.returns import RETURNS
from levibot.features.trend import TREND
from levibot.features.view import FeatureView
from levibot.features.volatility import VOLATILITY
from levibot.features.volume import VOLUME

CORE = FeatureView("core", (*RETURNS, *TREND, *VOLATILITY, *VOLUME, *CROSS_ASSET, *CALENDAR))

VIEWS = (CORE,)


def view(name: str) -> FeatureView:
    """The view of that name. Raises UsageError if there is none."""
    for candidate in VIEWS:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in VIEWS)
    raise UsageError(f"There is no feature view {name!r}.", hint=f"Views: {known}.")
