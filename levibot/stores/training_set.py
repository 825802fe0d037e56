"""A training set: features and the label of each row, as both were known at one instant."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from levibot.market.bars import FloatArray, TimeArray
from levibot.stores.history_rows import Known, Series
from levibot.stores.segments import MicrosArray

READERS = 2


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """N rows of some symbols, ordered by symbol and then by time.

    symbol: (N,) index into `symbols`. event_ts: (N,) datetime64[us] UTC.
    features: (N, K), a column after the other in memory, NaN where missing. label: (N,), never NaN.
    as_of: what was not available by then is not in.
    """

    view: str
    view_version: str
    label_name: str
    as_of: datetime
    symbols: tuple[str, ...]
    names: tuple[str, ...]
    symbol: npt.NDArray[np.int32]
    event_ts: TimeArray
    features: FloatArray
    label: FloatArray

    def __len__(self) -> int:
        return len(self.label)

    def table(self) -> pa.Table:
        """As an Arrow table: symbol, event_ts, label and the features. The numbers are not copied."""
        symbol = pa.DictionaryArray.from_arrays(pa.array(self.symbol), pa.array(self.symbols, pa.string()))
        columns = {"symbol": symbol, "event_ts": pa.array(self.event_ts), "label": pa.array(self.label)}
        for k, name in enumerate(self.names):
            columns[name] = pa.array(self.features[:, k])
        return pa.table(columns)

    def data_hash(self) -> str:
        """SHA-256 of all that a model can learn from: symbols, names, instants, features, labels."""
        digest = hashlib.sha256(repr((self.symbols, self.names, self.label_name)).encode())
        for part in (self.symbol, self.event_ts, self.label, *self.features.T):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def assemble(
    view: Series,
    label_name: str,
    names: Sequence[str] | None,
    features: Mapping[str, Known],
    labels: Mapping[str, Known],
    *,
    as_of: datetime,
    max_age: timedelta,
) -> TrainingSet:
    """To each label the newest feature row at or before it, at most `max_age` old; labels without one go.

    Where both stand on one grid this is a copy of whole columns, with no search.
    """
    columns = view.indices(names)
    age_us = max_age // timedelta(microseconds=1)
    symbols = tuple(symbol for symbol in labels if symbol in features)
    matched = {s: _match(labels[s].event_us, features[s].event_us, age_us) for s in symbols}
    total = sum(len(chosen) for _, chosen in matched.values())
    out = np.empty((len(columns), total))
    label = np.empty(total)
    event_us = np.empty(total, dtype=np.int64)
    symbol = np.empty(total, dtype=np.int32)
    ends = np.cumsum([len(chosen) for _, chosen in matched.values()]).tolist()

    def fill(number: int) -> None:
        name = symbols[number]
        of_label, chosen = matched[name]
        to = slice(ends[number] - len(chosen), ends[number])
        features[name].fill(chosen, columns, out[:, to])
        label[to] = labels[name].values([0])[of_label, 0]
        event_us[to] = labels[name].event_us[of_label]
        symbol[to] = number

    # Reading leaves the interpreter free.
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(fill, range(len(symbols))))
    return TrainingSet(
        view=view.name,
        view_version=view.version,
        label_name=label_name,
        as_of=as_of,
        symbols=symbols,
        names=tuple(view.columns[k] for k in columns),
        symbol=symbol,
        event_ts=event_us.astype("datetime64[us]"),
        features=out.T,
        label=label,
    )


def _match(
    label_us: MicrosArray, feature_us: MicrosArray, age_us: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pairs of rows: of the labels, and of the features that each of them gets."""
    if np.array_equal(label_us, feature_us):
        both = np.arange(len(label_us))
        return both, both
    chosen = np.searchsorted(feature_us, label_us, side="right") - 1
    of_label = np.flatnonzero(chosen >= 0)
    of_label = of_label[label_us[of_label] - feature_us[chosen[of_label]] <= age_us]
    return of_label, chosen[of_label]
