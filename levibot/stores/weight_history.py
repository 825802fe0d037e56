"""The history of the ensemble's weights in PostgreSQL: what was known when a day was over, never revised."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from levibot.errors import DataError
from levibot.learning.weights import WeightState
from levibot.stores.live_weights import HeldWeights
from levibot.stores.postgres_client import PostgresClient
from levibot.stores.postgres_deadline import Deadline

_APPEND = """
INSERT INTO ensemble_weights (market_id, day, model_version, basis, held, state)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6::text::jsonb) ON CONFLICT DO NOTHING
"""
_NEWEST = """
SELECT held::text, state::text FROM ensemble_weights WHERE market_id = $1 AND ($2::date IS NULL OR day < $2)
ORDER BY day DESC LIMIT $3
"""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """The weights after a day, and what the next day's are made from."""

    held: HeldWeights
    state: WeightState


class WeightHistory:
    """One row a market and day. State: none beside the client's pool. Errors as in `TickStore`."""

    def __init__(self, client: PostgresClient) -> None:
        self._client = client

    async def append(self, market_id: str, known: Known) -> bool:
        """Keep what is known after a day; False where that day has its row: it stays as it is.

        Raises DataError on weights that have learned from no day.
        """
        held = known.held
        if held.as_of is None:
            raise DataError("Weights that have learned from no day have no place in the history.")
        texts = (
            json.dumps(held.to_json(), allow_nan=False),
            json.dumps(known.state.to_json(), allow_nan=False),
        )
        key = market_id, held.as_of, held.model_version, held.basis
        async with self._client.connection("write_ensemble_weights") as (db, _):
            status = await db.execute(_APPEND, *key, *texts)
        return bool(status.endswith(" 1"))

    async def newest(self, market_id: str, n: int, before: date | None = None) -> list[Known]:
        """The newest `n` days before `before`, newest first. Raises RegistryError on a broken row."""

        async def body(db: Any, _: Deadline) -> Sequence[Any]:
            found: Sequence[Any] = await db.fetch(_NEWEST, market_id, before, n)
            return found

        rows = await self._client.read("read_ensemble_weights", body)
        return [
            Known(
                HeldWeights.from_json(json.loads(row["held"])),
                WeightState.from_json(json.loads(row["state"])),
            )
            for row in rows
        ]
