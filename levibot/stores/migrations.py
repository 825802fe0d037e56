"""The SQL of each store: in `ops/<store>/` of the repository, and a copy of it inside the wheel."""

from __future__ import annotations

from pathlib import Path

from levibot.errors import StoreError

_IN_WHEEL = Path(__file__).parent / "sql"
_IN_REPOSITORY = Path(__file__).parents[2] / "ops"


def sql_files(store: str) -> tuple[Path, ...]:
    """The files of one store (`clickhouse`, `postgres`), in the order of their numbers. Raises StoreError."""
    for folder in (_IN_WHEEL / store, _IN_REPOSITORY / store):
        files = tuple(sorted(folder.glob("[0-9]*.sql")))
        if files:
            return files
    raise StoreError(f"The SQL of {store} is not there: neither in {_IN_WHEEL} nor in {_IN_REPOSITORY}.")
