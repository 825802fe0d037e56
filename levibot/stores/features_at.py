"""The newest features of some symbols, as they were known at one instant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

import numpy as np

from levibot.market.bars import FloatArray, TimeArray
from levibot.stores.history_rows import Known, Series


@dataclass(frozen=True, slots=True)
class FeaturesAt:
    """Of each symbol the newest feature row that was known at `as_of`.

    event_ts, available_ts: (S,) datetime64[us] UTC, NaT where nothing was known. values: (S, K), NaN there.
    """

    as_of: datetime
    symbols: tuple[str, ...]
    names: tuple[str, ...]
    event_ts: TimeArray
    available_ts: TimeArray
    values: FloatArray

    @classmethod
    def of(
        cls, series: Series, names: Sequence[str] | None, known: Mapping[str, Known], as_of: datetime
    ) -> Self:
        """From what was known of each symbol. names: of features; all by default. Raises UsageError."""
        columns = series.indices(names)
        event_us = np.full(len(known), np.iinfo(np.int64).min)
        available_us = event_us.copy()
        values = np.full((len(known), len(columns)), np.nan)
        for k, of in enumerate(known.values()):
            if len(of):
                event_us[k], available_us[k] = of.event_us[-1], of.available_us[-1]
                newest = np.empty((len(columns), 1))
                of.fill(np.array([len(of) - 1]), columns, newest)
                values[k] = newest[:, 0]
        return cls(
            as_of=as_of,
            symbols=tuple(known),
            names=tuple(series.columns[k] for k in columns),
            # The smallest integer is NaT.
            event_ts=event_us.astype("datetime64[us]"),
            available_ts=available_us.astype("datetime64[us]"),
            values=values,
        )
