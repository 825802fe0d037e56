"""Canaries in PostgreSQL: which there were, what they answered, and what both arms did in shadow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np

from levibot.market.bars import FloatArray
from levibot.stores.canary_setting import CanaryLimits, CanarySetting
from levibot.stores.postgres_client import PostgresClient
from levibot.stores.postgres_deadline import Deadline

# The limits that a canary may break, and what else ends one: an operator, who may have it go on.
BrokenLimit = Literal["errors", "latency", "drawdown", "net_pnl", "calibration"]
Ending = BrokenLimit | Literal["configuration", "activated"]
Outcome = Literal["answered", "incomplete", "failed"]

_RUN = "version, attempt, began_at, share, limits::text, ended_at, ended_why, numbers::text"
# The others end, for there is one at a time.
_END_OTHERS = """
UPDATE canaries SET ended_at = $4, ended_why = 'configuration'
WHERE market_id = $1 AND ended_at IS NULL AND (version, attempt) <> ($2::text, $3::int4)
"""
_BEGIN = f"""
INSERT INTO canaries AS held (market_id, version, attempt, began_at, share, limits)
VALUES ($1, $2, $3, $4, $5, $6::jsonb)
ON CONFLICT (market_id, version, attempt) DO UPDATE SET
    share = excluded.share, limits = excluded.limits, set_at = excluded.set_at,
    ended_at = CASE WHEN held.ended_why IN ('configuration', 'activated') THEN NULL ELSE held.ended_at END,
    ended_why = CASE WHEN held.ended_why IN ('configuration', 'activated') THEN NULL ELSE held.ended_why END
RETURNING {_RUN}
"""
_END = f"""
UPDATE canaries SET ended_at = greatest($2, began_at), ended_why = $3, numbers = $4::jsonb
WHERE market_id = $1 AND CASE WHEN $5::text IS NULL THEN ended_at IS NULL ELSE
    (version, attempt) = ($5, $6::int4)
    AND coalesce(ended_why, 'configuration') IN ('configuration', 'activated')
END
RETURNING {_RUN}
"""
_NEWEST = f"SELECT {_RUN} FROM canaries WHERE market_id = $1 ORDER BY set_at DESC, attempt DESC LIMIT 1"
_NOTE = """
INSERT INTO canary_bars (market_id, version, attempt, as_of, outcome, problem, latency_s)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING
"""
_ANSWERS = """
SELECT as_of, outcome, problem, latency_s FROM canary_bars
WHERE market_id = $1 AND version = $2 AND attempt = $3 ORDER BY as_of DESC LIMIT $4
"""
_COUNTS = """
SELECT outcome, count(*) AS n FROM canary_bars
WHERE market_id = $1 AND version = $2 AND attempt = $3 GROUP BY 1
"""
_CHAMPION = """
SELECT model_version FROM shadow_decisions WHERE market_id = $1 ORDER BY as_of DESC LIMIT 1
"""
_EQUITY = """
SELECT closes_at, max(equity) FILTER (WHERE account = 'champion') AS champion,
    max(equity) FILTER (WHERE account = 'canary') AS canary
FROM shadow_equity WHERE market_id = ANY($1::text[]) GROUP BY 1 ORDER BY 1
"""
# The label is that of the training: from the open after a close to the one a horizon later. One close of a
# horizon, for the outcomes of two that are nearer share a part of their bars.
_LOSSES = """
WITH said AS (
    SELECT as_of, symbol, (canary.blend -> 'horizon_bars')::int8 AS horizon_bars,
        (champion.blend -> 'probability_up')::float8 AS champion,
        (canary.blend -> 'probability_up')::float8 AS canary
    FROM shadow_decisions champion JOIN shadow_decisions canary USING (as_of, symbol)
    WHERE champion.market_id = $2 AND canary.market_id = $3
        AND champion.blend -> 'horizon_bars' = canary.blend -> 'horizon_bars'
), known AS (
    SELECT said.*, (later.open > filled.open)::int::float8 AS rose FROM said
    JOIN bars filled ON (filled.market_id, filled.symbol, filled.interval_s, filled.ts)
        = ($1, said.symbol, $4::int4, as_of)
    JOIN bars later ON (later.market_id, later.symbol, later.interval_s, later.ts)
        = ($1, said.symbol, $4::int4, as_of + horizon_bars * $4::int4 * interval '1 second')
    WHERE (extract(epoch FROM as_of - $5::timestamptz)::int8 / $4::int4) % horizon_bars = 0
)
SELECT as_of, avg((champion - rose) ^ 2) AS champion, avg((canary - rose) ^ 2) AS canary
FROM known GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class CanaryRun:
    """A canary as it was set last. began_at: the close at which it began, on the market's clock.

    ended_at, ended_why: None while it goes on. numbers: of the limit that it broke, else empty.
    """

    setting: CanarySetting
    began_at: datetime
    ended_at: datetime | None = None
    ended_why: Ending | None = None
    numbers: Mapping[str, Any] | None = None

    @property
    def is_rolled_back(self) -> bool:
        """Whether a limit was broken; it does not begin again under its attempt."""
        return self.ended_why not in (None, "configuration", "activated")


@dataclass(frozen=True, slots=True)
class CanaryAnswer:
    """One bar that it was asked of. problem: empty where it answered; latency_s: None where it failed."""

    as_of: datetime
    outcome: Outcome
    problem: str
    latency_s: float | None


@dataclass(frozen=True, slots=True, eq=False)
class ArmSeries:
    """Both arms over time, oldest first, (T,) each. at: of each value; NaN where an arm has none yet."""

    at: Sequence[datetime]
    champion: FloatArray
    canary: FloatArray


