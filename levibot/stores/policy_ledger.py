"""What policies decided, in PostgreSQL: a chain of decisions a version and symbol, each on a later close.

A decision names the one that it follows, and each is followed by one: of writers that know of the same past
the first wins, and a writer that does not know of all the past is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from levibot.stores.postgres_client import PostgresClient
from levibot.stores.postgres_deadline import Deadline

_NAMES = (
    "symbol",
    "as_of",
    "follows",
    "policy_version",
    "view_version",
    "position",
    "action",
    "probabilities",
)
_COLUMNS = ", ".join((*_NAMES, "features", "equity"))
_DECIDE = f"""
INSERT INTO policy_decisions (market_id, {_COLUMNS})
SELECT $1, {_COLUMNS} FROM jsonb_to_recordset($2::jsonb) AS new (symbol text, as_of timestamptz,
    follows timestamptz, policy_version text, view_version text, position float8, action float8,
    probabilities jsonb, features jsonb, equity float8)
ON CONFLICT DO NOTHING
"""
_STAND = """
SELECT d.symbol, d.as_of, d.follows, d.policy_version, d.view_version, d.position, d.action,
    d.probabilities::text, d.features::text, d.equity
FROM policy_decisions d JOIN jsonb_to_recordset($2::jsonb) AS new (symbol text, as_of timestamptz,
    follows timestamptz, policy_version text) USING (symbol, as_of, policy_version)
WHERE d.market_id = $1 AND d.follows IS NOT DISTINCT FROM new.follows ORDER BY d.as_of, d.symbol
"""
_HISTORY = """
SELECT symbol, as_of, follows, policy_version, view_version, position, action, probabilities::text,
    features::text, equity
FROM policy_decisions WHERE market_id = $1 AND policy_version = $2 AND symbol = $3
    AND ($4::timestamptz IS NULL OR as_of > $4) ORDER BY as_of
"""


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """What a policy wanted of a symbol after the close `as_of`, and what it knew.

    follows: the close of the decision before, which its account has followed; None of the first.
    position: fraction of equity, before the no-trade band. action: 0, 1, 2 for short, flat, long, or the
    position. probabilities: by choice, empty of a continuous policy. features: by name as the policy read
    them, None where missing, then what it saw of its account. equity: of that account, at the close.
    """

    symbol: str
    as_of: datetime
    follows: datetime | None
    policy_version: str
    view_version: str
    position: float
    action: float
    probabilities: Mapping[str, float]
    features: Mapping[str, float | None]
    equity: float


class PolicyLedger:
    """The decisions by market. State: none beside the client's pool. Errors as in `TickStore`."""

    def __init__(self, client: PostgresClient) -> None:
        self._client = client

    async def decide(self, market_id: str, records: Sequence[PolicyRecord]) -> list[PolicyRecord]:
        """Add decisions; returns those that stand on the same closes after the same ones: the first of each.

        None is returned of a decision that does not follow the newest, or that was not the first to follow
        it: then there are others in `history`, and its account is not the one that they have.
        """
        if not records:
            return []
        ordered = sorted(records, key=lambda record: (record.policy_version, record.symbol, record.as_of))
        rows = json.dumps([asdict(record) | _instants(record) for record in ordered], allow_nan=False)
        async with self._client.connection("write_policy_decisions") as (db, _), db.transaction():
            await db.execute(_DECIDE, market_id, rows)
            standing = await db.fetch(_STAND, market_id, rows)
        return [_record(row) for row in standing]

    async def history(
        self, market_id: str, policy_version: str, symbol: str, *, after: datetime | None = None
    ) -> list[PolicyRecord]:
        """A version's decisions on a symbol, oldest first: its account follows from all of them.

        after: only those on later closes.
        """

        async def body(db: Any, _: Deadline) -> Sequence[Any]:
            found: Sequence[Any] = await db.fetch(_HISTORY, market_id, policy_version, symbol, after)
            return found

        return [_record(row) for row in await self._client.read("read_policy_decisions", body)]


def _record(row: Any) -> PolicyRecord:
    return PolicyRecord(
        **{
            **dict(row),
            "probabilities": json.loads(row["probabilities"]),
            "features": json.loads(row["features"]),
        }
    )


def _instants(record: PolicyRecord) -> dict[str, str | None]:
    follows = None if record.follows is None else record.follows.isoformat()
    return {"as_of": record.as_of.isoformat(), "follows": follows}
