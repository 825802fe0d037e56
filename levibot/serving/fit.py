"""Whether a model version can serve a run at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from levibot.errors import RegistryConflict
from levibot.learning.signal import KIND


def check_fits(
    version: str,
    metadata: Mapping[str, Any],
    *,
    view_version: str,
    symbols: Sequence[str],
    online_bars: int,
    hint: str,
) -> None:
    """Raises RegistryConflict when the version is no signal, or reads what this run does not have online.

    That is another view, other symbols or more rows. Of another view the numbers would fit, and mean
    something else.
    """
    if metadata.get("kind") != KIND:
        raise RegistryConflict(
            f"Version {version} is of kind {metadata.get('kind')!r}: only one of kind {KIND!r} can be the "
            "model that serves.",
            hint=hint,
        )
    reads = metadata.get("view_version"), list(metadata.get("symbols") or ())
    if reads != (view_version, list(symbols)):
        raise RegistryConflict(
            f"Version {version} reads view {reads[0]} of {', '.join(map(str, reads[1])) or 'no symbols'}; "
            f"this run has view {view_version} of {', '.join(symbols)}.",
            hint=hint,
        )
    if metadata.get("window_bars", 0) > online_bars:
        raise RegistryConflict(
            f"Version {version} reads {metadata['window_bars']} rows of features; {online_bars} are online.",
            hint=hint,
        )
