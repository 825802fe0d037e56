"""Has a policy decide on every new close, in shadow: with an account of its own, and never for the signal."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np

from levibot.errors import DataError, RegistryConflict
from levibot.market.bars import Bars, FloatArray, to_datetime
from levibot.serving.policy import Policy
from levibot.stores.policy_ledger import PolicyRecord
from levibot.stores.reading import FeatureReading
from levibot.stores.ticks import TickStore
from levibot.trading.own_account import OWN, OwnAccount


@dataclass(frozen=True, slots=True)
class _Standing:
    """An account at the close of its newest decision."""

    record: PolicyRecord
    account: OwnAccount


class PolicyDesk:
    """One version on one market. State: the accounts, which are made again from the ledger and the bars.

    Whoever decides a close first has decided it; the account follows what stands, whoever wrote it, also
    where this desk has missed it. Bars between two decisions, as after an absence, are held through without
    an order.
    Accounts pay no funding yet, as the other shadow accounts. Raises RegistryConflict on a policy that was
    trained with market impact, which no live account is charged.
    """

    def __init__(self, policy: Policy, market_id: str, interval: timedelta) -> None:
        if policy.played_by.costs.impact_bps > 0.0:
            raise RegistryConflict(
                f"Policy {policy.version} was trained with an impact of "
                f"{policy.played_by.costs.impact_bps:g} bps, which no live account is charged yet.",
                hint="Export one that was trained without.",
            )
        self.policy = policy
        self._market_id = market_id
        self._interval = interval
        self._standing: dict[str, _Standing] = {}

    @property
    def newest(self) -> Mapping[str, PolicyRecord]:
        """The newest decision of each symbol that has one."""
        return {symbol: standing.record for symbol, standing in self._standing.items()}

    async def turn(
        self, ticks: TickStore, readings: Mapping[str, FeatureReading]
    ) -> tuple[list[PolicyRecord], dict[str, str]]:
        """Decide what has a new close; returns the new records that stand, and why symbols wait.

        A symbol waits while it has no features, or while its bar is not stored yet. Where another desk has
        decided at the same time, the next turn follows it. Raises what the store raises; then nothing was
        decided, and the same turn again is safe.
        """
        wanted: dict[str, _Standing] = {}
        waiting: dict[str, str] = {}
        for symbol in self.policy.symbols:
            reading = readings.get(symbol) or FeatureReading.missing(symbol)
            as_of = reading.event_time
            if reading.rows is None or as_of is None:
                waiting[symbol] = f"{symbol} has no features online."
                continue
            before = self._standing.get(symbol)
            if before is not None and as_of <= before.record.as_of:
                continue
            before = await self._caught_up(ticks, symbol, before)
            if before is not None:
                self._standing[symbol] = before
                if as_of <= before.record.as_of:
                    continue
            account = await self._account_at(ticks, symbol, as_of, before)
            if account is None:
                waiting[symbol] = f"The bar of {symbol} that closed at {as_of.isoformat()} is not stored yet."
                continue
            follows = None if before is None else before.record.as_of
            wanted[symbol] = _Standing(self._decided(symbol, as_of, follows, reading, account), account)
        records = await ticks.policies.decide(self._market_id, [one.record for one in wanted.values()])
        for record in records:
            self._standing[record.symbol] = _Standing(record, wanted[record.symbol].account)
        return records, waiting

    def _decided(
        self,
        symbol: str,
        as_of: datetime,
        follows: datetime | None,
        reading: FeatureReading,
        account: OwnAccount,
    ) -> PolicyRecord:
        assert reading.rows is not None
        features = {name: float(reading.rows[-1, at]) for name, at in reading.columns.items()}
        observation = self.policy.observation(features, account)
        choice = self.policy.decide(observation)
        names = (*self.policy.feature_names, *OWN)
        return PolicyRecord(
            symbol=symbol,
            as_of=as_of,
            follows=follows,
            policy_version=self.policy.version,
            view_version=self.policy.view_version,
            position=choice.position,
            action=float(choice.action),
            probabilities=choice.probabilities,
            features=dict(zip(names, _or_none(observation), strict=True)),
            equity=account.equity,
        )

    async def _account_at(
        self, ticks: TickStore, symbol: str, as_of: datetime, before: _Standing | None
    ) -> OwnAccount | None:
        """The account at a later close; None while the bar that closes there is not stored."""
        start = as_of - self._interval if before is None else before.record.as_of
        stored = await ticks.read_bars(self._market_id, symbol, self._interval, start)
        bars = stored.closed_by(as_of)
        if not len(bars) or to_datetime(bars.ts[-1]) + self._interval != as_of:
            return None
        if before is None:
            return self.policy.played_by.account(float(bars.close[-1]))
        # A copy: where the decision cannot be written, the bars come again.
        account = copy.deepcopy(before.account)
        _carry(account, before.record.position, bars)
        return account

    async def _caught_up(self, ticks: TickStore, symbol: str, before: _Standing | None) -> _Standing | None:
        """The account at the newest decision in the ledger; None where nothing was decided.

        Those that this desk has not seen, all of them where it begins, are played again on the bars.
        """
        after = None if before is None else before.record.as_of
        unseen = await ticks.policies.history(self._market_id, self.policy.version, symbol, after=after)
        if not unseen:
            return before
        start = unseen[0].as_of - self._interval if after is None else after
        stored = await ticks.read_bars(self._market_id, symbol, self._interval, start, unseen[-1].as_of)
        if before is None:
            account = self._opened(unseen[0], stored)
        else:
            account = copy.deepcopy(before.account)
            unseen = [before.record, *unseen]
        for record, later in pairwise(unseen):
            _carry(account, record.position, stored.between(record.as_of, later.as_of))
        return _Standing(unseen[-1], account)

    def _opened(self, first: PolicyRecord, stored: Bars) -> OwnAccount:
        opened = stored.between(end=first.as_of)
        if not len(opened):
            raise DataError(
                f"The bar of {first.symbol} at which policy {self.policy.version} began is not stored any "
                f"more: it closed at {first.as_of.isoformat()}.",
                hint="Load it again with `python -m levibot ingest`.",
            )
        return self.policy.played_by.account(float(opened.close[-1]))


def _carry(account: OwnAccount, position: float, bars: Bars) -> None:
    """Hold through bars, of which the first fills the decision and the others have no order."""
    for place in range(len(bars)):
        target = position if place == 0 else float("nan")
        account.advance(target, float(bars.open[place]), float(bars.close[place]))


def _or_none(observation: FloatArray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in observation]
