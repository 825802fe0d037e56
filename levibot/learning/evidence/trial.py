"""One configuration that was scored, as the ledger of trials keeps it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray

# What a choice was made from: by search, by selection of features, by reinforcement learning, by hand. A
# yardstick is scored beside them and not chosen. A look at a hold-out is written before there is a score.
Kind = Literal["search", "selection", "rl", "hand", "yardstick", "hold-out"]
CHOSEN_FROM: tuple[Kind, ...] = ("search", "selection", "rl", "hand")
Status = Literal["scored", "pruned", "failed"]

_LARGEST = 2**63


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A score, and what it was a score of. Instants are aware UTC.

    run_id: the study, job or session that scored it. market_id: as of `Settings`. data_hash: of the bars that
    were seen, empty where none were yet. view, view_version: of the features, empty without. seed: 0 or more
    and below 2**63. parameters: JSON values, everything else that it depends on. start, end: the period of
    the score, half-open. budget: in (0, 1], the share of the work that a search gave it.
    net_sharpe, gross_sharpe: annualised; None where not defined or failed. n_days: of the score.
    daily_returns: (n_days,) net, from the UTC day of `start` on; kept as float32. None where only the ratio
    is known. status: pruned ones were scored on less than they were to get. git_commit: None outside a clone.
    trial_id: SHA-256 of run, view version, seed, data, parameters, period and budget; what they make one.
    Raises DataError on parameters that are no JSON, and on values outside these limits.
    """

    run_id: str
    kind: Kind
    market_id: str
    data_hash: str
    view: str
    view_version: str
    seed: int
    parameters: Mapping[str, Any]
    start: datetime
    end: datetime
    started_at: datetime
    scored_at: datetime
    net_sharpe: float | None = None
    gross_sharpe: float | None = None
    n_days: int = 0
    daily_returns: FloatArray | None = None
    budget: float = 1.0
    status: Status = "scored"
    git_commit: str | None = None
    trial_id: str = field(default="")

    def __post_init__(self) -> None:
        if not self.run_id or not self.start < self.end or not 0.0 < self.budget <= 1.0:
            raise DataError(
                f"A trial of run {self.run_id!r} from {self.start} to {self.end} with budget {self.budget} "
                "cannot be counted: it takes a run, a period and a budget in (0, 1]."
            )
        if not 0 <= self.seed < _LARGEST:
            raise DataError(f"The seed of a trial is {self.seed}: it must be 0 or more and below 2**63.")
        for ratio in (self.net_sharpe, self.gross_sharpe):
            if ratio is not None and not np.isfinite(ratio):
                raise DataError(
                    f"The Sharpe ratio of a trial is {ratio}: leave it out where it is not defined."
                )
        if self.daily_returns is not None and len(self.daily_returns) != self.n_days:
            raise DataError(f"A trial of {self.n_days} days has {len(self.daily_returns)} daily returns.")
        # A record that comes out of a store keeps the name it went in with.
        if not self.trial_id:
            object.__setattr__(self, "trial_id", self._content())

    def _content(self) -> str:
        content = {
            "run_id": self.run_id,
            "view_version": self.view_version,
            "seed": self.seed,
            "data_hash": self.data_hash,
            "parameters": dict(self.parameters),
            "period": [_instant(self.start), _instant(self.end)],
            "budget": self.budget,
        }
        try:
            text = json.dumps(
                content, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":")
            )
            data = text.encode()
        except (TypeError, ValueError) as exc:
            raise DataError(f"The parameters of a trial of {self.run_id} are no JSON: {exc}.") from exc
        if "\\u0000" in text or "\0" in self.market_id + self.view:
            raise DataError(f"A trial of {self.run_id} holds a null character, which no store takes.")
        return hashlib.sha256(data).hexdigest()

    @property
    def configuration(self) -> str:
        """What two budgets of one configuration share."""
        text = json.dumps(dict(self.parameters), sort_keys=True)
        period = f"{_instant(self.start)} {_instant(self.end)}"
        return "\n".join((self.run_id, self.view_version, str(self.seed), self.data_hash, period, text))


def outcome_run_id(kind: Kind, daily_returns: FloatArray) -> str:
    """The run of somebody who has no study: named after what came out.

    The same again is the same trial. Where only the code has changed and with it the outcome, it is another.
    """
    return f"{kind}-{hashlib.sha256(pack_returns(daily_returns)).hexdigest()[:16]}"


def pack_returns(daily_returns: FloatArray) -> bytes:
    """Float32, little-endian: 4 bytes a day. A Sharpe ratio of them is right to about 1e-6."""
    return daily_returns.astype("<f4").tobytes()


def unpack_returns(data: bytes | None) -> FloatArray | None:
    """What `pack_returns` was given, as float64, rounded to float32."""
    return None if data is None else np.frombuffer(data, dtype="<f4").astype(np.float64)


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat()
