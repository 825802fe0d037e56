"""Which of the served feature vectors the event log keeps, for the comparison with history."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime

from levibot.features.served import ServedVector
from levibot.features.view import FeatureView
from levibot.stores.online import FeatureReading


class ServedSampler:
    """Of each cross-section that a model was asked about: one vector, and of the others a share.

    So each bar is compared with history, and where there are many symbols the log does not fill with vectors.
    share: in [0, 1]; at 0 nothing is kept, not even the one.
    """

    def __init__(self, market_id: str, view: FeatureView, share: float, random_source: random.Random) -> None:
        self._market_id = market_id
        self._view = view
        self._share = share
        self._random = random_source

    def choose(self, readings: Sequence[FeatureReading], served_at: datetime) -> list[ServedVector]:
        """The vectors to keep of `readings`, which were served together."""
        if self._share == 0.0 or not readings:
            return []
        always = self._random.randrange(len(readings))
        return [
            ServedVector(
                symbol=reading.symbol,
                market_id=self._market_id,
                view=self._view.name,
                view_version=self._view.version,
                event_time=reading.event_time,
                served_at=served_at,
                values=dict(reading.values),
            )
            for place, reading in enumerate(readings)
            if reading.event_time is not None and (place == always or self._random.random() < self._share)
        ]
