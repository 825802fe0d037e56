"""`features list`, `describe`, `check`: what the features are, and whether they keep the laws."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from levibot.commands.feature_parity import parity
from levibot.commands.feature_report import report
from levibot.commands.shared import (
    EdgeOption,
    JsonFlag,
    PathOption,
    SeedOption,
    SourceOption,
    SymbolsOption,
    console,
    counted,
    load_settings,
    say,
)
from levibot.errors import UsageError
from levibot.settings import Settings

if TYPE_CHECKING:
    from levibot.features.feature import Definition
    from levibot.features.view import FeatureView
    from levibot.market.bars import Panel

group = typer.Typer(
    help="What the features are, and whether they keep the laws.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

group.command("parity")(parity)
group.command("report")(report)

ViewOption = Annotated[str, typer.Option("--view", help="the view")]
DEFAULT_VIEW = "core"
TABLE_WIDTH = 400


@group.command("list")
def list_features(
    view: ViewOption = DEFAULT_VIEW,
    family: Annotated[str | None, typer.Option(help="this family only")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Name, family, unit, warm-up and inputs of every feature of a view."""
    from rich.console import Console
    from rich.table import Table

    chosen = _view(view)
    definitions = [d for d in (*chosen.features, *chosen.on_demand) if family in (None, d.family)]
    if not definitions:
        known = sorted({d.family for d in (*chosen.features, *chosen.on_demand)})
        raise UsageError(
            f"View {view!r} has no family {family!r}.", hint=f"Its families: {', '.join(known)}."
        )
    if as_json:
        features = [_record(d) for d in definitions]
        say(True, {"view": chosen.name, "version": chosen.version, "features": features}, "")
        return
    table = Table("feature", "family", "unit", "warm-up", "inputs", box=None, header_style="bold")
    for d in definitions:
        table.add_row(d.name, d.family, d.unit, f"{d.warmup_bars:,}", " ".join(d.inputs))
    # Wider than any terminal: a name that is cut short cannot be looked up.
    Console(width=TABLE_WIDTH).print(table)
    console.out(
        f"{counted(len(definitions), 'feature')} of view {chosen.name}, version {chosen.version}, "
        f"which needs {counted(chosen.warmup_bars, 'bar')}.",
        highlight=False,
    )


@group.command()
def describe(
    name: Annotated[str, typer.Argument(help="like return_24")],
    view: ViewOption = DEFAULT_VIEW,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="measure how far the value moves when the window doubles")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Formula, source, inputs, parameters and warm-up of one feature."""
    from levibot.features.check import warmup_sensitivity
    from levibot.features.feature import Feature
    from levibot.features.view import FeatureView

    chosen = _view(view)
    found = {d.name: d for d in (*chosen.features, *chosen.on_demand)}.get(name)
    if found is None:
        raise UsageError(
            f"View {view!r} has no feature {name!r}.", hint="`levibot features list` prints what there is."
        )
    record = _record(found)
    if sensitivity:
        if not isinstance(found, Feature):
            raise UsageError(f"{name} needs a request: it has no warm-up to measure.")
        alone = FeatureView(name, (found,))
        panel = _market(load_settings(), 2 * alone.warmup_bars, alone)
        record["sensitivity"] = warmup_sensitivity(alone, panel)[name]
    lines = [f"{name}: {record['formula']}", ""]
    lines += [f"  {key:12} {value}" for key, value in _told(record).items()]
    say(as_json, record, "\n".join(lines))


@group.command()
def check(
    view: ViewOption = DEFAULT_VIEW,
    source: SourceOption = None,
    path: PathOption = None,
    symbols: SymbolsOption = None,
    edge: EdgeOption = None,
    seed: SeedOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Try the laws on a market: live is history, no future, finite memory. Exit code 1 if one is broken."""
    from levibot.features.check import check as check_view

    settings = load_settings(source=source, market=path, symbols=symbols, edge=edge, seed=seed)
    chosen = _view(view)
    panel = _market(settings, 2 * chosen.warmup_bars + 200, chosen)
    result = check_view(chosen, panel, settings.seed)
    worst = max(result.sensitivity, key=lambda name: result.sensitivity[name])
    lines = [str(violation) for violation in result.violations]
    if result.unknown:
        lines.append(f"Without a value on this market, and so not tried: {', '.join(result.unknown)}.")
    lines.append(
        f"A window twice as long moves no value by more than {result.sensitivity[worst]:.1e} of it ({worst})."
    )
    verdict = (
        f"{counted(len(result.violations), 'violation')} in" if result.violations else "All laws hold for"
    )
    lines.append(
        f"{verdict} {counted(len(chosen.features), 'feature')} of view {chosen.name} on {len(panel):,} bars "
        f"of {counted(len(panel.symbols), 'symbol')}."
    )
    record = {
        "view": chosen.name,
        "version": chosen.version,
        "bars": len(panel),
        "violations": [{"law": v.law, "feature": v.feature, "detail": v.detail} for v in result.violations],
        "unknown": list(result.unknown),
        # JSON has no infinity: a feature that has a value in only one of the windows has null here.
        "sensitivity": {n: v if v != float("inf") else None for n, v in result.sensitivity.items()},
    }
    say(as_json, record, "\n".join(lines))
    if result.violations:
        raise typer.Exit(1)


def _view(name: str) -> FeatureView:
    from levibot.features.views import view

    return view(name)


def _market(settings: Settings, n_rows: int, view: FeatureView) -> Panel:
    """The newest `n_rows` rows of the market that the settings name, with what it tells beside its bars."""
    from levibot.features.side_data import attach_told
    from levibot.market.bars import Panel
    from levibot.market.sources import open_source

    market = open_source(settings)
    first, last = market.extent()
    # A market without end is read from its beginning.
    end = last or first + n_rows * market.interval
    # Outages are missing rows: more time than rows, so that there are enough.
    start = max(first, end - n_rows * market.interval - timedelta(days=30))
    bars = {symbol: market.bars(symbol, start, end) for symbol in settings.symbols}
    panel = Panel.align({symbol: b for symbol, b in bars.items() if len(b)}).tail(n_rows)
    return attach_told(panel, market, view)


def _record(definition: Definition) -> dict[str, Any]:
    return {
        "name": definition.name,
        "family": definition.family,
        "unit": definition.unit,
        "source": definition.source,
        "inputs": list(definition.inputs),
        "parameters": definition.arguments,
        "window_bars": definition.window_bars,
        "warmup_bars": definition.warmup_bars,
        "formula": (definition.formula.__doc__ or "").strip(),
    }


def _told(record: dict[str, Any]) -> dict[str, str]:
    told = {
        "family": record["family"],
        "unit": record["unit"],
        "source": record["source"],
        "inputs": ", ".join(record["inputs"]),
        "parameters": ", ".join(f"{name} = {value:g}" for name, value in record["parameters"].items()),
        "window": counted(record["window_bars"], "bar"),
        "warm-up": counted(record["warmup_bars"], "bar"),
    }
    if "sensitivity" in record:
        told["sensitivity"] = f"{record['sensitivity']:.1e} of the value, when the window doubles"
    return {key: value or "none" for key, value in told.items()}
