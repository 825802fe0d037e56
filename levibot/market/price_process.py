"""How a simulated market moves: the random process behind the bars.

What holds, bar by bar (σ annualised 60 to 100 % by symbol, scaled to the bar's length):

- Volatility is regime × log-AR(1), the market's and the symbol's own. It is drawn apart from the direction.
- Standardised returns are fat-tailed (Student t, 4 degrees of freedom, truncated) and correlated through a
  market factor.
- edge = 0: simple returns are symmetric about zero given the past, and clipped symmetrically, so prices are
  martingales.
- edge = e: each standardised return correlates by e with the momentum of its past (`momentum_returns`).
  Positions proportional to momentum / σ earn an annualised Sharpe of about e · sqrt(bars a year) on one
  symbol, before costs and with σ known: e = 0.03 is 2.8 on hourly bars.
- A bar opens at the close before it; high and low are extremes of a Brownian bridge from open to close.
- Outages of the market (1 to 3 bars) and single missing bars are missing rows; the price moves on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zlib import crc32

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from levibot.market.bars import Bars, FloatArray, to_datetime64
from levibot.market.validation import check_bars

MARKET_START = datetime(2020, 1, 1, tzinfo=UTC)
CHUNK_BARS = 4096

MOMENTUM_HALF_LIFE_BARS = 24.0

_REGIME_SCALE = np.array([0.6, 1.0, 1.9])  # calm, normal, stressed
_REGIME_SHARE = np.array([0.35, 0.50, 0.15])
_REGIME_REDRAW = timedelta(days=7)
_MARKET_VOL_SD, _MARKET_VOL_HALF_LIFE = 0.30, timedelta(days=2)
_OWN_VOL_SD, _OWN_VOL_HALF_LIFE = 0.25, timedelta(hours=8)
_ACTIVITY_SD, _ACTIVITY_HALF_LIFE = 0.40, timedelta(hours=12)
_MAX_SCALE = 6.0
_MAX_RETURN = 0.5  # of one bar, up or down
_T_LIMIT = 10.0
_OUTAGE_A_BAR, _MISSING_A_BAR = 1 / 3000, 1 / 5000

# A seed begins with its stream. Zero words at the end do not count in numpy's seeds, so [1, seed] and
# [1, seed, 0] would be one stream: a number of its own keeps each apart.
_MARKET, _SYMBOL, _MARKET_BEGIN, _SYMBOL_BEGIN, _CHARACTER = 1, 2, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Character:
    """What a simulated symbol is like. loading: correlation of its noise with the market factor."""

    price: float
    annual_vol: float
    loading: float
    turnover_usd_a_day: float


_KNOWN = {
    "BTCUSDT": Character(7_200.0, 0.60, 0.87, 2.0e9),
    "ETHUSDT": Character(130.0, 0.75, 0.88, 1.0e9),
    "BNBUSDT": Character(13.7, 0.75, 0.78, 3.0e8),
    "SOLUSDT": Character(3.0, 1.00, 0.76, 4.0e8),
    "XRPUSDT": Character(0.19, 0.90, 0.72, 3.0e8),
    "ADAUSDT": Character(0.033, 0.90, 0.80, 1.5e8),
}


def character_of(symbol: str) -> Character:
    """The character of any symbol: one that is not in the table gets its own from its letters."""
    if symbol in _KNOWN:
        return _KNOWN[symbol]
    price, vol, loading, turnover = np.random.default_rng([_CHARACTER, crc32(symbol.encode())]).random(4)
    return Character(10 ** (4 * price - 2), 0.6 + 0.4 * vol, 0.65 + 0.2 * loading, 10 ** (7.5 + turnover))


@dataclass(frozen=True, slots=True)
class MarketState:
    """What a chunk of the market hands to the next."""

    regime: int
    log_vol: float


@dataclass(frozen=True, slots=True)
class MarketChunk:
    """What all symbols share over one chunk: each (CHUNK_BARS,)."""

    factor: FloatArray
    scale: FloatArray
    is_open: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SymbolState:
    """What a symbol's chunk hands to its next."""

    close: float
    log_vol: float
    activity: float
    momentum: float


