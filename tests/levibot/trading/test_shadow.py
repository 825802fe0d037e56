"""Shadow accounts are the backtest's accounts: the same bars and decisions, however they are cut."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levibot.errors import DataError
from levibot.learning.members import Opinions, prior_weights
from levibot.market.bars import FloatArray, Panel, to_datetime
from levibot.serving.weighing import FIXED, Route
from levibot.trading.backtest import BacktestResult, decided_at_close, simulate
from levibot.trading.costs import Costs
from levibot.trading.metrics import daily_returns
from levibot.trading.shadow import Book, Day, Decision, Priced, price, settled_rows

SYMBOLS = ("AUSDT", "BUSDT", "CUSDT")
MEMBERS = ("trend", "strength", "lightgbm")
HOUR = timedelta(hours=1)
T, BAND = 120, 0.012
COSTS = Costs()


def make_panel(seed: int) -> Panel:
    """Hourly bars from a midnight on, some missing, and for five hours nobody has any."""
    rng = np.random.default_rng(seed)
    ts = np.datetime64("2024-03-01", "us") + np.arange(T + 5) * np.timedelta64(1, "h")
    ts = np.delete(ts, np.arange(50, 55))
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.02, (T, 3)), axis=0))
    opened = close * np.exp(rng.normal(0.0, 0.003, close.shape))
    gone = rng.random(close.shape) < 0.05
    gone[:, 0] = False
    fields = [np.where(gone, np.nan, f) for f in (opened, opened, opened, close, np.ones_like(close))]
    return Panel(SYMBOLS, HOUR, ts, *fields)


def make_opinions(panel: Panel, seed: int) -> Opinions:
    """Opinions that change now and then; none where a symbol has no bar."""
    rng = np.random.default_rng(seed + 1)
    values = np.repeat(rng.uniform(-0.5, 1.0, (T // 4, 3, 3)), 4, axis=0)
    values[np.isnan(panel.close)] = np.nan
    unit = np.where(np.isnan(panel.close), np.nan, rng.uniform(0.05, 0.15, panel.close.shape))
    return Opinions(MEMBERS, values, unit, np.full(values.shape, np.nan))


def make_weights(seed: int) -> tuple[FloatArray, FloatArray]:
    """(T, M) of the ensemble and of the router, which move every row."""
    rng = np.random.default_rng(seed + 2)
    ensemble, routed = rng.dirichlet(np.full(3, 4.0), T), rng.dirichlet(np.full(3, 4.0), T)
    return ensemble, routed


def decide(panel: Panel, opinions: Opinions, ensemble: FloatArray, routed: FloatArray) -> list[Decision]:
    """What the desk would have written down at each close."""
    decisions = []
    for t in range(len(panel)):
        as_of = to_datetime(panel.closes_at[t])
        route = Route(MEMBERS, ensemble[t], routed[t], "", {}, "redis", as_of.date(), 0.0)
        for symbol, blend in zip(SYMBOLS, route.blends(opinions.row(t), BAND), strict=True):
            if blend is not None:
                decisions.append(
                    Decision(symbol, as_of, "v1.0.0", "view", BAND, blend.positions, blend.to_json())
                )
    return decisions


def run(panel: Panel, decisions: list[Decision], cuts: Sequence[int]) -> list[Priced]:
    """Priced from the close of row 0 on, in pieces; each piece sees the decisions that it may."""
    book, stands_at = Book.empty(SYMBOLS), to_datetime(panel.closes_at[0])
    pieces = []
    edges = sorted({1, *cuts, len(panel)})
    for begin, end in itertools.pairwise(edges):
        rows = panel.rows(slice(begin, end))
        seen = [d for d in decisions if stands_at <= d.as_of < to_datetime(rows.closes_at[-1])]
        priced = price(book, rows, stands_at, seen, COSTS)
        pieces.append(priced)
        book, stands_at = priced.book, priced.priced_to
    return pieces


def backtest(panel: Panel, positions: FloatArray) -> BacktestResult:
    """The account of a report over the rows from 1 on."""
    test = panel.rows(slice(1, len(panel)))
    return simulate(decided_at_close(positions)[1:], test.open, test.close, COSTS, no_trade_band=BAND)


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(2, T - 1), max_size=6))
def test_live_accounts_are_the_accounts_of_a_backtest(seed: int, cuts: list[int]) -> None:
    panel = make_panel(seed)
    opinions = make_opinions(panel, seed)
    ensemble, routed = make_weights(seed)
    pieces = run(panel, decide(panel, opinions, ensemble, routed), cuts)
    wanted = {
        "ensemble": opinions.positions(ensemble),
        "router": opinions.positions(routed),
        FIXED: opinions.positions(prior_weights(MEMBERS)),
        **{member: opinions.alone(member) for member in MEMBERS},
    }
    closes = panel.closes_at[1:]
    for name, positions in wanted.items():
        expected = backtest(panel, positions)
        for piece in pieces:
            row = int(np.searchsorted(closes, np.datetime64(piece.priced_to.replace(tzinfo=None), "us")))
            assert piece.book.accounts[name].equity == pytest.approx(expected.equity[row], rel=1e-9)
        days: dict[object, Day] = {d.day: d for piece in pieces for d in piece.days if d.account == name}
        returns = daily_returns(closes, expected.equity, expected.start_equity)
        assert [day.net_return for day in days.values()] == pytest.approx(returns.tolist(), abs=1e-9)
        fills = [fill for piece in pieces for fill in piece.fills if fill.account == name]
        assert sum(fill.fee for fill in fills) == pytest.approx(expected.fees.sum(), rel=1e-9)
        assert sum(fill.slippage for fill in fills) == pytest.approx(expected.slippage.sum(), rel=1e-9)
        assert len(fills) == len({(fill.symbol, fill.ts) for fill in fills})


def test_a_pricing_that_fills_at_the_decision_s_own_bar_would_be_seen() -> None:
    """The planted leak: positions one bar early do not give the backtest's account."""
    panel = make_panel(3)
    opinions = make_opinions(panel, 3)
    weights = make_weights(3)
    honest = run(panel, decide(panel, opinions, *weights), [])[-1].book.accounts["trend"].equity
    early = simulate(
        opinions.alone("trend")[1:], panel.open[1:], panel.close[1:], COSTS, no_trade_band=BAND
    ).equity[-1]
    assert honest == pytest.approx(backtest(panel, opinions.alone("trend")).equity[-1], rel=1e-9)
    assert abs(early / honest - 1.0) > 1e-6


