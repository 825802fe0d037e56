"""The weights of the ensemble in Redis, `ensemble:weights`: what each signal is taken under."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Self

import numpy as np
from redis.asyncio import Redis

from levibot.errors import DataError, RegistryError, StoreError
from levibot.learning.members import checked_weights
from levibot.stores.durable import write_durably
from levibot.stores.redis import ask

KEY = "ensemble:weights"


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """Weights to be held on the days after `as_of`, None: they have learned from no day yet.

    weights: (M,) of `members`, sum 1. routed: the same, leaned by the router; its own where `abstained` says
    why it did not lean. regime: probability of each at the end of `as_of`, empty where none is known. basis:
    what they began with, `prior` or `walk-forward`. model_version: whose members they are.
    """

    as_of: date | None
    members: tuple[str, ...]
    weights: tuple[float, ...]
    routed: tuple[float, ...]
    abstained: str
    regime: Mapping[str, float]
    basis: str
    model_version: str

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"as_of": None if self.as_of is None else self.as_of.isoformat()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The same again. Raises RegistryError on anything else."""
        try:
            held = cls(
                as_of=None if values["as_of"] is None else date.fromisoformat(values["as_of"]),
                members=tuple(str(member) for member in values["members"]),
                weights=tuple(float(weight) for weight in values["weights"]),
                routed=tuple(float(weight) for weight in values["routed"]),
                abstained=str(values["abstained"]),
                regime={str(name): float(of) for name, of in values["regime"].items()},
                basis=str(values["basis"]),
                model_version=str(values["model_version"]),
            )
            for weights in (held.weights, held.routed):
                checked_weights(np.asarray(weights), len(held.members))
        except (KeyError, TypeError, ValueError, AttributeError, DataError) as exc:
            raise RegistryError(f"{KEY} does not hold weights of an ensemble: {exc}.") from exc
        return held


class LiveWeights:
    """Reads and writes the one key. State: none beside the client, which is of the durable role."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def close(self) -> None:
        await self._client.aclose()

    async def write(self, market_id: str, held: Sequence[HeldWeights]) -> None:
        """Replace what the key holds. held: newest first. Raises StoreUnavailable and StoreError."""
        text = json.dumps({"market_id": market_id, "held": [one.to_json() for one in held]}, allow_nan=False)
        await write_durably(self._client, "write the ensemble's weights", lambda pipe: pipe.set(KEY, text))

    async def read(self, market_id: str) -> tuple[HeldWeights, ...]:
        """Newest first; empty where there are none of this market.

        Raises RegistryError when the key holds anything else, StoreUnavailable and StoreError.
        """
        text: Any = await ask("read the ensemble's weights", self._client.get(KEY))
        if text is None:
            return ()
        try:
            stored = json.loads(text)
            is_of_another = stored["market_id"] != market_id
            entries = list(stored["held"])
        except (ValueError, KeyError, TypeError) as exc:
            raise StoreError(f"{KEY} does not hold weights: {exc!r}.", hint="Delete the key.") from exc
        return () if is_of_another else tuple(HeldWeights.from_json(entry) for entry in entries)