def draw_market(
    seed: int, interval: timedelta, chunk: int, before: MarketState
) -> tuple[MarketChunk, MarketState]:
    """One chunk of what all symbols share, and the state after it."""
    rng = np.random.default_rng([_MARKET, seed, chunk])
    factor = _fat_tailed(rng)
    is_redrawn = rng.random(CHUNK_BARS) < 1.0 - math.exp(-(interval / _REGIME_REDRAW))
    drawn = rng.choice(len(_REGIME_SHARE), size=CHUNK_BARS, p=_REGIME_SHARE)
    last_redraw = np.maximum.accumulate(np.where(is_redrawn, np.arange(CHUNK_BARS), -1))
    regime = np.where(last_redraw >= 0, drawn[last_redraw], before.regime)
    phi = _persistence(interval, _MARKET_VOL_HALF_LIFE)
    log_vol = _ar1(rng.standard_normal(CHUNK_BARS), phi, _MARKET_VOL_SD, before.log_vol)
    level = _REGIME_SCALE / math.sqrt(float(_REGIME_SHARE @ _REGIME_SCALE**2))
    # exp(h - sd²) has a mean square of one, so the annual volatility is what the character says.
    scale = level[regime] * np.exp(log_vol - _MARKET_VOL_SD**2)
    is_open = np.ones(CHUNK_BARS, dtype=np.bool_)
    starts = np.flatnonzero(rng.random(CHUNK_BARS - 3) < _OUTAGE_A_BAR)
    for start, length in zip(starts, rng.integers(1, 4, len(starts)), strict=True):
        is_open[start : start + length] = False
    is_open[0] |= chunk == 0  # The extent promises the first bar.
    return MarketChunk(factor, scale, is_open), MarketState(int(regime[-1]), float(log_vol[-1]))


def draw_symbol(
    seed: int,
    interval: timedelta,
    edge: float,
    symbol: str,
    chunk: int,
    before: SymbolState,
    market: MarketChunk,
) -> tuple[Bars, SymbolState]:
    """The bars of one symbol over one chunk, missing ones left out, and the state after it."""
    character = character_of(symbol)
    rng = np.random.default_rng([_SYMBOL, seed, crc32(symbol.encode()), chunk])
    own = math.sqrt(1.0 - character.loading**2) * _fat_tailed(rng)
    log_vol = _ar1(
        rng.standard_normal(CHUNK_BARS),
        _persistence(interval, _OWN_VOL_HALF_LIFE),
        _OWN_VOL_SD,
        before.log_vol,
    )
    scale = np.minimum(market.scale * np.exp(log_vol - _OWN_VOL_SD**2), _MAX_SCALE)
    sigma = character.annual_vol * math.sqrt(interval / timedelta(days=365.25)) * scale
    standardised, momentum = momentum_returns(character.loading * market.factor + own, edge, before.momentum)
    returns = np.clip(sigma * standardised, -_MAX_RETURN, _MAX_RETURN)
    close = before.close * np.cumprod(1.0 + returns, dtype=np.float64)
    open_ = np.concatenate(([before.close], close[:-1]))
    high, low = _extremes(rng, open_, close, sigma)
    activity = _ar1(
        rng.standard_normal(CHUNK_BARS),
        _persistence(interval, _ACTIVITY_HALF_LIFE),
        _ACTIVITY_SD,
        before.activity,
    )
    noise = 0.35 * rng.standard_normal(CHUNK_BARS)
    usual = character.turnover_usd_a_day / character.price * (interval / timedelta(days=1))
    volume = usual * scale * (0.6 + 0.4 * np.abs(standardised)) * np.exp(activity + noise)
    is_there = market.is_open & (rng.random(CHUNK_BARS) >= _MISSING_A_BAR)
    is_there[0] |= chunk == 0
    opens_at = to_datetime64(MARKET_START) + np.timedelta64(interval) * (
        np.arange(CHUNK_BARS) + chunk * CHUNK_BARS
    )
    columns = {"ts": opens_at, "open": open_, "high": high, "low": low, "close": close, "volume": volume}
    bars = check_bars(
        symbol,
        interval,
        {name: values[is_there] for name, values in columns.items()},
        f"chunk {chunk} of the simulated market",
    )
    return bars, SymbolState(float(close[-1]), float(log_vol[-1]), float(activity[-1]), float(momentum[-1]))


