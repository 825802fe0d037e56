"""The strategies of a backtest, counted as trials and judged with all that were counted before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from levibot.learning.evidence.book import Scored, TrialBook
from levibot.learning.evidence.family import ALONE, Family, family_of, same_days
from levibot.learning.evidence.hold_out import HoldOut
from levibot.learning.evidence.verdict import Verdict, judge
from levibot.trading.comparisons import UNSELECTED, Overfitted, overfitted

if TYPE_CHECKING:
    from levibot.trading.performance import Performance

# Scored beside the strategies that are chosen from, and never chosen themselves.
YARDSTICKS = ("buy_and_hold", "equal_weight")


@dataclass(frozen=True, slots=True)
class Counted:
    """verdicts: by strategy. family: the trials that the report's strategies are the best of. overfitting: of
    choosing among the report's own strategies, and among all that the ledger has of the same days. looks: at
    the hold-out, on this market and by anybody, this report's own among them.
    """

    verdicts: Mapping[str, Verdict]
    family: Family
    overfitting: Mapping[str, Overfitted]
    hold_out: HoldOut
    looks: int

    def to_json(self) -> dict[str, Any]:
        return {
            "strategies": list(self.verdicts),
            "counted": self.family.n_trials,
            "distinct": self.family.n_distinct,
            "effective": self.family.n_effective,
            "overfitting": {name: of.to_json() for name, of in self.overfitting.items()},
            "hold_out": {
                "name": self.hold_out.name,
                "start": self.hold_out.start.isoformat(),
                "end": self.hold_out.end.isoformat(),
                "looks": self.looks,
            },
        }


def count_trials(
    book: TrialBook,
    strategies: Mapping[str, Performance],
    *,
    run: Mapping[str, Any],
    costs: Mapping[str, float],
    start: datetime,
    end: datetime,
    started_at: datetime,
) -> Counted:
    """Write each strategy into the ledger, then judge it with what is there.

    run: as the report has it. costs: as its parameters. start, end: of the test, as of the market's bars.
    Raises StoreError when a trial cannot be written down.
    """
    for name, performance in strategies.items():
        is_yardstick = name in YARDSTICKS
        strategy, is_unselected = name.removesuffix(UNSELECTED), name.endswith(UNSELECTED)
        parameters = {"strategy": strategy, "costs": dict(costs), "symbols": list(run["symbols"])}
        parameters |= {"conditions": run["conditions"]} if run["conditions"] else {}
        if not is_yardstick:
            parameters |= {"refit": run["refit"], **run["parameters"]}
        if is_unselected:
            # What a run without the selection counts: the same trial, whoever does it.
            parameters.pop("selection", None)
        scored = Scored(
            data_hash=run["data_hash"],
            view=run["view"],
            view_version=run["view_version"],
            seed=run["seed"],
            parameters=parameters,
            start=start,
            end=end,
            started_at=started_at,
            net_sharpe=performance.sharpe_net,
            gross_sharpe=performance.sharpe_gross,
            daily_returns=performance.daily_returns,
        )
        book.record(scored, is_yardstick=is_yardstick)
    rivals = book.rivals(run["data_hash"], start, end)
    family = family_of(rivals)
    verdicts = {
        name: judge(performance.daily_returns, ALONE if name in YARDSTICKS else family)
        for name, performance in strategies.items()
    }
    own = [of.daily_returns for name, of in strategies.items() if name not in YARDSTICKS]
    overfitting = {
        "report": overfitted(np.column_stack(own)),
        "ledger": overfitted(same_days(rivals, start, len(own[0]))),
    }
    return Counted(verdicts, family, overfitting, book.hold_out, book.looks)
