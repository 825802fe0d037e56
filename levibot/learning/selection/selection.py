"""Selected features as a file: of each training window, with what they were selected from.

JSON with a checksum. A window's features were elected from what was known at its `fit_at`; whoever makes a
model at an instant takes the newest window that was closed by then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from levibot.errors import DataError
from levibot.learning.past import Knowledge
from levibot.learning.signal import SignalParameters

KIND = "feature selection"


@dataclass(frozen=True, slots=True)
class Window:
    """The features of one training window, [train_start, fit_at], aware UTC; the rest as of `Elected`.

    data_hash: of the bars until `fit_at`.
    """

    train_start: datetime
    fit_at: datetime
    data_hash: str
    features: tuple[str, ...]
    shares: Mapping[str, float]
    stability: float | None
    n_ballots: int

    def to_json(self) -> dict[str, Any]:
        return {
            "train_start": self.train_start.isoformat(),
            "fit_at": self.fit_at.isoformat(),
            "data_hash": self.data_hash,
            "features": list(self.features),
            "shares": dict(self.shares),
            "stability": self.stability,
            "n_ballots": self.n_ballots,
        }


@dataclass(frozen=True, slots=True)
class Selection:
    """The selections of the training windows of one market, oldest first. parameters: JSON values."""

    market_id: str
    view: str
    view_version: str
    seed: int
    parameters: Mapping[str, Any]
    windows: tuple[Window, ...]

    @property
    def sha256(self) -> str:
        """The checksum of the whole content."""
        return hashlib.sha256(json.dumps(self._content(), allow_nan=False).encode()).hexdigest()

    def window_at(self, as_of: datetime) -> Window:
        """The newest window that was closed at an instant. Raises DataError where none was."""
        closed = [window for window in self.windows if window.fit_at <= as_of]
        if not closed:
            raise DataError(
                f"No features were selected by {as_of.isoformat()}; the first window of the selection closes "
                f"at {self.windows[0].fit_at.isoformat()}."
            )
        return closed[-1]

    def of(self, known: Knowledge) -> Knowledge:
        """What is known, of the features that were selected by then.

        Raises DataError where it is of another version of the view, or no window was closed by then.
        """
        if (known.view, known.view_version) != (self.view, self.view_version):
            raise DataError(
                f"The selection is of view {self.view} {self.view_version}; there is {known.view} "
                f"{known.view_version}. Select again."
            )
        return known.of_features(self.window_at(known.as_of).features)

    def metadata(self, as_of: datetime) -> dict[str, Any]:
        """What a model says of the selection that it was made with at an instant; JSON values."""
        window = self.window_at(as_of)
        return {
            "sha256": self.sha256,
            "fit_at": window.fit_at.isoformat(),
            "data_hash": window.data_hash,
            "stability": window.stability,
            "n_ballots": window.n_ballots,
            **self.parameters,
        }

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises DataError where it cannot be written."""
        draft = path.with_name(f".{path.name}.draft")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(
                json.dumps({**self._content(), "sha256": self.sha256}, indent=2, allow_nan=False) + "\n"
            )
            draft.replace(path)
        except OSError as exc:
            raise DataError(f"The selection cannot be written to {path}: {exc.strerror or exc}.") from exc

    @classmethod
    def read(cls, path: Path) -> Self:
        """The selection of a file. Raises DataError where it cannot be read, or is not what was written."""
        try:
            content = json.loads(path.read_text())
            if content["kind"] != KIND:
                raise DataError(f"{path} holds {content['kind']!r}, not a {KIND}.")
            selection = cls(
                content["market_id"],
                content["view"],
                content["view_version"],
                content["seed"],
                content["parameters"],
                tuple(
                    Window(
                        **{
                            **window,
                            "train_start": datetime.fromisoformat(window["train_start"]),
                            "fit_at": datetime.fromisoformat(window["fit_at"]),
                            "features": tuple(window["features"]),
                        }
                    )
                    for window in content["windows"]
                ),
            )
        except OSError as exc:
            raise DataError(f"The selection {path} cannot be read: {exc.strerror or exc}.") from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise DataError(f"{path} is no {KIND}: {exc!r}.") from exc
        if content.get("sha256") != selection.sha256 or not selection.windows:
            raise DataError(f"The selection {path} is not what was written: its checksum differs.")
        return selection

    def _content(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "market_id": self.market_id,
            "view": self.view,
            "view_version": self.view_version,
            "seed": self.seed,
            "parameters": dict(self.parameters),
            "windows": [window.to_json() for window in self.windows],
        }


def required_features(signal: SignalParameters) -> tuple[str, ...]:
    """What the rules of the signal read by name, whoever is elected: trends, strengths, volatilities."""
    return (
        *(f"{family}_{bars}" for family in ("trend", "relative_trend") for bars in signal.lookbacks_bars),
        "vol_fast",
        "vol_slow",
    )
