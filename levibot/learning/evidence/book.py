"""The ledger of trials as one scorer holds it. Whoever scores out of sample needs one: law 9."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import numpy as np

from levibot.clock import Clock
from levibot.learning.evidence.family import Family, family_of
from levibot.learning.evidence.hold_out import FINAL, HoldOut, look
from levibot.learning.evidence.trial import Kind, Status, Trial, outcome_run_id
from levibot.market.bars import FloatArray
from levibot.stores.trial_journal import TrialJournal

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scored:
    """A score that is to be counted; fields as of `Trial`. daily_returns: (D,) net."""

    data_hash: str
    view: str
    view_version: str
    seed: int
    parameters: Mapping[str, Any]
    start: datetime
    end: datetime
    started_at: datetime
    net_sharpe: float
    gross_sharpe: float
    daily_returns: FloatArray
    budget: float = 1.0
    status: Status = "scored"


@dataclass(frozen=True, slots=True)
class TrialBook:
    """Whose trials they are: one market, one kind, one study.

    It holds no connection and goes to the workers of a search as it is. clock: of the machine, not of the
    market. run_id: of the study; None names each run after its outcome, see `outcome_run_id`.
    Every method raises StoreError when the journal cannot be read or written: then there is no score either.
    """

    journal: TrialJournal
    market_id: str
    clock: Clock
    kind: Kind = "hand"
    run_id: str | None = None
    git_commit: str | None = None
    hold_out: HoldOut = FINAL

    def read(self, start: datetime, end: datetime, load: Callable[[], T], purpose: str) -> T:
        """What `load` gives, which is the market of [start, end). A look at the hold-out is counted first."""
        if not self.hold_out.meets(start, end):
            return load()
        return look(
            self.hold_out,
            load,
            journal=self.journal,
            market_id=self.market_id,
            purpose=purpose,
            clock=self.clock,
            git_commit=self.git_commit,
        )

    def record(self, scored: Scored, *, is_yardstick: bool = False) -> Trial:
        """Count a score; it is on the disk when this returns. is_yardstick: nothing is chosen from it."""
        kind: Kind = "yardstick" if is_yardstick else self.kind
        trial = Trial(
            run_id=self.run_id or outcome_run_id(kind, scored.daily_returns),
            kind=kind,
            market_id=self.market_id,
            data_hash=scored.data_hash,
            view=scored.view,
            view_version=scored.view_version,
            seed=scored.seed,
            parameters=scored.parameters,
            start=scored.start,
            end=scored.end,
            started_at=scored.started_at,
            scored_at=self.clock.now(),
            net_sharpe=_defined(scored.net_sharpe),
            gross_sharpe=_defined(scored.gross_sharpe),
            n_days=len(scored.daily_returns),
            daily_returns=scored.daily_returns,
            budget=scored.budget,
            status=scored.status,
            git_commit=self.git_commit,
        )
        self.journal.add([trial])
        return trial

    def rivals(self, data_hash: str, start: datetime, end: datetime) -> list[Trial]:
        """The trials on this market, or on the same bars, whose period meets [start, end)."""
        return self.journal.family(self.market_id, data_hash, start, end)

    def family(self, data_hash: str, start: datetime, end: datetime) -> Family:
        """The trials that a result of this market and period is the best of."""
        return family_of(self.rivals(data_hash, start, end))

    @property
    def looks(self) -> int:
        """How often the hold-out of this market was looked at."""
        return self.journal.looks(self.market_id, self.hold_out.name)


def _defined(ratio: float) -> float | None:
    return ratio if np.isfinite(ratio) else None
