"""The opinions over a whole history, each stretch by a model that saw only what came before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from levibot.errors import DataError
from levibot.learning.members import Opinions
from levibot.learning.past import Past, columns_of
from levibot.learning.selection.selection import Selection
from levibot.learning.signal import SignalParameters
from levibot.learning.training import SIGNAL, TRAINING, Fit, Progress, TrainingParameters, train
from levibot.learning.walk_forward import Split
from levibot.market.bars import to_datetime64


def walk_forward_opinions(
    past: Past,
    splits: Sequence[Split],
    *,
    seed: int,
    signal: SignalParameters = SIGNAL,
    training: TrainingParameters = TRAINING,
    selection: Selection | None = None,
    fit: Fit = train,
    progress: Progress | None = None,
) -> Opinions:
    """What each member said at each row's close, (T, S, M) of the panel.

    A row whose close falls into a stretch is decided by the model that was made at the stretch's beginning.
    Each model learns from what was known at the stretch's beginning, and decides on features as they were
    known at their own closes; with a `selection`, on the features that were selected by the stretch's
    beginning. Row t depends on rows up to t alone. NaN outside the stretches and where there is no signal.
    Raises DataError when too few rows can teach, and as `Selection.of`.
    """
    panel = past.panel
    said: Opinions | None = None
    for number, split in enumerate(splits, start=1):
        begin, end = (
            int(np.searchsorted(panel.closes_at, to_datetime64(at)))
            for at in (split.test_start, split.test_end)
        )
        if begin < end:
            known = past.at(split.fit_at)
            model = fit(
                known if selection is None else selection.of(known),
                seed=seed,
                train_start=split.train_start,
                signal=signal,
                training=training,
            )
            lead = max(0, begin - model.window_bars + 1)
            features = columns_of(past.at_closes(slice(lead, end)), known.feature_names, model.feature_names)
            stretch = model.opinions(features)
            if said is None:
                shape = panel.open.shape
                unsaid = np.full((*shape, len(stretch.members)), np.nan)
                said = Opinions(stretch.members, unsaid, np.full(shape, np.nan))
            said.values[begin:end] = stretch.values[begin - lead :]
            said.unit[begin:end] = stretch.unit[begin - lead :]
        if progress is not None:
            progress(number, len(splits), f"traded {split.test_start:%Y-%m-%d} to {split.last_day:%Y-%m-%d}")
    if said is None:
        raise DataError("No bar closes within the test: there is nothing to have an opinion of.")
    return said
