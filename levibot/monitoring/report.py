"""The report on a model's features as one page of HTML: drift, importance, what says the same."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from levibot.market.bars import FloatArray
from levibot.monitoring.correlation import CLUSTERED, Collinearity
from levibot.monitoring.reference import MEASURES
from levibot.monitoring.watch import Checked, Weighed

SHOWN = 30
BLUE, RED, GREY = "#2b6cb0", "#c53030", "#a0aec0"


@dataclass(frozen=True, slots=True, eq=False)
class FeatureReport:
    """What the page shows. ages_s: seconds of market time since a symbol's newest bar, None without one."""

    made_at: datetime
    market_id: str
    n_reference_days: int
    checked: Checked
    weighed: Weighed
    training_importance: Mapping[str, float]
    collinearity: Collinearity
    n_rows: int
    ages_s: Mapping[str, float | None]

    def to_html(self) -> str:
        """The page, with its plots inside: nothing is loaded from anywhere."""
        template = files("levibot.monitoring").joinpath("report.html.j2").read_text(encoding="utf-8")
        environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        environment.filters["number"] = _number
        return environment.from_string(template).render(
            report=self,
            plots={
                "drift": _svg(self._plot_drift, height=0.24 * SHOWN + 1.0),
                "importance": _svg(self._plot_importance, height=0.24 * SHOWN + 1.0),
                "correlation": _svg(self._plot_correlation, height=7.0),
            },
            measures=MEASURES,
            features=self._rows(),
            clustered=CLUSTERED,
        )

    def _rows(self) -> list[dict[str, Any]]:
        inflation = dict(zip(self.collinearity.names, self.collinearity.inflation.tolist(), strict=True))
        ranked = sorted(self.weighed.importance, key=lambda name: -self.weighed.importance[name])
        rank = {name: k for k, name in enumerate(ranked, 1)}
        drifts = sorted(self.checked.drifts, key=lambda drift: (-drift.excess, rank[drift.name]))
        return [
            {
                "drift": drift,
                "importance": self.weighed.importance[drift.name],
                "rank": rank[drift.name],
                "inflation": inflation[drift.name],
            }
            for drift in drifts
        ]

    def _plot_drift(self, axes: Axes) -> None:
        def share(name: str) -> float:
            drift = by_name[name]
            shares = [drift.found[m] / drift.limits[m] for m in MEASURES if drift.limits[m] > 0.0]
            return max((s for s in shares if not math.isnan(s)), default=0.0)

        by_name = {drift.name: drift for drift in self.checked.drifts}
        names = sorted(by_name, key=share)[-SHOWN:]
        colours = [RED if by_name[name].beyond else BLUE for name in names]
        axes.barh(names, [share(name) for name in names], color=colours)
        axes.axvline(1.0, color=RED, linewidth=1.0)
        axes.set_xlabel("worst measure, as a share of its limit")

    def _plot_importance(self, axes: Axes) -> None:
        names = sorted(self.weighed.importance, key=lambda name: self.weighed.importance[name])[-SHOWN:]
        places = np.arange(len(names))
        axes.barh(
            places + 0.2,
            [self.weighed.importance[name] for name in names],
            0.4,
            color=BLUE,
            label="last week",
        )
        if self.training_importance:
            before = [self.training_importance.get(name, 0.0) for name in names]
            axes.barh(places - 0.2, before, 0.4, color=GREY, label="training")
        axes.set_yticks(places, names)
        axes.set_xlabel("share of mean |SHAP|")
        axes.legend(loc="lower right", frameon=False)

    def _plot_correlation(self, axes: Axes) -> None:
        matrix = np.nan_to_num(self.collinearity.matrix)
        order = _order(matrix)
        image = axes.imshow(matrix[np.ix_(order, order)], cmap="RdBu_r", vmin=-1.0, vmax=1.0, rasterized=True)
        axes.figure.colorbar(image, ax=axes, shrink=0.8, label="correlation")
        axes.set_xlabel(f"{len(order)} features, alike ones side by side")
        axes.set_xticks([])
        axes.set_yticks([])


def _order(matrix: FloatArray) -> list[int]:
    """Features in the order of average-linkage clusters of 1 - |correlation|."""
    if len(matrix) < 3:
        return list(range(len(matrix)))
    distance = np.clip(1.0 - np.abs(matrix), 0.0, None)
    np.fill_diagonal(distance, 0.0)
    order: list[int] = leaves_list(linkage(squareform(distance, checks=False), "average")).tolist()
    return order


def _svg(plot: Any, *, height: float) -> str:
    figure = Figure(figsize=(9.0, height), layout="constrained")
    FigureCanvasSVG(figure)
    plot(figure.subplots())
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    # Without the head of a file of its own.
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def _number(value: float | None, digits: int = 3) -> str:
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"
