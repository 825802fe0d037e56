"""Asks the members of a version, wherever they are, and blends what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import structlog

from levibot.errors import NotReady, RegistryError
from levibot.features.views import CORE
from levibot.learning.blending import Blending, LearnedOpinion, Signals
from levibot.learning.past import columns_of
from levibot.market.bars import FloatArray
from levibot.telemetry.metrics import DEFAULT, Metrics

KEPT_MANIFESTS = 8
# not_loaded: its process is there and is still reading the version. deadline_passed: no answer in time.
# crashed: its process ended. failed: it raised what it should not. overloaded: its queue is full.
# circuit_open: it was not asked, for it has just failed.
Reason = Literal["not_loaded", "deadline_passed", "crashed", "failed", "overloaded", "circuit_open"]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Absence:
    """Why a holder has not answered. problem: in one sentence, for the log."""

    reason: Reason
    problem: str


class Holder(Protocol):
    """A process, or some alike, that holds some kinds of members of the versions asked for last."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the members that it holds."""

    async def load(self, version: str) -> None:
        """Have a version loaded, however long it takes within the holder's patience.

        Raises RegistryError on a bad version, StoreUnavailable when its files cannot be had, NotReady when
        the holder is not there.
        """

    async def say(self, version: str, window: FloatArray) -> Mapping[str, LearnedOpinion] | Absence:
        """What its kinds say of windows (R, S, F) of the view, in time or not at all.

        Raises RegistryError on a bad version.
        """


class MemberPanel:
    """One question to all holders of members at once. State: the manifests that were read last.

    manifest: reads a version's; it blocks.
    """

    def __init__(
        self,
        holders: Iterable[Holder],
        manifest: Callable[[str], Mapping[str, Any]],
        metrics: Metrics = DEFAULT,
    ) -> None:
        self._holders = tuple(holders)
        self._manifest = manifest
        self._metrics = metrics
        self._blendings: dict[str, Blending] = {}

    async def load(self, version: str) -> None:
        """Have every holder load a version, all at once; one that is not there is not waited for for ever.

        Raises NotReady when none has it, and what one says of the version: RegistryError, StoreUnavailable.
        """
        blending = await self._blending(version)
        problems = await asyncio.gather(*(self._load(holder, version) for holder in self._of(blending)))
        if problems and all(problems):
            raise NotReady(f"No learned member has loaded {version}. {problems[0]}", hint="Try again.")

    async def signals(self, version: str, window: FloatArray) -> Signals:
        """The signals of a window (R, S, F) of the view. A holder that does not answer is left out of them.

        The opinions of its kinds are NaN then, and the signals say why. Raises NotReady when no learned
        member answers, RegistryError on a bad version.
        """
        blending = await self._blending(version)
        holders = self._of(blending)
        answers = await asyncio.gather(*(holder.say(version, window) for holder in holders))
        said: dict[str, LearnedOpinion] = {}
        absent: dict[str, Absence] = {}
        for holder, answer in zip(holders, answers, strict=True):
            if isinstance(answer, Absence):
                absent |= {kind: answer for kind in holder.kinds if kind in blending.kinds}
            else:
                said |= answer
        for kind, absence in absent.items():
            self._metrics.member_absent.labels(kind, absence.reason).inc()
            log.warning("a member is absent", member=kind, reason=absence.reason, problem=absence.problem)
        if not said:
            why = " ".join(dict.fromkeys(absence.problem for absence in absent.values()))
            raise NotReady(f"No learned member of {version} answers. {why}".strip(), hint="Try again.")
        reasons = {kind: absence.reason for kind, absence in absent.items()}
        return blending.signals(columns_of(window, CORE.names, blending.feature_names), said, reasons)

    def _of(self, blending: Blending) -> list[Holder]:
        return [holder for holder in self._holders if not set(holder.kinds).isdisjoint(blending.kinds)]

    async def _load(self, holder: Holder, version: str) -> str:
        try:
            await holder.load(version)
        except NotReady as exc:
            log.warning(
                "a holder has not loaded a version", kinds=holder.kinds, version=version, reason=str(exc)
            )
            return exc.message
        return ""

    async def _blending(self, version: str) -> Blending:
        if version not in self._blendings:
            blending = Blending.from_metadata(await asyncio.to_thread(self._manifest, version))
            self._check_held(version, blending.kinds)
            kept = [*self._blendings.items(), (version, blending)][-KEPT_MANIFESTS:]
            self._blendings = dict(kept)
        return self._blendings[version]

    def _check_held(self, version: str, kinds: Sequence[str]) -> None:
        held = {kind for holder in self._holders for kind in holder.kinds}
        strange = [kind for kind in kinds if kind not in held]
        if strange:
            raise RegistryError(
                f"Version {version} has a member of kind {strange[0]}; served are {', '.join(sorted(held))}."
            )
