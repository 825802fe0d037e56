"""The weights of the ensemble, as the face shows them: what is held, what came before, what was earned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from levibot.errors import NotReady, RegistryError, StoreError, StoreUnavailable
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_durable, open_ticks
from levibot.stores.live_weights import HeldWeights, LiveWeights
from levibot.stores.shadow import Earned
from levibot.stores.ticks import TickStore
from levibot.stores.weight_history import Known


@dataclass(frozen=True, slots=True)
class EnsembleState:
    """What is known at `market_time`.

    held: the weights for the next decision. read_from: redis or memory. history: of the days before, newest
    first. earned: of every shadow account, by regime. problem: empty, or why some of it is not of now.
    """

    held: HeldWeights
    read_from: str
    history: Sequence[HeldWeights]
    earned: Sequence[Earned]
    market_time: datetime
    problem: str


@dataclass(frozen=True, slots=True)
class _Told:
    """What PostgreSQL answered last."""

    history: Sequence[Known]
    earned: Sequence[Earned]


class Ensemble:
    """Reads Redis for the weights and PostgreSQL for the rest. State: what each answered last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = settings.clock()
        self._weights = LiveWeights(open_durable(settings))
        self._ticks: TickStore | None = None
        self._last: tuple[HeldWeights, ...] = ()
        self._told = _Told((), ())
        timeout_s = settings.store_timeout_s
        self._redis = Guard(
            "api:ensemble weights",
            timeout_s=timeout_s,
            attempts=1,
            reset_s=1.0,
            transient=(StoreUnavailable,),
        )
        self._postgres = Guard(
            "api:shadow accounts",
            timeout_s=2.0 * timeout_s,
            attempts=1,
            reset_s=1.0,
            transient=(StoreUnavailable,),
        )

    async def weights(self, history_days: int) -> EnsembleState:
        """The weights, and of the newest `history_days` days how they moved.

        Raises NotReady where there are none, neither now nor from before.
        """
        problems: list[str] = []
        read_from = "redis"
        try:
            self._last = await self._redis.call(self._weights.read, self._settings.market_id)
        except (StoreError, RegistryError) as exc:
            read_from = "memory"
            problems.append(str(exc))
        if not self._last:
            raise NotReady(
                problems[0] if problems else "There are no weights of this market yet.",
                hint="They are there soon after a model is active; see /readyz.",
            )
        try:
            self._told = await self._postgres.call(self._read, history_days)
        except (StoreError, RegistryError, NotReady) as exc:
            problems.append(str(exc))
        return EnsembleState(
            held=self._last[0],
            read_from=read_from,
            history=[known.held for known in self._told.history[:history_days]],
            earned=self._told.earned,
            market_time=self._clock.now(),
            problem=" ".join(problems),
        )

    async def close(self) -> None:
        await self._weights.close()
        if self._ticks is not None:
            await self._ticks.close()

    async def _read(self, history_days: int) -> _Told:
        if self._ticks is None:
            self._ticks = await open_ticks(self._settings)
        market_id = self._settings.market_id
        history = await self._ticks.weights.newest(market_id, history_days) if history_days else []
        return _Told(history, await self._ticks.shadow.earned(market_id))


def earned_by(earned: Sequence[Earned]) -> Mapping[str, Mapping[str, Earned]]:
    """By account, then by regime."""
    found: dict[str, dict[str, Earned]] = {}
    for one in earned:
        found.setdefault(one.account, {})[one.regime] = one
    return found
