"""The models that a search has fitted, for all candidates that differ only in what becomes of a prediction.

Fitting is nearly all that a candidate costs. One that trains as another did, on the same rows, gets the
other's models: from memory where this process has them, else from a folder that all its workers see.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path

import structlog

from levibot.errors import RegistryError
from levibot.learning.learned import Learned
from levibot.learning.models.model import Kind
from levibot.learning.models.sequence import Samples
from levibot.learning.past import Knowledge
from levibot.learning.signal import SignalModel, SignalParameters
from levibot.learning.training import TrainingParameters, hash_panel, train
from levibot.market.bars import FloatArray

# In memory, of one process: two candidates of at most so many folds together.
_MOST_HELD = 32
_METADATA, _SUFFIX = "metadata.json", ".model"
_DIGEST_BYTES = 32
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Remembering(Learned):
    """A member that predicts the same points once: the stretch that it is judged on, again and again."""

    said: dict[bytes, FloatArray] = field(default_factory=dict, repr=False, compare=False)

    def predict(self, samples: Samples) -> FloatArray:
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for array in (samples.features, samples.row, samples.column):
            digest.update(repr(array.shape).encode())
            digest.update(array.tobytes())
        points = digest.digest()
        if points not in self.said:
            predicted = Learned.predict(self, samples)
            predicted.flags.writeable = False
            self.said.clear()
            self.said[points] = predicted
        return self.said[points]


@dataclass(frozen=True, slots=True)
class KeptModels:
    """One folder of models, each a file with its own checksum. It goes to the workers as a path.

    A file that is torn, or of another format, is made anew. What is kept is what `train` gives: the same
    numbers to the bit.
    """

    folder: Path
    _held: OrderedDict[str, SignalModel] = field(default_factory=OrderedDict, repr=False, compare=False)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.folder,)

    def fit(
        self,
        known: Knowledge,
        *,
        seed: int,
        train_start: datetime,
        signal: SignalParameters,
        training: TrainingParameters,
        kinds: Sequence[Kind] | None = None,
    ) -> SignalModel:
        """What `train` gives, which is called once for all signals over the same horizons.

        Raises as `train`, and OSError where the folder cannot be written to.
        """
        key = _key(known, seed, train_start, signal, training, kinds)
        model = self._held.pop(key, None) or self._read(key)
        if model is None:
            model = train(
                known,
                seed=seed,
                train_start=train_start,
                signal=signal,
                training=training,
                kinds=kinds,
            )
            self._write(key, model)
        if not isinstance(model.learned[0], _Remembering):
            model = replace(model, learned=tuple(_remembering(member) for member in model.learned))
        self._held[key] = model
        while len(self._held) > _MOST_HELD:
            self._held.popitem(last=False)
        return replace(model, parameters=signal)

    def _read(self, key: str) -> SignalModel | None:
        path = self.folder / f"{key}{_SUFFIX}"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if content[:_DIGEST_BYTES] != hashlib.sha256(content[_DIGEST_BYTES:]).digest():
            log.warning("a kept model is torn and is fitted again", file=str(path))
            return None
        with zipfile.ZipFile(io.BytesIO(content[_DIGEST_BYTES:])) as packed:
            files = {name: packed.read(name) for name in packed.namelist()}
        try:
            return SignalModel.from_files(json.loads(files.pop(_METADATA)), files)
        except RegistryError as exc:
            log.warning("a kept model cannot be read and is fitted again", file=str(path), reason=str(exc))
            return None

    def _write(self, key: str, model: SignalModel) -> None:
        """Whole or not at all. Not synced: what a power cut tears is fitted again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            file.writestr(_METADATA, json.dumps(model.metadata(), allow_nan=False))
            for name, data in model.to_files().items():
                file.writestr(name, data)
        content = packed.getvalue()
        # Two workers may fit the same model at once; each writes a draft of its own.
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".draft-", delete=False) as draft:
            draft.write(hashlib.sha256(content).digest() + content)
        Path(draft.name).replace(self.folder / f"{key}{_SUFFIX}")


def _remembering(member: Learned) -> _Remembering:
    return _Remembering(**{own.name: getattr(member, own.name) for own in fields(Learned)})


def _key(
    known: Knowledge,
    seed: int,
    train_start: datetime,
    signal: SignalParameters,
    training: TrainingParameters,
    kinds: Sequence[Kind] | None,
) -> str:
    """Names everything that `train` reads; of the signal that is its horizons alone."""
    said = {
        "bars": hash_panel(known.panel),
        "as_of": known.as_of.isoformat(),
        "view": [known.view, known.view_version, list(known.feature_names)],
        "train_start": train_start.isoformat(),
        "seed": seed,
        "horizons_bars": list(signal.horizons_bars),
        "training": training.to_json(),
        "kinds": list(training.kinds if kinds is None else kinds),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, allow_nan=False).encode()).hexdigest()[:32]
