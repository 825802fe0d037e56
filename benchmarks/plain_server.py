"""What a user would write instead: one FastAPI process that asks its models at every request.

`python -m benchmarks.plain_server HOME PORT` reads the models of the active version of a state folder and the
newest features, once. Nothing is checked, limited, kept or told to anybody.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from deployments.graph import HOLDERS
from levibot.features.views import CORE
from levibot.learning.learned_members import LearnedMembers
from levibot.learning.models.sequence import Samples
from levibot.learning.past import columns_of
from levibot.market.bars import FloatArray
from levibot.serving.cross_section import newest_cross_section
from levibot.settings import Settings
from levibot.stores.connect import open_online, open_registry


class Asked(BaseModel):
    """Which symbol."""

    symbol: str


class Told(BaseModel):
    """The mean probability of the models."""

    symbol: str
    probability_up: float


async def newest_windows(settings: Settings) -> FloatArray:
    """(R, S, F) of the view, as the router reads them."""
    online = open_online(settings, CORE)
    try:
        section = newest_cross_section(await online.get_windows(settings.symbols), settings.symbols)
    finally:
        await online.close()
    if section is None:
        raise RuntimeError("There are no features online.")
    return section.windows


def main() -> None:
    """Serve until SIGTERM."""
    home, port = Path(sys.argv[1]), int(sys.argv[2])
    settings = Settings.load(home=home)
    registry = open_registry(settings)
    active = registry.active()
    if active is None:
        raise RuntimeError("No version is active.")
    stored = registry.load(active)
    kinds = [kind for of_holder in HOLDERS.values() for kind in of_holder]
    members = LearnedMembers.from_files(stored.metadata, stored.files, kinds)
    windows = asyncio.run(newest_windows(settings))
    features = columns_of(windows, CORE.names, members.blending.feature_names)
    column = {symbol: number for number, symbol in enumerate(settings.symbols)}
    http = FastAPI()

    @http.post("/")
    async def predict(asked: Asked) -> Told:
        newest = Samples(features, np.array([len(features) - 1]), np.array([column[asked.symbol]]))
        said = [float(part.predict_proba(newest)[0, -1]) for part in members.learned]
        return Told(symbol=asked.symbol, probability_up=float(np.mean(said)))

    uvicorn.run(http, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
