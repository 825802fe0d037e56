"""`features report`: what the features of the active model look like now."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from levibot.commands.shared import JsonFlag, as_utc, load_settings, say
from levibot.errors import DataError
from levibot.trading.report_file import check_place, write_report

if TYPE_CHECKING:
    # Plots are slow to import, and most commands do without.
    from levibot.monitoring.report import FeatureReport
    from levibot.settings import Settings


def report(
    html: Annotated[Path | None, typer.Option("--html", help="write the page with its plots here")] = None,
    days: Annotated[int, typer.Option(min=7, max=3650, help="of bars for the correlations")] = 90,
    as_of: Annotated[
        datetime | None, typer.Option("--as-of", help="UTC (default: the newest stored bar's close)")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Drift, importance and collinearity of the active model's features, from the stored bars."""
    if html is not None:
        check_place(html)
    settings = load_settings()
    made = asyncio.run(_make(settings, None if as_of is None else as_utc(as_of), days))
    if html is not None:
        write_report(html, made.to_html())
    drifting = [drift.to_json() for drift in made.checked.drifting]
    record = {
        "as_of": made.checked.as_of.isoformat(),
        "model_version": made.checked.model_version,
        "n_features": len(made.checked.drifts),
        "drifting": drifting,
        "shadow_loss": made.checked.loss.to_json(),
        "clusters": made.collinearity.clusters,
        "importance": made.weighed.importance,
        "html": None if html is None else str(html),
    }
    names = ", ".join(drift.name for drift in made.checked.drifting) or "none"
    text = (
        f"Model {made.checked.model_version} at {made.checked.as_of:%Y-%m-%d %H:%M}: "
        f"{len(drifting)} of {len(made.checked.drifts)} features drift: {names}."
    )
    say(as_json, record, text if html is None else f"{text}\nThe page is {html}.")


async def _make(settings: Settings, as_of: datetime | None, days: int) -> FeatureReport:
    from levibot.monitoring.correlation import collinearity
    from levibot.monitoring.report import FeatureReport
    from levibot.monitoring.watch import FeatureWatch
    from levibot.stores.connect import open_references, open_registry, open_ticks

    ticks = await open_ticks(settings)
    try:
        watch = FeatureWatch(
            ticks,
            open_registry(settings),
            open_references(settings),
            market_id=settings.market_id,
            interval=settings.interval,
        )
        # In a shell without the replay's clock the newest bar is all that is known of the market's time.
        newest = await ticks.last_ts(settings.market_id, settings.symbols, settings.interval, as_of)
        if not newest:
            raise DataError(
                f"No bars of {settings.market_id} are stored.",
                hint="Load them with `python -m levibot ingest`.",
            )
        instant = as_of or max(newest.values()) + settings.interval
        checked = await watch.check(instant)
        weighed = await watch.weigh(instant)
        training = await watch.training()
        rows = round(days * 86400 / settings.interval.total_seconds())
        _, features = await watch.recent(instant, rows)
        pooled = features.reshape(-1, features.shape[2])
        ages_s = {
            symbol: (instant - newest[symbol] - settings.interval).total_seconds()
            if symbol in newest
            else None
            for symbol in settings.symbols
        }
        return FeatureReport(
            datetime.now(UTC),
            settings.market_id,
            0 if training.drift is None else training.drift.n_days,
            checked,
            weighed,
            training.importance,
            collinearity(pooled, tuple(drift.name for drift in checked.drifts)),
            len(pooled),
            ages_s,
        )
    finally:
        await ticks.close()
