"""The two sections of the page of faults: each is written by a run of its own, and leaves the other alone."""

from __future__ import annotations

from tests.faults.page import PAGE

SYSTEM = "## The whole system, under requests\n"


def split(page: str) -> tuple[str, str]:
    """What the drills of the stores wrote, and what those of the whole system wrote; either may be empty."""
    stores, mark, system = page.partition(SYSTEM)
    return stores, mark + system


def write(*, stores: str | None = None, system: str | None = None) -> None:
    """Put a section in the place of the one before. None: that one stays."""
    before = split(PAGE.read_text() if PAGE.exists() else "")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    parts = [new if new is not None else old for new, old in zip((stores, system), before, strict=True)]
    PAGE.write_text("\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n")