def test_without_a_decision_an_account_keeps_what_it_holds() -> None:
    panel = make_panel(5).of(SYMBOLS[:1])
    at = to_datetime(panel.closes_at[0])
    only = Decision("AUSDT", at, "v1", "w", BAND, {"trend": 0.5}, {})
    (priced,) = run(panel, [only], [])
    assert [fill.ts for fill in priced.fills] == [to_datetime(panel.ts[1])]
    assert priced.book.accounts["trend"].units[0] == priced.fills[0].units > 0.0


def test_rows_are_priced_once_and_in_order() -> None:
    panel = make_panel(5)
    with pytest.raises(DataError, match="earlier ones"):
        price(Book.empty(SYMBOLS), panel, to_datetime(panel.closes_at[0]), [], COSTS)
    with pytest.raises(DataError, match="there are none"):
        price(Book.empty(SYMBOLS), panel.rows(slice(0, 0)), to_datetime(panel.ts[0]), [], COSTS)


def test_a_row_waits_for_its_bars_and_decisions_and_not_for_ever() -> None:
    panel = make_panel(7)
    panel = panel.rows(slice(1, 6))
    for name in ("open", "close"):
        getattr(panel, name)[:] = np.nan_to_num(getattr(panel, name), nan=100.0)
        getattr(panel, name)[4, 1] = np.nan
    begins_at = to_datetime(panel.ts[0])
    never = datetime.min.replace(tzinfo=UTC)
    everyone = frozenset(SYMBOLS)
    closes = [begins_at, *(to_datetime(close) for close in panel.closes_at)]
    decided = dict.fromkeys(closes, everyone)
    # The last row lacks a bar that may still come.
    assert settled_rows(panel, decided, begins_at, never) == 4
    assert settled_rows(panel, decided, begins_at, closes[-1]) == 5
    # The third decision is not there yet, or one symbol's of it.
    for lacking in (frozenset[str](), everyone - {"BUSDT"}):
        late = decided | {closes[2]: lacking}
        assert settled_rows(panel, late, begins_at, never) == 2
        assert settled_rows(panel, late, begins_at, closes[3] - timedelta(microseconds=1)) == 2
        assert settled_rows(panel, late, begins_at, closes[3]) == 4
