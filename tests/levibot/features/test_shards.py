"""Parts of a cross-section, computed apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import UsageError
from levibot.features.engine import compute_tail
from levibot.features.shards import Shard, compute_tail_of
from levibot.features.views import VIEWS
from levibot.market.bars import FIELDS, Panel

symbols = st.lists(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=12), unique=True)


@given(symbols=symbols, count=st.integers(1, 8))
def test_every_symbol_belongs_to_exactly_one_shard(symbols: list[str], count: int) -> None:
    owned = [symbol for index in range(count) for symbol in Shard(index, count).owned(symbols)]
    assert sorted(owned) == sorted(symbols)


@given(symbols=symbols, other=symbols, count=st.integers(1, 8))
def test_a_symbol_stays_where_it_is_whatever_else_is_traded(
    symbols: list[str], other: list[str], count: int
) -> None:
    shard = Shard(0, count)
    assert set(shard.owned(symbols)) == set(shard.owned([*other, *symbols])) & set(symbols)


def test_the_place_of_a_symbol_is_the_same_in_every_process() -> None:
    symbols = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT")
    assert Shard(0, 2).owned(symbols) == ("ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT")


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_a_shard_that_does_not_exist_is_refused(index: int, count: int) -> None:
    with pytest.raises(UsageError, match="There is no shard"):
        Shard(index, count)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@pytest.mark.parametrize("owned", [(0,), (1, 2), (2, 0), (0, 1, 2), ()])
def test_a_part_is_the_whole_at_its_symbols(view, owned: tuple[int, ...], small_market: Panel) -> None:  # type: ignore[no-untyped-def]
    whole = compute_tail(view, small_market, 3)
    part = compute_tail_of(view, small_market, 3, [small_market.symbols[column] for column in owned])
    np.testing.assert_allclose(part, whole[:, list(owned)], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_feature_that_reads_other_symbols_says_so(view, small_market: Panel) -> None:  # type: ignore[no-untyped-def]
    fields = (getattr(small_market, field)[:, 1:2] for field in FIELDS)
    alone = Panel(small_market.symbols[1:2], small_market.interval, small_market.ts, *fields)
    whole, single = compute_tail(view, small_market, 3)[:, 1], compute_tail(view, alone, 3)[:, 0]
    differs = ~np.isclose(whole, single, rtol=1e-9, atol=1e-12, equal_nan=True).all(axis=0)
    found = {view.features[place].name for place in np.flatnonzero(differs)}
    # The market has no series of others, like funding: what reads these is nowhere known.
    of_bars = [feature for feature in view.features if {*feature.inputs} <= {*FIELDS, "ts"}]
    assert found == {feature.name for feature in of_bars if feature.reads_others}
