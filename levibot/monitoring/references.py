"""What a model is watched with: the look of its features in training, and their importance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import structlog

from levibot.errors import DataError
from levibot.features.inputs import LEADER
from levibot.learning.signal import SignalModel
from levibot.market.bars import FloatArray
from levibot.monitoring.importance import importance_of
from levibot.monitoring.reference import FILE, DriftReference
from levibot.stores.registry import Registry

IMPORTANCE_FILE = "importance.json"
# Rows of the end of training on which importance is measured: what the model would say today.
IMPORTANCE_ROWS = 1_000
log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class TrainingReference:
    """drift: None where the training was too short to tell what is usual. importance: share by feature."""

    drift: DriftReference | None
    importance: Mapping[str, float]

    @classmethod
    def of(cls, model: SignalModel, features: FloatArray) -> Self:
        """From the features (T, S, F) of the rows that the model was trained on."""
        rows_a_day = max(1, round(timedelta(days=1) / model.interval))
        try:
            leader = model.symbols.index(LEADER) if LEADER in model.symbols else 0
            drift = DriftReference.fit(features, model.feature_names, rows_a_day, leader)
        except DataError as exc:
            log.warning("the model has no reference for drift", reason=str(exc))
            drift = None
        rows = features[-IMPORTANCE_ROWS:].reshape(-1, features.shape[2])
        return cls(drift, importance_of(model, rows))

    def to_files(self) -> dict[str, bytes]:
        """To be published beside the models: see `publish_reference`."""
        files = {IMPORTANCE_FILE: json.dumps(self.importance, indent=2, allow_nan=False).encode()}
        return files if self.drift is None else files | {FILE: self.drift.to_bytes()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """What `to_files` gave. Raises DataError on other things."""
        drift = DriftReference.from_bytes(files[FILE]) if FILE in files else None
        try:
            stored = json.loads(files.get(IMPORTANCE_FILE, b"{}"))
            importance = {str(name): float(share) for name, share in stored.items()}
        except (ValueError, TypeError, AttributeError) as exc:
            raise DataError(f"{IMPORTANCE_FILE} holds no shares by feature: {exc}.") from exc
        return cls(drift, importance)


def publish_reference(references: Registry, version: str, reference: TrainingReference) -> None:
    """Keep the reference of a model's version; the one that it has already stays.

    It is learned when the model serves already: nobody needs it for the first answer. Raises RegistryError
    and StoreUnavailable.
    """
    # Learned again on another processor it may differ in a last digit; a version has one.
    if references.published_under(version) is None:
        references.publish({"model_version": version}, reference.to_files(), key=version)


def read_reference(references: Registry, version: str) -> TrainingReference | None:
    """The reference of a model's version, None while there is none. Raises DataError and as the registry."""
    found = references.published_under(version)
    return None if found is None else TrainingReference.from_files(references.load(found).files)
