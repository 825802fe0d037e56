"""The views that models are trained on and served with."""

from __future__ import annotations

from levibot.errors import UsageError
from levibot.features.returns import RETURNS
from levibot.features.trend import TREND
from levibot.features.view import FeatureView
from levibot.features.volatility import VOLATILITY

CORE = FeatureView("core", (*RETURNS, *TREND, *VOLATILITY))

VIEWS = (CORE,)


def view(name: str) -> FeatureView:
    """The view of that name. Raises UsageError if there is none."""
    for candidate in VIEWS:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in VIEWS)
    raise UsageError(f"There is no feature view {name!r}.", hint=f"Views: {known}.")