def book_of(market_id: str, setting: CanarySetting, arm: str) -> str:
    """Under which name the shadow account of an arm is kept: each has a book of its own."""
    return f"{market_id} {arm} {setting.version} attempt {setting.attempt}"


class CanaryStore:
    """The canaries by market. State: none beside the client's pool. Errors as in `TickStore`."""

    def __init__(self, client: PostgresClient) -> None:
        self._client = client

    async def begin(self, market_id: str, setting: CanarySetting, as_of: datetime) -> CanaryRun:
        """Have a canary run from the close `as_of` on, or go on since it began; any other one ends.

        What was rolled back stays so: the run that is returned says it.
        """
        key = market_id, setting.version, setting.attempt
        limits = json.dumps(asdict(setting.limits), allow_nan=False)
        async with self._client.connection("begin_canary") as (db, _), db.transaction():
            await db.execute(_END_OTHERS, *key, as_of)
            return _run(await db.fetchrow(_BEGIN, *key, as_of, setting.share, limits))

    async def end(
        self,
        market_id: str,
        at: datetime,
        why: Ending,
        *,
        setting: CanarySetting | None = None,
        numbers: Mapping[str, Any] | None = None,
    ) -> CanaryRun | None:
        """End whichever runs; or a canary that broke a limit, also where an operator has ended it meanwhile.

        None where there is none: the first limit that was broken stands.
        """
        key = (None, None) if setting is None else (setting.version, setting.attempt)
        told = None if numbers is None else json.dumps(numbers, allow_nan=False)
        async with self._client.connection("end_canary") as (db, _):
            row = await db.fetchrow(_END, market_id, at, why, told, *key)
        return None if row is None else _run(row)

    async def newest(self, market_id: str) -> CanaryRun | None:
        """The canary that was set last, whether it still runs or not."""

        async def body(db: Any, _: Deadline) -> Any:
            return await db.fetchrow(_NEWEST, market_id)

        row = await self._client.read("read_canary", body)
        return None if row is None else _run(row)

    async def note(self, market_id: str, setting: CanarySetting, answer: CanaryAnswer) -> None:
        """Keep what came of a bar; the first of a bar stands."""
        key = market_id, setting.version, setting.attempt
        async with self._client.connection("note_canary") as (db, _):
            await db.execute(_NOTE, *key, answer.as_of, answer.outcome, answer.problem, answer.latency_s)

    async def answers(self, market_id: str, setting: CanarySetting, limit: int) -> list[CanaryAnswer]:
        """What came of its newest bars, oldest first."""

        async def body(db: Any, _: Deadline) -> Sequence[Any]:
            key = market_id, setting.version, setting.attempt
            found: Sequence[Any] = await db.fetch(_ANSWERS, *key, limit)
            return found

        return [CanaryAnswer(**row) for row in reversed(await self._client.read("read_canary_bars", body))]

    async def counts(self, market_id: str, setting: CanarySetting) -> dict[str, int]:
        """How many bars of each outcome there were since it began."""

        async def body(db: Any, _: Deadline) -> Sequence[Any]:
            key = market_id, setting.version, setting.attempt
            found: Sequence[Any] = await db.fetch(_COUNTS, *key)
            return found

        return {row["outcome"]: row["n"] for row in await self._client.read("count_canary_bars", body)}

    async def champion(self, market_id: str, setting: CanarySetting) -> str | None:
        """The version that decided beside it last."""

        async def body(db: Any, _: Deadline) -> str | None:
            version: str | None = await db.fetchval(_CHAMPION, _books(market_id, setting)[0])
            return version

        return await self._client.read("read_champion", body)

    async def equity(self, market_id: str, setting: CanarySetting) -> ArmSeries:
        """The equity of both arms after each priced bar."""

        async def body(db: Any, _: Deadline) -> Sequence[Any]:
            found: Sequence[Any] = await db.fetch(_EQUITY, _books(market_id, setting))
            return found

        return _series("closes_at", await self._client.read("read_canary_equity", body))

    async def losses(self, market_id: str, run: CanaryRun, interval: timedelta) -> ArmSeries:
        """The Brier score of both arms at one close of each horizon, over the symbols that both spoke of.

        Closes whose outcome is not known yet are left out, and those at which the two meant different
        horizons.
        """

        async def body(db: Any, _: Deadline) -> Sequence[Any]:
            interval_s = round(interval.total_seconds())
            books = _books(market_id, run.setting)
            found: Sequence[Any] = await db.fetch(_LOSSES, market_id, *books, interval_s, run.began_at)
            return found

        return _series("as_of", await self._client.read("read_canary_losses", body))


def _books(market_id: str, setting: CanarySetting) -> list[str]:
    return [book_of(market_id, setting, arm) for arm in ("champion", "canary")]


def _run(row: Any) -> CanaryRun:
    limits = CanaryLimits(**json.loads(row["limits"]))
    return CanaryRun(
        CanarySetting(row["version"], row["share"], row["attempt"], limits),
        row["began_at"],
        row["ended_at"],
        row["ended_why"],
        None if row["numbers"] is None else json.loads(row["numbers"]),
    )


def _series(at: str, rows: Sequence[Any]) -> ArmSeries:
    champion, canary = (
        np.array([np.nan if row[arm] is None else row[arm] for row in rows], dtype=np.float64)
        for arm in ("champion", "canary")
    )
    return ArmSeries([row[at] for row in rows], champion, canary)
