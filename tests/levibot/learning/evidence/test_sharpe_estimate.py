"""Probabilistic and deflated Sharpe ratios against the numbers in the papers, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import DataError, UsageError
from levibot.learning.evidence.deflated_sharpe import deflated_sharpe, expected_max_sharpe
from levibot.learning.evidence.family import Family
from levibot.learning.evidence.sharpe_estimate import SharpeEstimate, min_track_record, probabilistic_sharpe
from levibot.learning.evidence.verdict import judge

NOT_DEFINED = [[], [0.01], [0.0, 0.0, 0.0], [0.1, 0.1, 0.1]]


@pytest.mark.parametrize(
    ("estimate", "probability"),
    [
        # Bailey & López de Prado 2012, section 5: two years of months with 0.458 each, as if normal; with the
        # skewness and kurtosis that they had; and the same for three years.
        (SharpeEstimate(0.458, 24), 0.982),
        (SharpeEstimate(0.458, 24, -2.448, 10.164), 0.913),
        (SharpeEstimate(0.458, 36, -2.448, 10.164), 0.953),
    ],
)
def test_psr_is_that_of_the_paper(estimate: SharpeEstimate, probability: float) -> None:
    assert probabilistic_sharpe(estimate) == pytest.approx(probability, abs=6e-4)


@pytest.mark.parametrize(
    ("periods_a_year", "skewness", "kurtosis", "years"),
    # 2012, section 6: an annual ratio of 2 against 1 at 95 %, from days, weeks and months, and from months of
    # the usual hedge fund.
    [(250, 0.0, 3.0, 2.73), (52, 0.0, 3.0, 2.83), (12, 0.0, 3.0, 3.24), (12, -0.72, 5.78, 4.99)],
)
def test_the_minimum_track_record_is_that_of_the_paper(
    periods_a_year: int, skewness: float, kurtosis: float, years: float
) -> None:
    root = float(np.sqrt(periods_a_year))
    estimate = SharpeEstimate(2.0 / root, periods_a_year, skewness, kurtosis)
    assert min_track_record(estimate, 1.0 / root) / periods_a_year == pytest.approx(years, abs=0.005)


def test_the_deflated_ratio_is_that_of_the_paper() -> None:
    """2014, section 5: 2.5 a year in 1,250 days, the best of trials whose annual ratios have variance 1/2."""
    variance = 0.5 / 250.0
    best = SharpeEstimate(2.5 / np.sqrt(250.0), 1_250, -3.0, 10.0)
    assert expected_max_sharpe(100, variance) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe(best, 100, variance) == pytest.approx(0.9004, abs=5e-5)
    assert deflated_sharpe(best, 46, variance) == pytest.approx(0.9505, abs=5e-5)
    as_if_normal = SharpeEstimate(best.ratio, best.n_periods)
    assert deflated_sharpe(as_if_normal, 88, variance) == pytest.approx(0.9505, abs=5e-5)


def test_the_expected_maximum_is_what_the_best_of_many_shows() -> None:
    rng = np.random.default_rng(0)
    for n, off in ((2, 0.09), (10, 0.04), (100, 0.02)):
        best = rng.normal(0.0, 2.0, (20_000, n)).max(axis=1).mean()
        assert expected_max_sharpe(n, 4.0) == pytest.approx(best, rel=off)
    assert expected_max_sharpe(1.0, 4.0) == 0.0


@given(more=st.floats(1.0, 1e6), fewer=st.floats(1.0, 1e6), variance=st.floats(0.0, 1.0))
def test_more_trials_never_make_a_result_better(more: float, fewer: float, variance: float) -> None:
    estimate = SharpeEstimate(0.1, 700, -0.5, 5.0)
    few, many = sorted((fewer, more))
    assert deflated_sharpe(estimate, many, variance) <= deflated_sharpe(estimate, few, variance) + 1e-12
    assert deflated_sharpe(estimate, many, variance) <= probabilistic_sharpe(estimate)


@given(ratio=st.floats(0.01, 0.3), skewness=st.floats(-2.0, 2.0), inflation=st.floats(1.0, 5.0))
def test_after_the_minimum_track_record_the_probability_is_reached(
    ratio: float, skewness: float, inflation: float
) -> None:
    needed = min_track_record(SharpeEstimate(ratio, 100, skewness, 9.0, inflation))
    before, after = int(needed), int(needed) + 1
    at = {
        n: probabilistic_sharpe(SharpeEstimate(ratio, n, skewness, 9.0, inflation)) for n in (before, after)
    }
    assert at[before] <= 0.95 + 1e-9
    assert at[after] >= 0.95 - 1e-9


def test_a_ratio_that_is_not_above_the_benchmark_is_never_proven() -> None:
    assert min_track_record(SharpeEstimate(0.05, 100), 0.05) == np.inf
    assert min_track_record(SharpeEstimate(-0.05, 100)) == np.inf


@pytest.mark.parametrize("returns", NOT_DEFINED)
def test_short_and_constant_series_have_no_probability(returns: list[float]) -> None:
    verdict = judge(np.array(returns), Family(5, 5, 5.0, 0.01))
    assert np.isnan([verdict.psr, verdict.deflated, verdict.min_track_record_days]).all()
    read = verdict.to_json()
    assert read["psr"] is None
    assert read["deflated_sharpe"] == {"probability": None, "n_trials": 5, "n_effective": 5.0}
    assert read["min_track_record_days"] is None


def test_two_days_have_an_estimate() -> None:
    estimate = SharpeEstimate.of(np.array([0.01, 0.03]))
    assert estimate.ratio == pytest.approx(2.0 / np.sqrt(2.0))
    assert (estimate.skewness, estimate.kurtosis) == (pytest.approx(0.0), pytest.approx(1.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_returns_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        SharpeEstimate.of(np.array([0.01, bad, 0.02]))


@pytest.mark.parametrize(("n", "variance"), [(0.5, 1.0), (np.nan, 1.0), (2.0, -1.0), (2.0, np.nan)])
def test_what_is_no_best_of_anything_is_refused(n: float, variance: float) -> None:
    with pytest.raises(UsageError, match="none to take a best of"):
        expected_max_sharpe(n, variance)


def test_skewed_and_fat_tailed_returns_without_edge_are_called_good_as_seldom_as_stated() -> None:
    """Crashes of one day in fifty, paid for by the others: the mean is 0, and the ratio looks good."""
    rng = np.random.default_rng(1)
    days = np.where(rng.random((800, 730)) < 0.02, -0.049, 0.001) + rng.normal(0.0, 0.004, (800, 730))
    probability = np.array([probabilistic_sharpe(SharpeEstimate.of(run)) for run in days])
    ratio = np.array([SharpeEstimate.of(run).ratio for run in days])
    assert 0.02 < np.mean(probability > 0.95) < 0.08
    # Without the moments too few runs are as bad as they are.
    as_if_normal = np.array([probabilistic_sharpe(SharpeEstimate(r, 730)) for r in ratio])
    assert np.mean(as_if_normal < 0.05) < np.mean(probability < 0.05)


def test_days_that_hang_together_prove_less() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(0.0, 0.01, (400, 731))
    days = noise.copy()
    for t in range(1, days.shape[1]):
        days[:, t] += 0.5 * days[:, t - 1]
    estimates = [SharpeEstimate.of(run) for run in days]
    taken_as_independent = [SharpeEstimate(e.ratio, e.n_periods, e.skewness, e.kurtosis) for e in estimates]
    assert np.mean([probabilistic_sharpe(e) > 0.95 for e in taken_as_independent]) > 0.12
    assert np.mean([probabilistic_sharpe(e) > 0.95 for e in estimates]) < 0.09


def test_the_best_of_many_without_edge_is_not_called_good() -> None:
    """Deflated, the best of fifty is above 0.95 no oftener than one in twenty; undeflated nearly always."""
    rng = np.random.default_rng(3)
    deflated, plain = [], []
    for _ in range(150):
        runs = rng.standard_t(5, (50, 400)) * 0.01
        ratios = runs.mean(axis=1) / runs.std(axis=1, ddof=1)
        best = SharpeEstimate.of(runs[ratios.argmax()])
        deflated.append(deflated_sharpe(best, 50, float(ratios.var(ddof=1))))
        plain.append(probabilistic_sharpe(best))
    assert np.mean(np.array(deflated) > 0.95) <= 0.05
    assert 0.35 < np.mean(deflated) < 0.65
    # Of fifty independent ones 92 % have one beyond a level of 0.95; dependence by chance takes some back.
    assert np.mean(np.array(plain) > 0.95) > 0.8
