"""Which member will do best next week: a random forest that leans the ensemble's weights, or stays silent.

A forest of shallow trees (Breiman 2001; LightGBM's own, so that it is text and not a pickle) reads the days'
regime, volatility, value traded and the members' recent returns. Its probability that a member has the best
Sharpe ratio of the next seven days, over how often that happens anyway, leans the weights the ensemble has:

    weight  ~  ensemble weight * ((1 - share) + share * probability / usual probability)

`share` is zero, and the weights are the ensemble's own, unless purged folds show that the forest knows more
than how often each member wins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import lightgbm
import numpy as np
import numpy.typing as npt

from levibot.errors import DataError, RegistryError
from levibot.learning.market_days import MarketDays
from levibot.learning.regime import N_REGIMES, REGIMES
from levibot.market.bars import BoolArray, FloatArray

_FILE, _FOREST = "router.json", "router_forest.txt"
_DAYS_PER_YEAR = 365.0
RECENT_DAYS = 28
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RouterParameters:
    """How the forest is grown, and when it is heard.

    horizon_days: over which members are compared. embargo_days: kept between the reach of an outcome and
    whatever must not see it. min_rows: of days with an outcome, below which it abstains. min_skill: t value
    of the log loss that purged folds save, over blocks of horizon_days, below which it abstains. max_share:
    how much it leans at most.
    """

    horizon_days: int = 7
    embargo_days: int = 1
    n_folds: int = 5
    min_rows: int = 365
    min_skill: float = 2.0
    max_share: float = 0.5
    trees: int = 200
    leaves: int = 6
    min_leaf_share: float = 0.05
    row_share: float = 0.5
    column_share: float = 0.5


ROUTER = RouterParameters()


@dataclass(frozen=True)
class Router:
    """A router as it was fitted; frozen. Abstains where `share` is 0.

    usual: (M,) how often each member was the best. skill: t value of what purged folds save, NaN where there
    were too few rows to tell. forest: None where it abstains.
    """

    members: tuple[str, ...]
    feature_names: tuple[str, ...]
    usual: FloatArray
    rows: int
    skill: float
    share: float
    seed: int
    forest: lightgbm.Booster | None = field(repr=False)

    @property
    def abstains(self) -> bool:
        return self.forest is None

    def weights(self, features: FloatArray, ensemble: FloatArray) -> FloatArray:
        """(D, M) weights for the days after those of features (D, F); ensemble: (M,) or (D, M) its own.

        NaN features are allowed; a row without any feature keeps the ensemble's weights, as does every row of
        a router that abstains. Raises DataError on another shape.
        """
        if features.ndim != 2 or features.shape[1] != len(self.feature_names):
            raise DataError(f"Features {features.shape} must be (days, {len(self.feature_names)}).")
        held = np.broadcast_to(ensemble, (len(features), len(self.members))).astype(np.float64)
        if self.forest is None or len(features) == 0:
            return held
        probability = _probability(self.forest, features)
        lean = (1.0 - self.share) + self.share * probability / self.usual
        told = np.asarray(np.isfinite(features).any(axis=1))
        leaned = held * np.where(told[:, None], lean, 1.0)
        weights: FloatArray = leaned / leaned.sum(axis=1, keepdims=True)
        return weights

    def to_files(self) -> dict[str, bytes]:
        """JSON, and the forest in LightGBM's text."""
        numbers = {
            "members": list(self.members),
            "feature_names": list(self.feature_names),
            "usual": self.usual.tolist(),
            "rows": self.rows,
            "skill": None if np.isnan(self.skill) else self.skill,
            "share": self.share,
            "seed": self.seed,
        }
        files = {_FILE: json.dumps(numbers, indent=2, allow_nan=False).encode()}
        if self.forest is not None:
            text: str = self.forest.model_to_string()
            files[_FOREST] = text.encode()
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """The same router again. Raises RegistryError on anything else."""
        try:
            numbers = json.loads(files[_FILE])
            forest = lightgbm.Booster(model_str=files[_FOREST].decode()) if _FOREST in files else None
            router = cls(
                members=tuple(numbers["members"]),
                feature_names=tuple(numbers["feature_names"]),
                usual=np.asarray(numbers["usual"], dtype=np.float64),
                rows=int(numbers["rows"]),
                skill=float("nan") if numbers["skill"] is None else float(numbers["skill"]),
                share=float(numbers["share"]),
                seed=int(numbers["seed"]),
                forest=forest,
            )
        except (KeyError, TypeError, ValueError, lightgbm.basic.LightGBMError) as exc:
            raise RegistryError(f"The files are not those of a router: {exc!r}.") from exc
        if router.usual.shape != (len(router.members),) or (router.share > 0.0) is (forest is None):
            raise RegistryError("The router's numbers and its forest do not belong together.")
        return router


