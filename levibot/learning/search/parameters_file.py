"""The parameters that a search found, as a file that says where they were found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from levibot.errors import DataError
from levibot.learning.search.pareto import Score
from levibot.learning.search.space import Candidate
from levibot.stores.segments import write_whole

_FORMAT = "levibot parameters 1"


@dataclass(frozen=True, slots=True)
class FoundParameters:
    """study, trial: where they come from. score: on all folds. found_on: what says on which data, JSON."""

    candidate: Candidate
    study: str
    trial: int
    score: Score
    found_on: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Whole or not at all, with a checksum of its content."""
        content = {
            "format": _FORMAT,
            "study": self.study,
            "trial": self.trial,
            "score": self.score.to_json(),
            "found_on": dict(self.found_on),
            "parameters": self.candidate.to_json(),
        }
        text = json.dumps(content | {"sha256": _checksum(content)}, indent=2, allow_nan=False)
        write_whole(path, (text + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises DataError on a file that is none, was changed, or names other parameters than ours."""
        try:
            content = json.loads(path.read_bytes())
            said = content.pop("sha256")
            if content["format"] != _FORMAT:
                raise DataError(f"{path} is of the format {content['format']!r}, not {_FORMAT!r}.")
            if said != _checksum(content):
                raise DataError(f"{path} was changed after it was written: its checksum does not hold.")
            return cls(
                Candidate.from_json(content["parameters"]),
                content["study"],
                content["trial"],
                Score.from_json(content["score"]),
                content["found_on"],
            )
        except OSError as exc:
            raise DataError(f"The parameters {path} cannot be read: {exc.strerror}.") from exc
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise DataError(f"{path} holds no parameters of a search: {exc!r}.") from exc

    def metadata(self) -> dict[str, Any]:
        """What a model that is trained with them says of them."""
        return {"study": self.study, "study_trial": self.trial, "study_found_on": dict(self.found_on)}


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
