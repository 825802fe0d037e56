"""The opinions over a whole history, each stretch by models that saw only what came before it.

A stretch of one kind of models is a piece of work of its own: which pieces are done beside each other, and on
which machine, changes no number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from levibot.errors import DataError
from levibot.learning.members import RULES, Opinions
from levibot.learning.models.model import Kind
from levibot.learning.past import Knowledge, Past, columns_of
from levibot.learning.selection.selection import Selection
from levibot.learning.signal import SignalParameters
from levibot.learning.training import SIGNAL, TRAINING, Fit, Progress, TrainingParameters, train, window_bars
from levibot.learning.walk_forward import Split
from levibot.market.bars import FloatArray, Panel, to_datetime64

# Two: what one does alone in the interpreter, the other does not wait for.
_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the models of every stretch are made."""

    seed: int
    signal: SignalParameters
    training: TrainingParameters
    selection: Selection | None


@dataclass(frozen=True, slots=True)
class Piece:
    """The models of one kind, made at the beginning of one stretch. The stretch has bars."""

    split: Split
    kind: Kind


# What is said of each piece's rows, in the order of the pieces.
Walk = Callable[[Past, Sequence[Piece], Recipe], Iterator[Opinions]]


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
    walk: Walk | None = None,
) -> Opinions:
    """What each member said at each row's close, (T, S, M) of the panel.

    A row whose close falls into a stretch is decided by the model that was made at the stretch's beginning.
    Each model learns from what was known at the stretch's beginning, and decides on features as they were
    known at their own closes; with a `selection`, on the features that were selected by the stretch's
    beginning. Row t depends on rows up to t alone. NaN outside the stretches and where there is no signal.
    fit: makes the models. walk: who does the pieces; this process, by `fit`, where it is left out.
    Raises DataError when too few rows can teach, and as `Selection.of`.
    """
    panel, recipe = past.panel, Recipe(seed, signal, training, selection)
    kinds = tuple(dict.fromkeys(training.kinds))
    rows = {split: rows_of(panel, split) for split in splits}
    pieces = [Piece(split, kind) for split in splits if len(rows[split]) for kind in kinds]
    if not pieces:
        raise DataError("No bar closes within the test: there is nothing to have an opinion of.")
    shape, members = panel.open.shape, (*RULES, *kinds)
    by_member = (*shape, len(members))
    said = Opinions(
        members, np.full(by_member, np.nan), np.full(shape, np.nan), np.full(by_member, np.nan), signal.sides
    )
    done = (walk or partial(walk_here, fit=fit))(past, pieces, recipe)
    for number, split in enumerate(splits, start=1):
        stretch = slice(rows[split].start, rows[split].stop)
        for _ in kinds if len(rows[split]) else ():
            part = next(done)
            for column, member in enumerate(part.members):
                to = members.index(member)
                said.values[stretch, :, to] = part.values[..., column]
                said.probability_up[stretch, :, to] = part.probability_up[..., column]
            said.unit[stretch] = part.unit
        if progress is not None:
            progress(number, len(splits), f"traded {split.test_start:%Y-%m-%d} to {split.last_day:%Y-%m-%d}")
    return said


def rows_of(panel: Panel, split: Split) -> range:
    """The rows whose closes fall into a stretch."""
    edges = (split.test_start, split.test_end)
    return range(*(int(np.searchsorted(panel.closes_at, to_datetime64(at))) for at in edges))


def walk_here(past: Past, pieces: Sequence[Piece], recipe: Recipe, *, fit: Fit = train) -> Iterator[Opinions]:
    """Every piece in this process, two at a time."""
    shared = _Shared(past, recipe, fit)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = [pool.submit(shared.opinions_of, piece) for piece in pieces]
        try:
            for piece in waiting:
                yield piece.result()
        finally:
            for piece in waiting:
                piece.cancel()


def opinions_of(past: Past, piece: Piece, recipe: Recipe) -> Opinions:
    """What the models of one piece say of its rows, rules first. Raises DataError."""
    return _Shared(past, recipe, train).opinions_of(piece)


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """What the pieces of one stretch read. features: of its rows and of the `lead` rows before them."""

    known: Knowledge
    features: FloatArray
    lead: int


class _Shared:
    """What pieces of the same stretch read, read once. State: the two stretches that were begun last."""

    def __init__(self, past: Past, recipe: Recipe, fit: Fit) -> None:
        self._past = past
        self._recipe = recipe
        self._fit = fit
        self._lock = threading.Lock()
        self._ready: dict[Split, _Ready] = {}

    def opinions_of(self, piece: Piece) -> Opinions:
        """See the function of this name."""
        recipe = self._recipe
        ready = self._of(piece.split)
        model = self._fit(
            ready.known,
            seed=recipe.seed,
            train_start=piece.split.train_start,
            signal=recipe.signal,
            training=recipe.training,
            kinds=(piece.kind,),
        )
        return model.opinions(ready.features).rows(slice(ready.lead, None))

    def _of(self, split: Split) -> _Ready:
        with self._lock:
            if split not in self._ready:
                while len(self._ready) >= _AT_ONCE:
                    del self._ready[next(iter(self._ready))]
                self._ready[split] = self._read(split)
            return self._ready[split]

    def _read(self, split: Split) -> _Ready:
        past, recipe = self._past, self._recipe
        rows = rows_of(past.panel, split)
        whole = past.at(split.fit_at)
        known = whole if recipe.selection is None else recipe.selection.of(whole)
        # As far as any kind reads, so that every kind sees the same rows as beside the others.
        first = max(0, rows.start - window_bars(recipe.signal, recipe.training) + 1)
        features = past.at_closes(slice(first, rows.stop))
        read = columns_of(features, whole.feature_names, known.feature_names)
        return _Ready(known, read, rows.start - first)
