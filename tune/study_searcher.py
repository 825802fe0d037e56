"""Hands Ray Tune the trials of a study.

`OptunaSearch` cannot: it drops what two objectives report on the way, and calls a stopped trial complete.
"""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

from tune.study import Study


class StudySearcher(Searcher):  # type: ignore[misc]
    """What is to be judged next. It has no state: the study has it all."""

    def __init__(self, study: Study, at_once: int, seed: int) -> None:
        super().__init__()
        self._study = study
        self._at_once = at_once
        self._seed = seed

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # noqa: ARG002
        if self._study.is_full:
            return str(Searcher.FINISHED)
        found = self._study.next(self._at_once, self._seed)
        if found is None:
            return None
        return {"number": found.number, "values": dict(found.values), "shares_fit": found.shares_fit}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The scheduler has told the study already, with what Tune does not hand on to here."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
