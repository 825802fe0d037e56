"""Names of model versions, `v1.2.3`, and which name a new version gets after the one before it.

    major  who serves the predecessor cannot serve it: another market, view, interval, symbols or kind
    minor  it is served alike and made otherwise: parameters, members, selected features, seed, …
    patch  made in the same way, on other data: retrained

Whatever a model says of itself beyond `SERVED_AS` and `LEARNED_FROM` counts as how it was made, so that a
new piece of metadata cannot pass as a retraining.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from levibot.errors import RegistryError

Change = Literal["major", "minor", "patch"]

FIRST = "v1.0.0"
# What a run asks of a model before it serves it.
SERVED_AS = ("kind", "market_id", "view", "view_version", "interval_s", "symbols")
# What is another each time that the same recipe learns again, and what was found out of the result.
LEARNED_FROM = (
    *("train_start", "train_end", "data_hash", "training_data", "export_data_hash", "source"),
    *("git_commit", "metrics", "trials", "promotion", "served"),
)

_NUMBER = r"(0|[1-9][0-9]{0,8})"
_NAME = re.compile(rf"v([1-9][0-9]{{0,8}})\.{_NUMBER}\.{_NUMBER}")


def is_version(name: str) -> bool:
    """Whether a name is that of a version."""
    return _NAME.fullmatch(name) is not None


def numbers(version: str) -> tuple[int, int, int]:
    """Major, minor and patch, which order versions. Raises RegistryError on what is no name of one."""
    found = _NAME.fullmatch(version)
    if found is None:
        raise RegistryError(f"{version!r} is no version name; they look like v1.2.3.")
    return int(found[1]), int(found[2]), int(found[3])


def change(before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
    """What a version with metadata `after` is to one with metadata `before`; both JSON values."""
    differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if differing & set(SERVED_AS):
        return "major"
    return "patch" if differing <= set(LEARNED_FROM) else "minor"


def successor(version: str, kind_of_change: Change) -> str:
    """The name after `version`. Raises RegistryError on what is no name of a version."""
    major, minor, patch = numbers(version)
    match kind_of_change:
        case "major":
            return f"v{major + 1}.0.0"
        case "minor":
            return f"v{major}.{minor + 1}.0"
        case "patch":
            return f"v{major}.{minor}.{patch + 1}"
