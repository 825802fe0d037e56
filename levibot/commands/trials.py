"""`trials list`, `show`, `count`: what was ever scored, and what the best of it is worth."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from levibot.commands.shared import JsonFlag, console, counted, load_settings, say
from levibot.errors import StoreError
from levibot.settings import Settings

if TYPE_CHECKING:
    from levibot.learning.evidence.family import Family
    from levibot.learning.evidence.trial import Kind
    from levibot.stores.trial_journal import TrialJournal

MAX_SHOWN = 10_000
SHORT_ID = 12
TABLE_WIDTH = 160

group = typer.Typer(
    help="Every configuration that was ever scored, and every look at the hold-out.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

MarketOption = Annotated[str | None, typer.Option("--market", help="this market only, by its id")]


@group.command("list")
def list_trials(
    market: MarketOption = None,
    kind: Annotated[
        str | None, typer.Option(help="search, selection, rl, hand, yardstick or hold-out")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_SHOWN, help="the newest so many")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """The trials that were scored last, newest first."""
    from rich.table import Table

    from levibot.stores.trial_rows import to_json

    journal, store = _journal(load_settings())
    found = journal.newest(limit, kind=_kind(kind), market_id=market)
    if as_json:
        say(True, {"store": store, "trials": [to_json(trial) for trial in found]}, "")
        return
    rows = Table(width=None if console.is_terminal else TABLE_WIDTH)
    for column in ("trial", "scored", "kind", "run", "market", "period", "days", "net", "gross", "status"):
        rows.add_column(column, no_wrap=column == "trial")
    for trial in found:
        rows.add_row(
            trial.trial_id[:SHORT_ID],
            f"{trial.scored_at:%Y-%m-%d %H:%M}",
            trial.kind,
            trial.run_id,
            trial.market_id,
            f"{trial.start:%Y-%m-%d} … {trial.end:%Y-%m-%d}",
            str(trial.n_days),
            _ratio(trial.net_sharpe),
            _ratio(trial.gross_sharpe),
            trial.status,
        )
    console.print(rows, crop=False)


@group.command("show")
def show(
    trial_id: Annotated[str, typer.Argument(help="or its beginning")],
    as_json: JsonFlag = False,
) -> None:
    """Everything that is known of one trial, its daily returns among it."""
    from levibot.stores.trial_rows import to_json

    journal, store = _journal(load_settings())
    trial = journal.find(trial_id)
    record = to_json(trial)
    text = "\n".join(f"{name:13} {value}" for name, value in record.items())
    returns = None if trial.daily_returns is None else trial.daily_returns.tolist()
    say(as_json, {"store": store, **record, "daily_returns": returns}, text)


@group.command("count")
def count(as_json: JsonFlag = False) -> None:
    """How many trials there are by market, what they are worth, and how often the hold-out was looked at."""
    from levibot.learning.evidence.hold_out import FINAL

    journal, store = _journal(load_settings())
    markets = []
    for market in sorted({market for market, _ in journal.counts()}):
        family = _all_of(journal, market)
        by_kind = {kind: n for (of, kind), n in journal.counts().items() if of == market}
        markets.append(
            {
                "market": market,
                "kinds": by_kind,
                "counted": family.n_trials,
                "distinct": family.n_distinct,
                "effective": family.n_effective,
                "hold_out": {"name": FINAL.name, "looks": journal.looks(market, FINAL.name)},
            }
        )
    say(as_json, {"store": store, "markets": markets}, "\n".join(map(_line, markets)) or "No trials yet.")


def _all_of(journal: TrialJournal, market: str) -> Family:
    from datetime import UTC, datetime

    from levibot.learning.evidence.family import family_of

    first, last = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
    return family_of(journal.family(market, "", first, last))


def _journal(settings: Settings) -> tuple[TrialJournal, str]:
    """The journal after an exchange with PostgreSQL where there is one, and what became of that."""
    from levibot.launch.run_record import read_record
    from levibot.stores.connect import open_ticks, open_trial_journal
    from levibot.stores.trial_exchange import exchange

    journal = open_trial_journal(settings)
    record = read_record(settings.home)
    is_running = record is not None and record.launcher is not None
    if settings.postgres_dsn is None and not is_running:
        return journal, "not running"

    async def connected() -> None:
        ticks = await open_ticks(settings)
        try:
            await exchange(journal, ticks.trials)
        finally:
            await ticks.close()

    try:
        asyncio.run(connected())
    except StoreError as exc:
        # The journal is there without it; that others' trials may be missing has to be said.
        sys.stderr.write(f"levibot: these are the trials of this state folder alone. {exc}\n")
        return journal, exc.code
    return journal, "exchanged"


def _kind(kind: str | None) -> Kind | None:
    from typing import get_args

    from levibot.errors import UsageError
    from levibot.learning.evidence.trial import Kind

    if kind is None or kind in get_args(Kind):
        return kind  # type: ignore[return-value]
    raise UsageError(f"{kind!r} is no kind of trial.", hint=f"Kinds are {', '.join(get_args(Kind))}.")


def _line(market: dict[str, Any]) -> str:
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in market["kinds"].items())
    return (
        f"{market['market']}: {counted(market['counted'], 'trial')} counted ({kinds}), "
        f"{market['distinct']:,} distinct, worth {market['effective']:.1f}; looks at the hold-out "
        f"{market['hold_out']['name']!r}: {market['hold_out']['looks']}"
    )


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
