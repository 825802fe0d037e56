"""The views that models are trained on and served with."""

from __future__ import annotations

from levibot.errors import UsageError
from levibot.features.calendar import CALENDAR
from levibot.features.channels import CHANNELS
from levibot.features.comovement import COMOVEMENT
from levibot.features.cross_asset import CROSS_ASSET
from levibot.features.cross_section import CROSS_SECTION
from levibot.features.distribution import DISTRIBUTION
from levibot.features.flow import FLOW
from levibot.features.funding import FUNDING
from levibot.features.memory import MEMORY
from levibot.features.microstructure import MICROSTRUCTURE
from levibot.features.momentum import MOMENTUM
from levibot.features.on_demand import ON_DEMAND
from levibot.features.oscillators import OSCILLATORS, RSI
from levibot.features.outside import OUTSIDE
from levibot.features.ranges import RANGES
from levibot.features.returns import RETURNS
from levibot.features.seasons import SEASONS
from levibot.features.trend import TREND
from levibot.features.trend_lines import TREND_LINES
from levibot.features.view import FeatureView
from levibot.features.volatility import VOLATILITY
from levibot.features.volatility_shape import VOLATILITY_SHAPE
from levibot.features.volume import VOLUME

CORE = FeatureView("core", (*RETURNS, *TREND, *RSI, *VOLATILITY, *VOLUME, *CROSS_ASSET, *CALENDAR))

FULL = FeatureView(
    "full",
    (
        *CORE.features,
        *MOMENTUM,
        *TREND_LINES,
        *CHANNELS,
        *OSCILLATORS,
        *RANGES,
        *VOLATILITY_SHAPE,
        *FLOW,
        *MICROSTRUCTURE,
        *DISTRIBUTION,
        *MEMORY,
        *COMOVEMENT,
        *CROSS_SECTION,
        *SEASONS,
        *FUNDING,
        *OUTSIDE,
    ),
    ON_DEMAND,
)

VIEWS = (CORE, FULL)


def view(name: str) -> FeatureView:
    """The view of that name. Raises UsageError if there is none."""
    for candidate in VIEWS:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in VIEWS)
    raise UsageError(f"There is no feature view {name!r}.", hint=f"Views: {known}.")