def router_features(
    market: MarketDays, regimes: FloatArray, members: Sequence[str], returns: FloatArray
) -> tuple[tuple[str, ...], FloatArray]:
    """Names, and (D, F) features, row d known when day d is over.

    regimes: (D, 3) filtered. returns: (D, M) net daily returns of the members, NaN = missing. All are of the
    same days. A feature is NaN until there are days enough for it. Raises DataError on other shapes.
    """
    if regimes.shape != (len(market), N_REGIMES) or returns.shape != (len(market), len(members)):
        raise DataError(
            f"Regimes {regimes.shape} and returns {returns.shape} must be of {len(market)} days, "
            f"{N_REGIMES} regimes and {len(members)} members."
        )
    names, columns = market.router_columns()
    recent = np.stack([_recent_sharpe(returns[:, m]) for m in range(returns.shape[1])], axis=1)
    names = (*names, *REGIMES, *(f"recent_sharpe_{member}" for member in members))
    return names, np.column_stack([columns, regimes, recent])


def best_members(returns: FloatArray, horizon_days: int) -> IntArray:
    """(D,) which member has the best Sharpe ratio over the `horizon_days` after each day; -1 unknown.

    returns: (D, M). Known when the last of those days is over, row d + horizon_days. A member that is missing
    on one of the days cannot win; one that does nothing has a ratio of 0. Ties go to the first.
    """
    n_days, n_members = returns.shape
    best = np.full(n_days, -1, dtype=np.int64)
    if n_days <= horizon_days or n_members == 0:
        return best
    windows = np.lib.stride_tricks.sliding_window_view(returns[1:], horizon_days, axis=0)
    mean, deviation = windows.mean(axis=-1), windows.std(axis=-1)
    ratio = np.where(np.isfinite(mean), mean / np.maximum(deviation, 1e-12), -np.inf)
    known = np.isfinite(ratio).any(axis=1)
    best[: len(ratio)][known] = ratio[known].argmax(axis=1)
    return best


def fit_router(
    members: Sequence[str],
    feature_names: Sequence[str],
    features: FloatArray,
    returns: FloatArray,
    *,
    seed: int,
    parameters: RouterParameters = ROUTER,
) -> Router:
    """Fit on the days known at the fit, and find out whether it may be heard.

    features: (D, F), returns: (D, M), of the finished days up to the fit, oldest first. A day teaches when
    its outcome was known `embargo_days` before the end of the last day. The same input gives the same bytes.
    Raises DataError on shapes that do not agree.
    """
    n_days, n_members = returns.shape
    if n_members != len(members) or features.shape != (n_days, len(feature_names)):
        raise DataError(f"Features {features.shape} and returns {returns.shape} do not agree.")
    best = best_members(returns, parameters.horizon_days)
    # An outcome of the last `horizon_days` is not known; best is -1 there already.
    usable = (best >= 0) & np.isfinite(features).any(axis=1)
    usable[max(0, n_days - parameters.horizon_days - parameters.embargo_days) :] = False
    rows = np.flatnonzero(usable)
    usual = _usual(best[rows], n_members)
    names = tuple(members), tuple(feature_names)
    silent = Router(*names, usual, len(rows), float("nan"), 0.0, seed, None)
    if len(rows) < max(parameters.min_rows, 2 * parameters.n_folds) or n_members < 2:
        return silent
    skill = _skill(features, best, rows, n_members, seed, parameters)
    # Positive-part shrinkage by what is beyond chance; below the bar it is not heard at all.
    share = parameters.max_share * (1.0 - 1.0 / skill**2) if skill >= max(parameters.min_skill, 1.0) else 0.0
    if share <= 0.0:
        return Router(*names, usual, len(rows), skill, 0.0, seed, None)
    forest = _grow(features[rows], best[rows], n_members, seed, parameters)
    return Router(*names, usual, len(rows), skill, share, seed, forest)


