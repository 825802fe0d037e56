"""Whether a source of data from outside can be asked."""

from __future__ import annotations

from dataclasses import dataclass

from levibot.errors import SourceDisabled


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """For callers that ask before they call. reason: why the source is disabled, empty if it is not."""

    name: str
    is_disabled: bool
    reason: str = ""

    def check(self) -> None:
        """Raise SourceDisabled if the source is."""
        if self.is_disabled:
            raise SourceDisabled(f"{self.name} is disabled: {self.reason}")


def keyed(name: str, key: str | None, variable: str) -> SourceStatus:
    """The status of a source that needs a key. variable: the setting that holds it."""
    if key:
        return SourceStatus(name, is_disabled=False)
    return SourceStatus(name, is_disabled=True, reason=f"{variable} is not set.")
