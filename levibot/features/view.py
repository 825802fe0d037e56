"""An ordered set of features, with the version of its definitions."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from levibot.errors import UsageError
from levibot.features.feature import Feature
from levibot.features.inputs import FILL_LIMIT
from levibot.features.on_demand import OnDemandFeature
from levibot.market.bars import FIELDS

# Every feature runs through these files, so their text is part of every definition.
SHARED_FILES = ("kernels.py", "compiled.py", "rolling.py", "inputs.py", "engine.py")


@dataclass(frozen=True)
class FeatureView:
    """An ordered set of features that models are trained on and served with.

    on_demand: features that need a request (see `on_demand`); they have no place in a computed array.
    """

    name: str
    features: tuple[Feature, ...] = field(repr=False)
    on_demand: tuple[OnDemandFeature, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self.features:
            raise UsageError(f"View {self.name!r} has no features.")
        counts = Counter((*self.names, *(feature.name for feature in self.on_demand)))
        twice = {name for name, count in counts.items() if count > 1}
        if twice:
            raise UsageError(f"View {self.name!r} has two features named {min(twice)!r}.")

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @cached_property
    def warmup_bars(self) -> int:
        """Rows that give the newest row of every feature exactly, holes included."""
        return max(feature.warmup_bars for feature in (*self.features, *self.on_demand)) + FILL_LIMIT

    @cached_property
    def side_series(self) -> tuple[str, ...]:
        """Names of the side series that its features read, in the order of their first use."""
        read = (name for feature in self.features for name in feature.inputs)
        return tuple(dict.fromkeys(name for name in read if name not in (*FIELDS, "ts")))

    @cached_property
    def version(self) -> str:
        """12 hex digits that change with every definition of the view; the same in every process."""
        digest = hashlib.sha256(self.name.encode())
        for file in SHARED_FILES:
            digest.update(Path(__file__).with_name(file).read_text(encoding="utf-8").encode())
        for feature in (*self.features, *self.on_demand):
            digest.update(feature.definition.encode())
        return digest.hexdigest()[:12]

    def index(self, name: str) -> int:
        """Position of a feature on the last axis of a computed array. Raises UsageError if unknown."""
        if name not in self.names:
            raise UsageError(
                f"View {self.name!r} has no feature {name!r}.", hint=f"It has: {', '.join(self.names)}."
            )
        return self.names.index(name)