def _skill(
    features: FloatArray,
    best: IntArray,
    rows: IntArray,
    n_members: int,
    seed: int,
    parameters: RouterParameters,
) -> float:
    """t value of the log loss saved over the usual probabilities, on blocks that were not taught."""
    reach = parameters.horizon_days + parameters.embargo_days
    saved = np.full(len(best), np.nan)
    for block in np.array_split(rows, parameters.n_folds):
        away: BoolArray = (rows < block[0] - reach) | (rows > block[-1] + reach)
        teach = rows[away]
        if len(teach) == 0:
            return 0.0
        forest = _grow(features[teach], best[teach], n_members, seed, parameters)
        told = _probability(forest, features[block])[np.arange(len(block)), best[block]]
        saved[block] = np.log(told) - np.log(_usual(best[teach], n_members)[best[block]])
    # Outcomes of neighbouring days share days: blocks as long as the horizon are taken as independent.
    judged = saved[rows]
    n_blocks = len(judged) // parameters.horizon_days
    blocks = judged[: n_blocks * parameters.horizon_days].reshape(n_blocks, -1).mean(axis=1)
    deviation = float(blocks.std(ddof=1)) if n_blocks > 1 else 0.0
    return float(blocks.mean()) / deviation * float(np.sqrt(n_blocks)) if deviation > 0.0 else 0.0


def _usual(best: IntArray, n_members: int) -> FloatArray:
    """(M,) how often each wins, with one win given to each beforehand."""
    usual: FloatArray = (np.bincount(best, minlength=n_members) + 1.0) / (len(best) + n_members)
    return usual


def _grow(
    features: FloatArray, best: IntArray, n_members: int, seed: int, parameters: RouterParameters
) -> lightgbm.Booster:
    settings: dict[str, Any] = {
        "boosting": "rf",
        "objective": "multiclass",
        "num_class": n_members,
        "num_leaves": parameters.leaves,
        "min_data_in_leaf": max(1, int(len(best) * parameters.min_leaf_share)),
        "bagging_fraction": parameters.row_share,
        "bagging_freq": 1,
        "feature_fraction": parameters.column_share,
        "max_bin": 63,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(features, best, params={"max_bin": 63, "verbosity": -1})
    booster = lightgbm.train(settings, data, num_boost_round=parameters.trees)
    # Through its text and back, so that a forest in memory and the same forest from disk cannot differ.
    return lightgbm.Booster(model_str=booster.model_to_string())


def _probability(forest: lightgbm.Booster, features: FloatArray) -> FloatArray:
    """(D, M), rows sum to 1, none zero."""
    told = np.maximum(np.asarray(forest.predict(features, num_threads=1), dtype=np.float64), 1e-6)
    probability: FloatArray = told / told.sum(axis=1, keepdims=True)
    return probability


def _recent_sharpe(returns: FloatArray) -> FloatArray:
    recent = np.full(len(returns), np.nan)
    if len(returns) >= RECENT_DAYS:
        windows = np.lib.stride_tricks.sliding_window_view(returns, RECENT_DAYS)
        mean, deviation = windows.mean(axis=1), windows.std(axis=1)
        recent[RECENT_DAYS - 1 :] = mean / np.maximum(deviation, 1e-12) * np.sqrt(_DAYS_PER_YEAR)
    return recent
