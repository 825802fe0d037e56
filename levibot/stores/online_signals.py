"""The signals of the online store: those that serve, and those of the canary beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

from levibot.clock import Clock
from levibot.errors import DataError, StoreError
from levibot.stores.feature_hash import instant_text
from levibot.stores.redis import ask
from levibot.stores.scripts import WRITE_SIGNALS
from levibot.stores.signal_stream import SIGNALS, STREAM_LENGTH, STREAM_TTL_MS
from levibot.stores.signals import Signal, check_signal

CANARY = "signals:canary"


@dataclass(frozen=True, slots=True)
class CanaryShare:
    """Which version is the canary, and for which share of the callers, 0 to 1."""

    version: str
    share: float


class Arms:
    """What one read found of some symbols: the signals that serve, and the canary's.

    champion: by symbol, None where there is none. Of the canary nothing is read before somebody asks: most
    callers are not in its arm.
    """

    def __init__(
        self,
        champion: Mapping[str, Signal | None],
        store: OnlineSignals,
        state: bytes | None,
        texts: Mapping[str, bytes | None],
    ) -> None:
        self.champion = champion
        self._store = store
        self._state = state
        self._texts = texts

    @property
    def canary(self) -> CanaryShare | None:
        """The canary of this market and view, if one is served. Raises StoreError as `canary_signal`."""
        return None if self._state is None else self._store.canary_of(self._state)

    def canary_signal(self, symbol: str) -> Signal | None:
        """The canary's newest signal. Raises StoreError naming the key when it holds none."""
        return self._store.signal_of(_canary_key(symbol), self._texts[symbol])


class OnlineSignals:
    """The online signals of one market and one view, for one event loop."""

    def __init__(
        self, client: Redis, market_id: str, view_version: str, *, clock: Clock, interval: timedelta
    ) -> None:
        self.market_id = market_id
        self.view_version = view_version
        self._client = client
        self._clock = clock
        self._interval = interval
        self._write_signals = client.register_script(WRITE_SIGNALS)

    async def write_signals(self, signals: Sequence[Signal], ttl_s: float) -> tuple[str, ...]:
        """Write signals, all or nothing, in one round trip; returns the symbols written.

        A symbol is left out when the store already holds a newer signal of this market and view.
        Raises DataError on a signal of another market or view, or with a number out of its limits.
        """
        if not signals:
            return ()
        newest = instant_text(self._clock.now() + self._interval)
        arguments: list[str | int] = [round(ttl_s * 1000), newest, STREAM_LENGTH, STREAM_TTL_MS]
        for signal in signals:
            check_signal(signal, self.market_id, self.view_version)
            arguments.append(signal.to_json())
        keys = [*(_signal_key(s.symbol) for s in signals), SIGNALS]
        written = await ask("write signals", self._write_signals(keys, arguments))
        return tuple(s.symbol for s, done in zip(signals, written, strict=True) if done)

    async def renew_signals(self, signals: Sequence[Signal], ttl_s: float) -> None:
        """Give signals that were written before another life of `ttl_s`; one that is gone is written again.

        In one round trip as long as all are there. Raises as `write_signals`.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            for signal in signals:
                pipe.pexpire(_signal_key(signal.symbol), round(ttl_s * 1000))
            are_there = await ask("renew signals", pipe.execute())
        gone = [signal for signal, is_there in zip(signals, are_there, strict=True) if not is_there]
        await self.write_signals(gone, ttl_s)

    async def read_signal(self, symbol: str) -> Signal | None:
        """The newest signal of this market and view, None when there is none.

        Its age is `signal.age_s(clock.now())`. Raises StoreError naming the key when it holds no signal.
        """
        key = _signal_key(symbol)
        text: Any = await ask("read signal", self._client.get(key))
        return self.signal_of(key, text)

    async def read_arms(self, symbols: Sequence[str]) -> Arms:
        """As `read_signal`, of many symbols and with the canary's signals, in one round trip."""
        if not symbols:
            return Arms({}, self, None, {})
        keys = [_signal_key(symbol) for symbol in symbols]
        stored: list[Any] = await ask(
            "read signals", self._client.mget([*keys, *map(_canary_key, symbols), CANARY])
        )
        n = len(symbols)
        champion = {s: self.signal_of(*one) for s, *one in zip(symbols, keys, stored[:n], strict=True)}
        return Arms(champion, self, stored[-1], dict(zip(symbols, stored[n:-1], strict=True)))

    async def write_canary(self, canary: CanaryShare, signals: Sequence[Signal], ttl_s: float) -> None:
        """Have those in the canary's arm answered with these signals for `ttl_s`, all or nothing.

        Raises DataError as `write_signals`, and on a signal of another version.
        """
        ttl_ms = round(ttl_s * 1000)
        state = {
            "version": canary.version,
            "share": canary.share,
            "market_id": self.market_id,
            "view_version": self.view_version,
        }
        for signal in signals:
            check_signal(signal, self.market_id, self.view_version)
            if signal.model_version != canary.version:
                raise DataError(
                    f"The signal of {signal.symbol} is of {signal.model_version}; the canary is "
                    f"{canary.version}."
                )
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.set(CANARY, json.dumps(state, allow_nan=False), px=ttl_ms)
            for signal in signals:
                pipe.set(_canary_key(signal.symbol), signal.to_json(), px=ttl_ms)
            await ask("write the canary's signals", pipe.execute())

    async def renew_canary(self, canary: CanaryShare, signals: Sequence[Signal], ttl_s: float) -> None:
        """Give what was written another life of `ttl_s`; where something is gone all is written again."""
        keys = [CANARY, *(_canary_key(signal.symbol) for signal in signals)]
        async with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.pexpire(key, round(ttl_s * 1000))
            are_there = await ask("renew the canary's signals", pipe.execute())
        if not all(are_there):
            await self.write_canary(canary, signals, ttl_s)

    async def end_canary(self) -> None:
        """Have everybody answered with the signals that serve, from the next read on."""
        await ask("end the canary", self._client.delete(CANARY))

    def canary_of(self, text: bytes) -> CanaryShare | None:
        """What the key of the canary says; None where it is of another market or view."""
        try:
            values = json.loads(text)
            if (values["market_id"], values["view_version"]) != (self.market_id, self.view_version):
                return None
            return CanaryShare(str(values["version"]), float(values["share"]))
        except (ValueError, TypeError, KeyError) as exc:
            raise StoreError(f"{CANARY} does not name a canary: {exc!r}.", hint="Delete the key.") from exc

    def signal_of(self, key: str, text: bytes | None) -> Signal | None:
        """The signal that a key holds, None where there is none of this market and view."""
        if text is None:
            return None
        try:
            signal = Signal.from_json(text)
            is_of_another_run = signal.as_of > self._clock.now() + self._interval
        except (ValueError, TypeError, KeyError) as exc:
            raise StoreError(f"{key} does not hold a signal: {exc}.", hint="Delete the key.") from exc
        if (signal.market_id, signal.view_version) != (self.market_id, self.view_version):
            return None
        return None if is_of_another_run else signal


def _signal_key(symbol: str) -> str:
    return f"{symbol}:signal"


def _canary_key(symbol: str) -> str:
    return f"{symbol}:signal:canary"
