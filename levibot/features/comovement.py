"""How the symbol moves with the leader and with the market: beta, correlation, what is left."""

from __future__ import annotations

import numpy as np

from levibot.features.bar_series import per_sigma
from levibot.features.cross_asset import leader_return
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import change, lag, ratio
from levibot.features.rolling_pairs import Regression, rolling_ratio, rolling_regression
from levibot.features.windows import over
from levibot.market.bars import FloatArray

# Beta of the residual return: slow enough not to follow the move that it explains.
BETA_BARS = 672


def leader_beta(inputs: Inputs, bars: int) -> FloatArray:
    """Slope of the symbol's log returns on the leader's. 1 for the leader."""
    return _on_leader(inputs, bars).slope


def leader_correlation(inputs: Inputs, bars: int) -> FloatArray:
    """Correlation of the symbol's log returns with the leader's. 1 for the leader."""
    return _on_leader(inputs, bars).correlation


def idiosyncratic_vol(inputs: Inputs, bars: int) -> FloatArray:
    """Standard deviation of what the leader does not explain, over sigma_slow. 0 for the leader."""
    return ratio(_on_leader(inputs, bars).residual, inputs.sigma_slow)


def beta_change(inputs: Inputs, bars: int) -> FloatArray:
    """Beta of the last `bars` less that of BETA_BARS."""
    return _on_leader(inputs, bars).slope - _on_leader(inputs, BETA_BARS).slope


def residual_return(inputs: Inputs, bars: int) -> FloatArray:
    """Log return less beta of BETA_BARS times the leader's, over sigma_slow · √bars. 0 for the leader."""
    moved = change(inputs.log_close, bars)
    explained = _on_leader(inputs, BETA_BARS).slope * moved[:, [inputs.leader]]
    return per_sigma(inputs, moved - explained, bars)


def leader_lead(inputs: Inputs, bars: int) -> FloatArray:
    """Correlation of the symbol's returns with the leader's of the bar before."""
    return rolling_regression(lag(_leader(inputs), 1), inputs.log_return, bars).correlation


def downside_beta(inputs: Inputs, bars: int) -> FloatArray:
    """Beta over the bars in which the leader fell: Σ r · leader / Σ leader². 1 for the leader."""

    def falls() -> FloatArray:
        return np.minimum(_leader(inputs), 0.0)

    down = inputs.shared("leader_falls", falls)
    return rolling_ratio(inputs.log_return * down, np.square(down), bars)


def market_beta(inputs: Inputs, bars: int) -> FloatArray:
    """Slope of the symbol's log returns on the mean of all symbols'."""
    return _on_market(inputs, bars).slope


def market_correlation(inputs: Inputs, bars: int) -> FloatArray:
    """Correlation of the symbol's log returns with the mean of all symbols'."""
    return _on_market(inputs, bars).correlation


def average_correlation(inputs: Inputs, bars: int) -> FloatArray:
    """Mean over the symbols of their correlations with the market: how much moves as one."""
    return inputs.across(_on_market(inputs, bars).correlation)


def _leader(inputs: Inputs) -> FloatArray:
    def compute() -> FloatArray:
        returns = inputs.log_return
        return np.asfortranarray(np.broadcast_to(returns[:, [inputs.leader]], returns.shape))

    return inputs.shared("leader_log_return", compute)


def _on_leader(inputs: Inputs, bars: int) -> Regression:
    return inputs.shared(
        ("on_leader", bars), lambda: rolling_regression(_leader(inputs), inputs.log_return, bars)
    )


def _on_market(inputs: Inputs, bars: int) -> Regression:
    def market() -> FloatArray:
        return np.asfortranarray(inputs.across(inputs.log_return))

    returns = inputs.shared("market_log_return", market)
    return inputs.shared(("on_market", bars), lambda: rolling_regression(returns, inputs.log_return, bars))


COMOVEMENT = (
    *over(
        (168, 672),
        "cross_asset",
        "leader_beta",
        leader_beta,
        unit="beta",
        source="Sharpe 1964: beta, here to BTC",
        reads_others=True,
        more_bars=1,
    ),
    *over(
        (168, 672),
        "cross_asset",
        "leader_correlation",
        leader_correlation,
        unit="correlation",
        source="Pearson 1895: correlation, here with BTC",
        reads_others=True,
        more_bars=1,
    ),
    *over(
        (168, 672),
        "cross_asset",
        "idiosyncratic_vol",
        idiosyncratic_vol,
        unit="ratio of volatilities",
        source="Ang, Hodrick, Xing & Zhang 2006: idiosyncratic volatility, to BTC",
        reads_others=True,
        more_bars=1,
        scaled=True,
    ),
    *over(
        (24, 168),
        "cross_asset",
        "leader_return",
        leader_return,
        unit="standard deviations",
        source="Lo & MacKinlay 1990: large assets lead small ones",
        reads_others=True,
        more_bars=1,
        scaled=True,
    ),
    *(
        Feature(
            name=f"{name}_{bars}",
            family="cross_asset",
            unit=unit,
            source=source,
            reads_others=True,
            inputs=("close",),
            window_bars=BETA_BARS + 1,
            formula=formula,
            parameters=(("bars", bars),),
            scaled=scaled,
        )
        for name, formula, bars, unit, scaled, source in (
            ("beta_change", beta_change, 168, "beta", False, "Ferson & Schadt 1996: beta that moves"),
            (
                "residual_return",
                residual_return,
                24,
                "standard deviations",
                True,
                "Blitz, Huij & Martens 2011: residual momentum, to BTC",
            ),
            (
                "residual_return",
                residual_return,
                168,
                "standard deviations",
                True,
                "Blitz, Huij & Martens 2011: residual momentum, to BTC",
            ),
        )
    ),
    *over(
        (168,),
        "cross_asset",
        "leader_lead",
        leader_lead,
        unit="correlation",
        source="Lo & MacKinlay 1990: cross-autocorrelation",
        reads_others=True,
        more_bars=2,
    ),
    *over(
        (672,),
        "cross_asset",
        "downside_beta",
        downside_beta,
        unit="beta",
        source="Ang, Chen & Xing 2006: downside beta, to BTC",
        reads_others=True,
        more_bars=1,
    ),
    *over(
        (168,),
        "cross_asset",
        "market_beta",
        market_beta,
        unit="beta",
        source="Sharpe 1964: beta, to the equal-weight market",
        reads_others=True,
        more_bars=1,
    ),
    *over(
        (168,),
        "cross_asset",
        "market_correlation",
        market_correlation,
        unit="correlation",
        source="Pearson 1895: correlation with the equal-weight market",
        reads_others=True,
        more_bars=1,
    ),
    *over(
        (168,),
        "cross_asset",
        "average_correlation",
        average_correlation,
        unit="correlation",
        source="Pollet & Wilson 2010: average correlation",
        reads_others=True,
        more_bars=1,
    ),
)
