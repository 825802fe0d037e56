"""Features of a request: what it brings, what was known when it came."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from levibot.errors import UnknownSymbol, UsageError
from levibot.features.on_demand import ON_DEMAND, Request, compute_on_demand
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.market.bars import FIELDS, to_datetime

NAMES = [feature.name for feature in ON_DEMAND]
HOUR = timedelta(hours=1)


def values(panel, request: Request) -> dict[str, float]:
    return dict(zip(NAMES, compute_on_demand(ON_DEMAND, panel, request), strict=True))


def test_an_order_is_measured_by_what_the_market_trades(small_market) -> None:
    as_of = to_datetime(small_market.closes_at[-1])
    found = values(small_market, Request("ETHUSDT", as_of, order_notional=5e4))
    traded = (small_market.volume * small_market.close)[:, 1]
    assert found["order_size_24"] == pytest.approx(np.log(5e4 / traded[-24:].mean()))
    assert found["order_size_168"] == pytest.approx(np.log(5e4 / traded[-168:].mean()))
    moved = np.abs(np.diff(np.log(small_market.close[-169:, 1]))).sum()
    assert found["order_impact_168"] == pytest.approx(5e4 * moved / traded[-168:].sum())


def test_without_an_order_its_size_is_unknown_and_the_age_is_not(small_market) -> None:
    found = values(small_market, Request("BTCUSDT", to_datetime(small_market.closes_at[-1]) + HOUR / 4))
    assert found.pop("bar_age") == 0.25
    assert np.isnan(list(found.values())).all()


def test_the_age_is_that_of_the_symbols_own_bar(small_market) -> None:
    fields = {name: getattr(small_market, name).copy() for name in FIELDS}
    for field in fields.values():
        field[-3:, 2] = np.nan
    holed = replace(small_market, **fields)
    as_of = to_datetime(small_market.closes_at[-1])
    assert values(holed, Request("ADAUSDT", as_of))["bar_age"] == 3.0
    assert values(holed, Request("BTCUSDT", as_of))["bar_age"] == 0.0


@pytest.mark.parametrize("late", [timedelta(0), HOUR / 2, HOUR - timedelta(microseconds=1)])
def test_a_bar_that_was_not_finished_is_not_read(small_market, late) -> None:
    as_of = to_datetime(small_market.closes_at[-11]) + late
    request = Request("ETHUSDT", as_of, order_notional=1e5)
    np.testing.assert_array_equal(
        compute_on_demand(ON_DEMAND, small_market, request),
        compute_on_demand(ON_DEMAND, small_market.rows(slice(0, -10)), request),
    )
    # The check is one: ten bars later, the values are others.
    later = replace(request, as_of=to_datetime(small_market.closes_at[-1]) + late)
    assert (compute_on_demand(ON_DEMAND, small_market, later)[1:] != 0).all()
    assert values(small_market, later)["order_size_24"] != values(small_market, request)["order_size_24"]


def test_a_bounded_window_is_enough(small_market) -> None:
    request = Request("ETHUSDT", to_datetime(small_market.closes_at[-1]), order_notional=1e5)
    tail = small_market.tail(169 + 24)
    np.testing.assert_allclose(
        compute_on_demand(ON_DEMAND, tail, request),
        compute_on_demand(ON_DEMAND, small_market, request),
        rtol=1e-9,
    )


def test_before_the_first_bar_nothing_is_known(small_market) -> None:
    request = Request("ETHUSDT", to_datetime(small_market.ts[0]), order_notional=1e5)
    assert np.isnan(compute_on_demand(ON_DEMAND, small_market, request)).all()


def test_a_bad_request_is_refused(small_market) -> None:
    as_of = to_datetime(small_market.ts[-1])
    with pytest.raises(UsageError, match="An order of -1 in quote currency has no size"):
        Request("ETHUSDT", as_of, order_notional=-1.0)
    with pytest.raises(UnknownSymbol, match="does not have DOGEUSDT"):
        compute_on_demand(ON_DEMAND, small_market, Request("DOGEUSDT", as_of))


def test_they_are_part_of_a_views_version() -> None:
    views = [FeatureView("core", CORE.features, on_demand) for on_demand in ((), ON_DEMAND, ON_DEMAND[:2])]
    assert len({view.version for view in views}) == 3
    longer = replace(ON_DEMAND[1], parameters=(("bars", 25),))
    assert FeatureView("core", CORE.features, (longer,)).version != views[0].version


def test_a_name_is_given_once() -> None:
    twice = replace(ON_DEMAND[0], name="return_1")
    with pytest.raises(UsageError, match="two features named 'return_1'"):
        FeatureView("twice", CORE.features, (twice,))


@pytest.mark.parametrize("feature", ON_DEMAND, ids=lambda feature: feature.name)
def test_each_says_what_it_is(feature) -> None:
    assert feature.family
    assert feature.unit
    assert feature.source
    assert feature.formula.__doc__
