"""Whether a new model is to take the place of the one that serves: by a rule, on days that neither has seen.

What is judged is how the new one is made. It is made once more with what was known at the beginning of the
days, trades them, and is held against the active model on the same days, both net of costs. The version that
is published has learned from these days too; nobody can say yet how it does on the next ones.

    no active model, or one that cannot serve this run    promoted, since there is nothing to lose
    fewer than `min_days` that the active one has not seen kept
    the 95 % interval of the difference of the net Sharpe ratios reaches down to 0 or below    kept
    deflated Sharpe ratio below `deflated_floor`           kept
    otherwise                                              promoted
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from levibot.errors import DataError
from levibot.learning.evidence.book import Scored, TrialBook
from levibot.learning.evidence.paired import SharpeDifference, sharpe_difference
from levibot.learning.evidence.verdict import Verdict, judge
from levibot.learning.past import Knowledge
from levibot.learning.rehearsal import Rehearsal, features_for, rehearse
from levibot.learning.signal import SignalModel
from levibot.learning.training import hash_panel
from levibot.trading.costs import Costs
from levibot.trading.metrics import sharpe

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class PromotionRule:
    """days: at most so many are traded, the newest. The others as the module says."""

    days: int = 365
    min_days: int = 60
    deflated_floor: float = 0.9


@dataclass(frozen=True, slots=True)
class Rival:
    """The version that serves. model: None where it cannot serve this run, and `problem` says why."""

    version: str
    model: SignalModel | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """is_promoted, why in one sentence, and the numbers, as JSON values."""

    is_promoted: bool
    reason: str
    numbers: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"is_promoted": self.is_promoted, "reason": self.reason, **self.numbers}


def decide(
    known: Knowledge,
    fit: Callable[[Knowledge], SignalModel],
    rival: Rival | None,
    *,
    trials: TrialBook,
    seed: int,
    costs: Costs,
    rule: PromotionRule,
) -> Decision:
    """Hold a way of making a model against the one that serves.

    known: what the new model learns from. fit: makes it of what was known earlier. rival: None where no
    version serves yet. Both scores are counted as trials, the rival's as a yardstick, and a look at the
    hold-out before it is traded. The same arguments and ledger give the same decision.
    Raises StoreError when a trial cannot be written down, and DataError where there is an active model and
    the new one cannot be made at the beginning of the days.
    """
    model, without = (None, _without(rival)) if rival is None else _usable(rival, known)
    start = _first_day(known, model, rule)
    numbers: dict[str, Any] = {
        "rule": asdict(rule),
        "costs": asdict(costs),
        "against": None if rival is None else rival.version,
        "start": start.isoformat(),
        "end": known.as_of.isoformat(),
    }
    n_days = (known.as_of - start) // DAY
    if n_days < rule.min_days:
        said = (
            f"there are {max(0, n_days)} days that the active model has not seen; {rule.min_days} are needed."
        )
        return Decision(model is None, without or f"Kept {_name(rival)}: {said}", numbers)
    started_at = trials.clock.now()
    try:
        rehearsed = fit(known.until(start))
    except DataError as exc:
        if model is not None:
            raise
        return Decision(True, f"{without} It was not scored: {exc.message}", numbers)

    trials.journal.make()
    seen = trials.read(start, known.as_of, lambda: known, "promotion")
    ours = rehearse(rehearsed, seen, start, costs)
    theirs = None if model is None else rehearse(model, seen, start, costs)
    _count(trials, rehearsed, ours, known, costs, started_at, is_yardstick=False)
    if model is not None and theirs is not None:
        _count(trials, model, theirs, known, costs, started_at, is_yardstick=True)
    verdict = judge(ours.net, trials.family(hash_panel(known.panel), start, known.as_of))
    numbers |= {
        "days": len(ours.net),
        "net_sharpe": _number(sharpe(ours.net)),
        "gross_sharpe": _number(sharpe(ours.gross)),
        **verdict.to_json(),
    }
    if theirs is None:
        return Decision(True, without, numbers)
    difference = sharpe_difference(ours.net, theirs.net, seed=seed)
    numbers |= {
        "active_net_sharpe": _number(sharpe(theirs.net)),
        "difference": {
            "net_sharpe": _number(difference.difference),
            "low": _number(difference.interval95.low),
            "high": _number(difference.interval95.high),
            "p": _number(difference.p_bootstrap),
        },
    }
    is_promoted, why = _weigh(difference, verdict, rule)
    verb = "Promoted over" if is_promoted else "Kept"
    return Decision(is_promoted, f"{verb} {_name(rival)}: {why}", numbers)


def _weigh(difference: SharpeDifference, verdict: Verdict, rule: PromotionRule) -> tuple[bool, str]:
    """Whether the new one is better, and in which words. What is not defined is no evidence."""
    low, high = difference.interval95.low, difference.interval95.high
    what = (
        f"net Sharpe ratio {difference.difference:+.2f} against it, 95 % interval {low:+.2f} to {high:+.2f}"
    )
    deflated = f"deflated Sharpe ratio {verdict.deflated:.2f}, floor {rule.deflated_floor:.2f}"
    if not low > 0.0:
        return False, f"{what}, which is not above 0."
    if not verdict.deflated >= rule.deflated_floor:
        return False, f"{what}, but {deflated}."
    return True, f"{what}; {deflated}."


def _usable(rival: Rival, known: Knowledge) -> tuple[SignalModel | None, str]:
    if rival.model is None:
        return None, _without(rival)
    try:
        features_for(rival.model, known)
    except DataError as exc:
        return None, _without(Rival(rival.version, None, exc.message))
    return rival.model, ""


def _without(rival: Rival | None) -> str:
    if rival is None:
        return "The first model of this registry: there is none to hold it against."
    return f"Promoted over {rival.version}, which cannot serve this run: {rival.problem}"


def _first_day(known: Knowledge, model: SignalModel | None, rule: PromotionRule) -> datetime:
    """The midnight from which on days are traded."""
    midnight = known.as_of.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = midnight - rule.days * DAY
    if model is None or model.train_end <= start:
        return start
    seen = model.train_end.astimezone(UTC)
    day = seen.replace(hour=0, minute=0, second=0, microsecond=0)
    return day if day == seen else day + DAY


def _count(
    trials: TrialBook,
    model: SignalModel,
    account: Rehearsal,
    known: Knowledge,
    costs: Costs,
    started_at: datetime,
    *,
    is_yardstick: bool,
) -> None:
    scored = Scored(
        data_hash=hash_panel(known.panel),
        view=model.view,
        view_version=model.view_version,
        seed=model.seed,
        parameters={
            "strategy": "active" if is_yardstick else "promotion",
            "signal": model.parameters.to_json(),
            "training": dict(model.training),
            "feature_names": list(model.feature_names),
            "symbols": list(model.symbols),
            "train_start": model.train_start.isoformat(),
            "train_end": model.train_end.isoformat(),
            "costs": asdict(costs),
        },
        start=account.start,
        end=known.as_of,
        started_at=started_at,
        net_sharpe=sharpe(account.net),
        gross_sharpe=sharpe(account.gross),
        daily_returns=account.net,
    )
    trials.record(scored, is_yardstick=is_yardstick)


def _name(rival: Rival | None) -> str:
    return "the active model" if rival is None else rival.version


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
