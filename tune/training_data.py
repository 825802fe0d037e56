"""What a training job learns from: an export of the feature history, or the bars of the tick store.

An export is asked of the history's actor, which has loaded the bars already. Where no actor runs, the bars
are read and the features computed from them, by the same definitions; the model's metadata say which it was.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import ray
import structlog
from ray.exceptions import GetTimeoutError, RayError

from levibot.errors import DataError
from levibot.features.view import FeatureView
from levibot.learning.labels import label_name
from levibot.learning.past import ComputedPast, Knowledge, known_labels
from levibot.learning.signal import SignalParameters
from levibot.market.bars import Panel, to_datetime
from levibot.stores.exports import Export

# Applications know actors by name alone: jobs that learn never import them.
NAMESPACE, HISTORY = "levibot", "feature_history"
# On a start the actors come up while the job does.
ACTOR_WAIT_S = 15.0
EXPORT_TIMEOUT_S = 1800.0
HORIZONS_BARS = SignalParameters().horizons_bars
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TrainingData:
    """known: as of the close of the newest finished bar. metadata: what a model says of where it learned."""

    known: Knowledge
    metadata: Mapping[str, str]


def of_bars(panel: Panel, view: FeatureView) -> TrainingData:
    """What the bars give, of which all are finished."""
    past = ComputedPast(panel, view, HORIZONS_BARS)
    return TrainingData(past.at(to_datetime(panel.closes_at[-1])), {"training_data": "bars"})


def read_export(folder: Path, view: FeatureView, market_id: str, until: datetime) -> TrainingData:
    """The bars of an export that are finished at `until`, with their features and the labels known by then.

    Raises DataError where it is not whole, has changed, or is of another market or version of the view.
    """
    export = Export(folder)
    manifest = export.manifest
    if manifest.market_id != market_id:
        raise DataError(f"The export is of market {manifest.market_id}, not {market_id}.")
    bars = {symbol: of.closed_by(until) for symbol, of in export.bars().items()}
    if not any(len(of) for of in bars.values()):
        raise DataError(f"The export has no bars that are finished at {until.isoformat()}.")
    panel = Panel.align(bars)
    grid = export.grid(view, [label_name(bars) for bars in HORIZONS_BARS], panel.closes_at)
    # A bar whose row was not exported would be one without features, unseen by anybody.
    n_without = int((~np.isnan(panel.close) & ~grid.has_row).sum())
    if n_without:
        raise DataError(
            f"The export has {n_without} bars without features.", hint="Write one over the whole history."
        )
    labels = tuple(
        known_labels(panel, grid.labels[:, :, k], horizon_bars)
        for k, horizon_bars in enumerate(HORIZONS_BARS)
    )
    as_of = to_datetime(panel.closes_at[-1])
    known = Knowledge(view.name, view.version, view.names, as_of, panel, grid.features, labels)
    return TrainingData(known, {"training_data": "export", "export_data_hash": manifest.data_hash})


def ask_for_export(until: datetime) -> Path | None:
    """Have the feature history exported up to `until`. None where nobody can, and the log says why."""
    deadline = time.monotonic() + ACTOR_WAIT_S
    while True:
        try:
            actor = ray.get_actor(HISTORY, namespace=NAMESPACE)
            break
        except ValueError:
            if time.monotonic() >= deadline:
                log.warning("no export: the bars are read", reason="no feature history runs")
                return None
            time.sleep(0.5)
    try:
        return Path(ray.get(actor.export_until.remote(until), timeout=EXPORT_TIMEOUT_S))
    except (RayError, GetTimeoutError) as exc:
        log.warning("no export: the bars are read", reason=str(getattr(exc, "cause", None) or exc))
        return None
