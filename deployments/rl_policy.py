"""The policy in shadow behind Ray Serve: decides each close once, and says what it wants."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from actors import event_letters, event_log
from deployments.loopback import keep_to_loopback
from levibot.errors import (
    LeviBotError,
    NotReady,
    RegistryError,
    StoreUnavailable,
    UnknownSymbol,
    UnknownVersion,
)
from levibot.features.views import CORE
from levibot.resilience.guard import Guard
from levibot.serving.policy import Policy
from levibot.serving.policy_desk import PolicyDesk
from levibot.settings import Settings
from levibot.stores.active_version import ActiveVersion
from levibot.stores.connect import open_online, open_policies, open_ticks
from levibot.stores.events import Event
from levibot.stores.policy_ledger import PolicyRecord
from levibot.stores.query_profile import PROFILE
from levibot.stores.ticks import TickStore
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging

POLL_S = 0.25
# A first turn reads all that a version has decided; and a registry may be far away.
TURN_TIMEOUT_S, LOAD_TIMEOUT_S = 30.0, 15.0
# A version that could not be used is looked at again after so long: its files may have been put back.
REFUSED_S = 30.0
EXPORT = "python -m rl.export_onnx --checkpoint … --activate"
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Refused:
    """A version that cannot be used, why, and when it is looked at again, on the process's clock."""

    version: str
    error: RegistryError
    until_s: float


class RlPolicy:
    """The version that the policies' registry names as active. State: its desk, and why there is none.

    It is nobody's fallback and has none of its own but the last decisions, which say how old they are.
    """

    def __init__(self) -> None:
        keep_to_loopback()
        settings = Settings.load()
        configure_logging(settings.log_level, "rl_policy")
        self._settings = settings
        self._registry = open_policies(settings)
        self._active = ActiveVersion(self._registry, timeout_s=settings.store_timeout_s)
        self._online = open_online(settings, CORE)
        self._ticks: TickStore | None = None
        self._desk: PolicyDesk | None = None
        self._problem: LeviBotError = NotReady("No policy is loaded yet.", hint="Try again.")
        self._waiting: dict[str, str] = {}
        self._refused: _Refused | None = None
        self._redis = Guard(
            "rl policy:redis",
            timeout_s=settings.store_timeout_s,
            attempts=1,
            reset_s=1.0,
            transient=(StoreUnavailable,),
        )
        self._ledger = Guard(
            "rl policy:ticks",
            timeout_s=TURN_TIMEOUT_S,
            attempts=1,
            reset_s=1.0,
            transient=(StoreUnavailable,),
        )
        self._load = Guard(
            "rl policy:registry", timeout_s=LOAD_TIMEOUT_S, attempts=1, transient=(StoreUnavailable,)
        )
        self._events = event_log.Client("rl_policy", event_letters.keeper(settings))
        self._follower = asyncio.get_running_loop().create_task(self._follow())

    async def decision(self, symbol: str) -> PolicyRecord | LeviBotError:
        """The newest decision on a symbol, or why there is none; Ray wraps what is raised across a handle."""
        if self._desk is None:
            return self._problem
        policy = self._desk.policy
        if symbol not in policy.symbols:
            return UnknownSymbol(
                f"Policy {policy.version} has not learned {symbol}.",
                hint=f"It trades: {', '.join(policy.symbols)}.",
            )
        record = self._desk.newest.get(symbol)
        if record is not None:
            return record
        reason = self._waiting.get(symbol)
        return (
            self._problem
            if reason is None
            else NotReady(reason, hint="The feed may be starting; see /readyz.")
        )

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def close(self) -> None:
        """End the follower, then the connections."""
        self._follower.cancel()
        await asyncio.gather(self._follower, return_exceptions=True)
        await self._online.close()
        if self._ticks is not None:
            await self._ticks.close()

    def check_health(self) -> None:
        """Serve replaces this replica when its follower has ended."""
        if self._follower.done():
            raise RuntimeError("The policy no longer follows the bars.")

    async def _follow(self) -> None:
        told = ""
        while True:
            try:
                await self._turn()
                told = ""
            except LeviBotError as exc:
                self._problem = exc
                # Most systems have no policy: that is said once, and not four times a second.
                if str(exc) != told:
                    log.warning("the policy waits", reason=str(exc))
                    told = str(exc)
            except Exception as exc:
                log.error("the policy failed and begins again", exc_info=exc)
            await asyncio.sleep(POLL_S)

    async def _turn(self) -> None:
        desk = await self._opened()
        readings = await self._redis.call(self._online.get_many, desk.policy.symbols)
        records, self._waiting = await self._ledger.call(self._decide, desk, readings)
        version = desk.policy.version
        self._problem = NotReady(f"Policy {version} has decided nothing yet.", hint="Try again.")
        if records:
            self._events.tell([self._event(record) for record in records])

    async def _opened(self) -> PolicyDesk:
        """The desk of the active version. Raises UnknownVersion without one, RegistryConflict on a misfit."""
        version = (await self._active.get()).value
        if version is None:
            self._desk = None
            raise UnknownVersion("No policy is active.", hint=f"Export one: {EXPORT}")
        if self._desk is None or self._desk.policy.version != version:
            # What another version wanted is not what this one wants.
            self._desk, self._waiting = None, {}
            started_s = time.monotonic()
            refused = self._refused
            if refused is not None and refused.version == version:
                if started_s < refused.until_s:
                    raise refused.error.with_traceback(None)
            else:
                self._problem = NotReady(f"Policy {version} is being loaded.", hint="Try again.")
            try:
                policy: Policy = await self._load.call(asyncio.to_thread, self._read, version)
                self._desk = PolicyDesk(policy, self._settings.market_id, self._settings.interval)
            except RegistryError as exc:
                self._refused = _Refused(version, exc, started_s + REFUSED_S)
                raise
            self._refused = None
            log.info("policy is loaded", version=version, took_s=round(time.monotonic() - started_s, 3))
        return self._desk

    def _read(self, version: str) -> Policy:
        policy = Policy.of(self._registry.load(version))
        policy.check_served(CORE)
        return policy

    async def _decide(self, desk: PolicyDesk, readings: Any) -> tuple[list[PolicyRecord], dict[str, str]]:
        if self._ticks is None:
            self._ticks = await open_ticks(self._settings)
        return await desk.turn(self._ticks, readings)

    def _event(self, record: PolicyRecord) -> Event:
        # A decision that two replicas come to at once is one event.
        identity = (
            f"{self._settings.market_id} {record.policy_version} {record.symbol} {record.as_of.isoformat()}"
        )
        payload = {name: value for name, value in asdict(record).items() if name not in ("symbol", "as_of")}
        payload["follows"] = None if record.follows is None else record.follows.isoformat()
        return Event(
            "policy_decision",
            record.symbol,
            record.as_of,
            payload,
            event_id=hashlib.sha256(identity.encode()).hexdigest()[:32],
        )
