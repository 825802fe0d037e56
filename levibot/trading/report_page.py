"""A finished report as one page of HTML: its table and its plots, nothing loaded from anywhere."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from levibot.market.bars import FloatArray
from levibot.trading.report_curves import Curves

# Of a regime behind the weights, in the order of the regimes' names: falling, sideways, rising.
_SHADES = ("#fed7d7", "#edf2f7", "#c6f6d5")
_EMPHASIS = "ensemble"


def page(record: dict[str, Any], curves: Curves) -> str:
    """record: what `Report.to_json` gives. Raises KeyError on a record without its keys."""
    names = list(record["trials"]["strategies"])
    plots: list[tuple[str, str]] = [
        ("Equity", _svg(lambda axes: _equity(axes, names, curves))),
        ("Drawdown", _svg(lambda axes: _drawdown(axes, names, curves))),
        ("Cost curve", _svg(lambda axes: _costs(axes, names, record))),
    ]
    plots += [
        (f"Weights of the {who}, over the regimes", _svg(_weights_of(who, curves))) for who in curves.weights
    ]
    plots.append(("Stated interval and years", _svg(lambda axes: _intervals(axes, names, record))))
    if record["calibration"]["probability_up"]:
        plots.append(("Calibration", _svg(lambda axes: _calibration(axes, record))))
    plots.append(("What each fit learned from, and traded", _svg(lambda axes: _splits(axes, curves))))
    template = files("levibot.trading").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "share": _share, "money": _money}
    return environment.from_string(template).render(record=record, names=names, plots=plots)


def _levels(returns: FloatArray) -> FloatArray:
    levels: FloatArray = np.concatenate(([1.0], np.cumprod(1.0 + returns, dtype=np.float64)))
    return levels


def _lines(axes: Axes, names: list[str], x: Any, y_of: Callable[[str], Any]) -> None:
    for number, name in enumerate(names):
        is_main = name == _EMPHASIS
        axes.plot(
            *(x, y_of(name)),
            color="black" if is_main else f"C{number % 10}",
            linewidth=1.8 if is_main else 0.9,
            linestyle="-" if number < 10 else "--",
            label=name,
            zorder=3 if is_main else 2,
        )
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", frameon=False, fontsize=8, ncols=2)


def _days(curves: Curves) -> Any:
    return np.concatenate((curves.day[:1] - np.timedelta64(1, "D"), curves.day))


def _equity(axes: Axes, names: list[str], curves: Curves) -> None:
    _lines(axes, names, _days(curves), lambda name: _levels(curves.daily_returns[name]))
    # A lost account cannot be drawn on a logarithmic axis.
    if all(_levels(curves.daily_returns[name]).min() > 0.0 for name in names):
        axes.set_yscale("log")
    axes.set_ylabel("equity over its start, net of costs")


def _drawdown(axes: Axes, names: list[str], curves: Curves) -> None:
    def fallen(name: str) -> FloatArray:
        levels = _levels(curves.daily_returns[name])
        fall: FloatArray = levels / np.maximum.accumulate(levels) - 1.0
        return fall

    _lines(axes, names, _days(curves), fallen)
    axes.legend(loc="lower left", frameon=False, fontsize=8, ncols=2)
    axes.set_ylabel("fall from the highest day before")


def _costs(axes: Axes, names: list[str], record: dict[str, Any]) -> None:
    bps = [point["cost_bps"] for point in record[names[0]]["cost_curve"]]

    def ratios(name: str) -> list[float]:
        points = record[name]["cost_curve"]
        return [np.nan if point["sharpe_net"] is None else point["sharpe_net"] for point in points]

    _lines(axes, names, bps, ratios)
    axes.axvline(record["costs"]["total_bps"], color="grey", linewidth=0.8)
    axes.set_xlabel("basis points a side")
    axes.set_ylabel("net Sharpe ratio")


def _weights_of(who: str, curves: Curves) -> Callable[[Axes], None]:
    def plot(axes: Axes) -> None:
        axes.stackplot(curves.day, curves.weights[who].T, labels=curves.members, alpha=0.85)
        known = np.isfinite(curves.regimes).all(axis=1)
        regime = np.where(known, np.nan_to_num(curves.regimes).argmax(axis=1), -1)
        for number, name in enumerate(curves.regime_names):
            axes.fill_between(
                curves.day,
                *(1.02, 1.10),
                where=(regime == number).tolist(),
                color=_SHADES[number % len(_SHADES)],
                step="mid",
                label=name,
            )
        axes.set_ylim(0.0, 1.12)
        axes.set_ylabel("share of all weight; on top, the regime")
        axes.legend(loc="lower left", fontsize=8, ncols=4)

    return plot


def _intervals(axes: Axes, names: list[str], record: dict[str, Any]) -> None:
    """The interval that is stated for each Sharpe ratio, and what its years were."""
    for number, name in enumerate(names):
        low, high = (np.nan if bound is None else bound for bound in record[name]["sharpe_ci95"])
        axes.plot([low, high], [number, number], color="#a0aec0", linewidth=5.0, solid_capstyle="butt")
        years = [year["sharpe_net"] for year in record[name]["years"].values()]
        found = [np.nan if ratio is None else ratio for ratio in years]
        axes.scatter(found, [number] * len(found), s=14, color="#2b6cb0", zorder=3)
    axes.set_yticks(range(len(names)), names)
    axes.axvline(0.0, color="grey", linewidth=0.8)
    axes.set_xlabel("net Sharpe ratio: 95 % interval of the whole, and each year")


def _calibration(axes: Axes, record: dict[str, Any]) -> None:
    """What was said of a rise against how often it came; on the diagonal the two agree."""
    told = record["calibration"]["probability_up"]
    ends = [
        value for of in told.values() for bin_ in of["bins"] for value in (bin_["said"], bin_["happened"])
    ]
    axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color="grey", linewidth=0.8)
    for number, (name, of) in enumerate(told.items()):
        axes.plot(
            *([bin_[key] for bin_ in of["bins"]] for key in ("said", "happened")),
            marker="o",
            markersize=3,
            linewidth=1.8 if name == _EMPHASIS else 0.9,
            color="black" if name == _EMPHASIS else f"C{number % 10}",
            label=f"{name}: error {of['error']:.3f}",
        )
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    axes.set_xlabel("probability of a rise that was stated, ten bins")
    axes.set_ylabel("share that rose")


def _splits(axes: Axes, curves: Curves) -> None:
    """A line a fit: the window that taught it, and the stretch that it traded."""
    for number, split in enumerate(curves.splits):
        begin, fit, end = (
            np.datetime64(at.replace(tzinfo=None)) for at in (split.train_start, split.fit_at, split.test_end)
        )
        taught = axes.plot([begin, fit], [number, number], color="#a0aec0", linewidth=4.0)
        traded = axes.plot([fit, end], [number, number], color="#2b6cb0", linewidth=4.0)
        if number == 0:
            taught[0].set_label("learned from")
            traded[0].set_label("traded")
    axes.invert_yaxis()
    axes.set_ylabel("fit")
    axes.legend(loc="lower left", frameon=False, fontsize=8)


def _svg(plot: Callable[[Axes], None]) -> str:
    # Text as text: it can be read, searched and tested for.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure = Figure(figsize=(9.0, 4.2), layout="constrained")
        FigureCanvasSVG(figure)
        plot(figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    # Without the head of a file of its own.
    return "<svg" + text.getvalue().partition("<svg")[2]


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _money(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2g}" if value < 1e3 else f"{value / 1e6:,.2f} M"