def momentum_returns(noise: FloatArray, edge: float, momentum: float) -> tuple[FloatArray, FloatArray]:
    """Standardised returns x of which `edge` is the momentum of their past, and that momentum after each bar.

    noise: (T,) independent, mean 0, variance 1. momentum: its value before the first bar (0 without a past).
    Returns x and m, each (T,): x[t] = e·m[t-1] + sqrt(1-e²)·noise[t], where m is the EWM of x (half-life
    MOMENTUM_HALF_LIFE_BARS) over its own standard deviation s. Both have variance one, so e is the
    correlation of x[t] with m[t-1]. Putting x into the EWM (decay a) gives m as AR(1) with
    φ = a + (1-a)·e/s and s = (1-a)·(a·e + sqrt(a²e² + 1 - a²)) / (1 - a²); φ < 1 for every e in [0, 1).
    """
    decay = 0.5 ** (1.0 / MOMENTUM_HALF_LIFE_BARS)
    room = 1.0 - decay**2
    sd = (1.0 - decay) * (decay * edge + math.sqrt((decay * edge) ** 2 + room)) / room
    phi = decay + (1.0 - decay) * edge / sd
    path = _ar1(noise, phi, 1.0, momentum)
    before = np.concatenate(([momentum], path[:-1]))
    return edge * before + math.sqrt(1.0 - edge**2) * noise, path


def first_market_state(seed: int) -> MarketState:
    """Volatility before the first bar, from its stationary distribution."""
    rng = np.random.default_rng([_MARKET_BEGIN, seed])
    regime = int(rng.choice(len(_REGIME_SHARE), p=_REGIME_SHARE))
    return MarketState(regime, float(_MARKET_VOL_SD * rng.standard_normal()))


def first_symbol_state(seed: int, symbol: str) -> SymbolState:
    """The symbol's first price, with its own volatility and activity from their stationary distributions."""
    rng = np.random.default_rng([_SYMBOL_BEGIN, seed, crc32(symbol.encode())])
    log_vol, activity = rng.standard_normal(2)
    # Momentum starts at zero: there is no past that it could be seen in.
    return SymbolState(
        character_of(symbol).price, float(_OWN_VOL_SD * log_vol), float(_ACTIVITY_SD * activity), 0.0
    )


def _ar1(noise: FloatArray, phi: float, sd: float, before: float) -> FloatArray:
    """y[t] = phi·y[t-1] + sd·sqrt(1-phi²)·noise[t] with y[-1] = before; `sd` is the stationary deviation."""
    values: FloatArray = lfilter([sd * math.sqrt(1.0 - phi**2)], [1.0, -phi], noise, zi=[phi * before])[0]
    return values


def _persistence(interval: timedelta, half_life: timedelta) -> float:
    return float(0.5 ** (interval / half_life))


def _fat_tailed(rng: np.random.Generator) -> FloatArray:
    """Student t of 4 degrees of freedom, truncated at ±_T_LIMIT, scaled to variance one."""
    s = _T_LIMIT / math.sqrt(_T_LIMIT**2 + 4.0)
    variance = 2.0 * s**3 + _T_LIMIT**2 * (1.0 - 1.5 * s + 0.5 * s**3)
    return np.clip(rng.standard_t(4, CHUNK_BARS), -_T_LIMIT, _T_LIMIT) / math.sqrt(variance)


def _extremes(
    rng: np.random.Generator, open_: FloatArray, close: FloatArray, sigma: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """High and low of a Brownian bridge in log price from open to close.

    With x = ln(close/open) and U uniform, its maximum is (x + sqrt(x² - 2σ² ln U)) / 2.
    """
    x = np.log(close / open_)
    up, down = rng.standard_exponential((2, CHUNK_BARS))
    high = open_ * np.exp((x + np.sqrt(x**2 + 2.0 * sigma**2 * up)) / 2.0)
    low = open_ * np.exp((x - np.sqrt(x**2 + 2.0 * sigma**2 * down)) / 2.0)
    # Rounding may put an extreme a hair inside the body.
    return np.maximum(high, np.maximum(open_, close)), np.minimum(low, np.minimum(open_, close))
