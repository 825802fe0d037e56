"""Data from outside the exchange: DEX spread, NFT floors, news. Missing, never zero, where a source is off.

A row has the last observation that was available by its close (see levibot/market/side_series.py).
"""

from __future__ import annotations

from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import change, lag, log_ratio, ratio, rolling_mean
from levibot.features.rolling_moments import rolling_spread
from levibot.features.windows import over
from levibot.market.bars import FloatArray
from levibot.market.side_series import DEX_SPREAD, NEWS_SENTIMENT, NFT_FLOOR

DEX_SOURCE = "0x quotes against the exchange (Makarov & Schoar 2020: prices of several venues)"
NFT_SOURCE = "Reservoir floor price (Dowling 2022: NFT and cryptocurrency prices)"
NEWS_SOURCE = "rated headlines (Tetlock 2007: tone of the news)"


def dex_spread(inputs: Inputs) -> FloatArray:
    """DEX price over the exchange's, less one."""
    return inputs.extra(DEX_SPREAD)


def dex_spread_mean(inputs: Inputs, bars: int) -> FloatArray:
    """Mean DEX spread of the window."""
    return rolling_mean(inputs.extra(DEX_SPREAD), bars)


def dex_spread_score(inputs: Inputs, bars: int) -> FloatArray:
    """DEX spread less its mean of the window, in the window's standard deviations."""
    return _score(inputs.extra(DEX_SPREAD), bars)


def nft_floor_change(inputs: Inputs, bars: int) -> FloatArray:
    """log(floor price / floor price `bars` rows before)."""
    floor = inputs.extra(NFT_FLOOR)
    return log_ratio(floor, lag(floor, bars))


def nft_floor_gap(inputs: Inputs, bars: int) -> FloatArray:
    """log(floor price / its mean of the window)."""
    floor = inputs.extra(NFT_FLOOR)
    return log_ratio(floor, rolling_mean(floor, bars))


def news_sentiment(inputs: Inputs) -> FloatArray:
    """Tone of the newest headlines, −1 (bad) to 1 (good)."""
    return inputs.extra(NEWS_SENTIMENT)


def news_sentiment_mean(inputs: Inputs, bars: int) -> FloatArray:
    """Mean over the window of the tone in force."""
    return rolling_mean(inputs.extra(NEWS_SENTIMENT), bars)


def news_sentiment_change(inputs: Inputs, bars: int) -> FloatArray:
    """Tone less that of `bars` rows before."""
    tone = inputs.extra(NEWS_SENTIMENT)
    return change(tone, bars)


def news_sentiment_score(inputs: Inputs, bars: int) -> FloatArray:
    """Tone less its mean of the window, in the window's standard deviations. NaN while it does not change."""
    return _score(inputs.extra(NEWS_SENTIMENT), bars)


def _score(x: FloatArray, bars: int) -> FloatArray:
    spread = rolling_spread(x, bars)
    return ratio(x - spread.mean, spread.deviation)


OUTSIDE = (
    Feature(
        name="dex_spread",
        family="outside",
        unit="share of the price",
        source=DEX_SOURCE,
        inputs=(DEX_SPREAD,),
        window_bars=1,
        formula=dex_spread,
    ),
    *over(
        (24,),
        "outside",
        "dex_spread_mean",
        dex_spread_mean,
        unit="share of the price",
        source=DEX_SOURCE,
        inputs=(DEX_SPREAD,),
    ),
    *over(
        (168,),
        "outside",
        "dex_spread_score",
        dex_spread_score,
        unit="standard deviations of the window",
        source=DEX_SOURCE,
        inputs=(DEX_SPREAD,),
    ),
    *over(
        (24, 168),
        "outside",
        "nft_floor_change",
        nft_floor_change,
        unit="log change",
        source=NFT_SOURCE,
        inputs=(NFT_FLOOR,),
        more_bars=1,
    ),
    *over(
        (168,),
        "outside",
        "nft_floor_gap",
        nft_floor_gap,
        unit="log ratio",
        source=NFT_SOURCE,
        inputs=(NFT_FLOOR,),
    ),
    Feature(
        name="news_sentiment",
        family="outside",
        unit="tone, −1 to 1",
        source=NEWS_SOURCE,
        inputs=(NEWS_SENTIMENT,),
        window_bars=1,
        formula=news_sentiment,
    ),
    *over(
        (24, 72),
        "outside",
        "news_sentiment_mean",
        news_sentiment_mean,
        unit="tone, −1 to 1",
        source=NEWS_SOURCE,
        inputs=(NEWS_SENTIMENT,),
    ),
    *over(
        (24,),
        "outside",
        "news_sentiment_change",
        news_sentiment_change,
        unit="tone",
        source=NEWS_SOURCE,
        inputs=(NEWS_SENTIMENT,),
        more_bars=1,
    ),
    *over(
        (168,),
        "outside",
        "news_sentiment_score",
        news_sentiment_score,
        unit="standard deviations of the window",
        source=NEWS_SOURCE,
        inputs=(NEWS_SENTIMENT,),
    ),
)
