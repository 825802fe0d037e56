"""Which callers a canary answers: the same ones for as long as its share stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Literal

from levibot.errors import StoreError
from levibot.stores.online_signals import Arms
from levibot.stores.signals import Signal

Arm = Literal["champion", "canary"]
CHAMPION: Arm = "champion"
CANARY: Arm = "canary"


def arm_of(key_id: str, version: str, share: float) -> Arm:
    """The arm of a caller while `version` is the canary for `share` of the callers, 0 to 1.

    A key has one place in [0, 1) for each version, and those below the share are the canary's: a share that
    grows takes more in and lets none go, and another version draws its callers anew.
    key_id: of the API key, empty where nobody is told apart. Then a part of the callers cannot be chosen, and
    all of them stay with the champion unless the whole is the canary's.
    """
    if share >= 1.0:
        return CANARY
    if not key_id:
        return CHAMPION
    return CANARY if _place(key_id, version) < share else CHAMPION


def of_canary(
    read: Arms, symbols: Sequence[str], key_id: str, is_fresh: Callable[[Signal], bool]
) -> tuple[dict[str, Signal], str]:
    """The canary's fresh signals for a caller in its arm, and why the champion's stand in for the others.

    Both are empty for a caller in the champion's arm, for whom no signal of the canary is read.
    """
    signals: dict[str, Signal] = {}
    try:
        canary = read.canary
        if canary is None or arm_of(key_id, canary.version, canary.share) == CHAMPION:
            return {}, ""
        for symbol in symbols:
            signal = read.canary_signal(symbol)
            if signal is not None and signal.model_version == canary.version and is_fresh(signal):
                signals[symbol] = signal
    except StoreError as exc:
        return signals, f"This is the champion's signal: {exc}"
    return signals, f"The canary {canary.version} has no fresh signal: this is the champion's."


def _place(key_id: str, version: str) -> float:
    return int.from_bytes(sha256(f"{version}:{key_id}".encode()).digest()[:6]) / 2**48
