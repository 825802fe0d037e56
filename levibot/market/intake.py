"""The last step of every way into the store: broken rows to quarantine, sound ones to their table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from levibot.market.bars import Bars
from levibot.market.observations import Observations
from levibot.market.screening import Rejects, Screened
from levibot.market.ticks import Ticks
from levibot.stores.quarantine import Refused
from levibot.stores.ticks import TickStore
from levibot.telemetry.metrics import DEFAULT, Metrics

# Each row of a source may be broken; what tells the fault is there long before this many.
MAX_KEPT = 10_000
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Account:
    """Where the rows of a source went: each is new in its table, or was there already, or is rejected.

    n_there: in the table, earlier in the same set, or in quarantine since an earlier pass. reasons: the
    rejected ones by reason. n_unkept: how many of these were over the quarantine's bound: they are counted,
    here and in the metric, and not kept.
    """

    n_new: int = 0
    n_there: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    n_unkept: int = 0

    @property
    def n_rejected(self) -> int:
        return sum(self.reasons.values())

    @property
    def n_read(self) -> int:
        """All rows that the source gave."""
        return self.n_new + self.n_there + self.n_rejected

    def __add__(self, other: Account) -> Account:
        reasons = dict(Counter(self.reasons) + Counter(other.reasons))
        return Account(
            self.n_new + other.n_new, self.n_there + other.n_there, reasons, self.n_unkept + other.n_unkept
        )


class Intake:
    """Takes screened rows into the store of one market, again and again.

    Rejected rows go first: a pass that is cut short between the two reads its rows again, and neither a row
    in quarantine nor one in its table is there twice. max_kept: at most so many go to quarantine in one pass,
    which `begin` begins.
    """

    def __init__(
        self,
        store: TickStore,
        market_id: str,
        *,
        max_kept: int = MAX_KEPT,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self.store = store
        self.market_id = market_id
        self._max_kept = max_kept
        self._room = max_kept
        self._metrics = metrics

    def begin(self) -> None:
        """A new pass: the quarantine has room again."""
        self._room = self._max_kept

    async def take_bars(self, sets: Sequence[Screened[Bars]]) -> Account:
        """Store bars, all or none. Raises as `TickStore.write_many` does."""
        kept = await self._keep("bars", [rows.rejects for rows in sets])
        n_new = await self.store.write_many(self.market_id, [rows.sound for rows in sets])
        return _account(sets, n_new, kept)

    async def take_ticks(self, sets: Sequence[Screened[Ticks]]) -> Account:
        """Store trades, all or none. Raises as `TickTable.write` does."""
        kept = await self._keep("ticks", [rows.rejects for rows in sets])
        n_new = await self.store.ticks.write(self.market_id, [rows.sound for rows in sets])
        return _account(sets, n_new, kept)

    async def take_observations(self, sets: Sequence[Screened[Observations]]) -> Account:
        """Store what was not known yet, all or none. Raises as `ObservationTable.write` does."""
        kept = await self._keep("observations", [rows.rejects for rows in sets])
        news = [await self.store.observations.news(self.market_id, rows.sound) for rows in sets]
        n_new = await self.store.observations.write(self.market_id, news)
        return _account(sets, n_new, kept)

    async def _keep(self, table: str, sets: Sequence[Rejects]) -> Account:
        """Put rows into quarantine, as many as there is room for. The account of those that are new there."""
        account = Account()
        for rejects in sets:
            if not len(rejects):
                continue
            kept = rejects.take(slice(0, self._room))
            over = rejects.take(slice(self._room, None))
            self._room -= len(kept)
            # A live source gives a broken row again at every poll: said and counted is what was not known.
            new = await self._write(table, kept) + over.reasons()
            for reason, n in new.items():
                self._metrics.rows_rejected.labels(table, reason).inc(n)
            if new:
                log.warning("rows were rejected", table=table, symbol=rejects.symbol, reasons=dict(new))
            account += Account(reasons=dict(new), n_unkept=len(over))
        return account

    async def _write(self, table: str, rejects: Rejects) -> Counter[str]:
        """How many of the rows, by reason, were not in quarantine before."""
        by_reason: dict[str, list[Refused]] = {}
        for reason, row in rejects.records():
            by_reason.setdefault(reason, []).append(Refused(table, rejects.symbol, reason, row))
        new: Counter[str] = Counter()
        for reason, rows in by_reason.items():
            new[reason] = await self.store.quarantine.write_many(self.market_id, rows)
        return new


def _account(
    sets: Sequence[Screened[Bars]] | Sequence[Screened[Ticks]] | Sequence[Screened[Observations]],
    n_new: int,
    kept: Account,
) -> Account:
    n_read = sum(len(rows.sound) + len(rows.repeated) + len(rows.rejects) for rows in sets)
    return kept + Account(n_new=n_new, n_there=n_read - n_new - kept.n_rejected)
