"""Applies the numbered SQL of `ops/clickhouse`, each file once, and records it with its checksum.

ClickHouse has no transaction around such statements. A file is recorded after its last one, so after an
interruption it runs again from the top: every file is written so that this does no harm. One process at a
time may migrate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from clickhouse_connect.driver.client import Client

from levibot.errors import StoreError
from levibot.stores.clickhouse import translated
from levibot.stores.migrations import sql_files

RECORDS = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    number     UInt32,
    name       String,
    checksum   String,
    applied_at DateTime('UTC') DEFAULT now()
)
ENGINE = MergeTree
ORDER BY number
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
"""


def migrate_clickhouse(client: Client, where: str, files: Sequence[Path] | None = None) -> list[str]:
    """Apply what is missing; returns the names of the files that were applied. files: None for the project's.

    Raises StoreError when a file was changed after it was applied, or the database has one that is not known.
    """
    files = sql_files("clickhouse") if files is None else files
    with translated(where, "migrate"):
        client.command(RECORDS)
        rows = client.query("SELECT name, checksum FROM schema_migrations").result_rows
        recorded: dict[str, str] = dict(rows)
        _check(recorded, files, where)
        missing = [path for path in files if path.name not in recorded]
        for path in missing:
            for statement in statements(path.read_text()):
                client.command(statement)
            record = [(int(path.name[:4]), path.name, checksum_of(path))]
            client.insert("schema_migrations", record, column_names=("number", "name", "checksum"))
    return [path.name for path in missing]


def statements(sql: str) -> list[str]:
    """The statements of a file. The engine takes one a call; here one ends with a semicolon and a line."""
    return [statement for statement in sql.split(";\n") if statement.strip()]


def checksum_of(path: Path) -> str:
    """SHA-256 of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check(recorded: dict[str, str], files: Sequence[Path], where: str) -> None:
    known = {path.name: path for path in files}
    for name, checksum in recorded.items():
        if name not in known:
            raise StoreError(
                f"{where} has the migration {name}, which this version does not know.",
                hint="It belongs to a newer LeviBot: use that one.",
            )
        if checksum_of(known[name]) != checksum:
            raise StoreError(
                f"The migration {name} was changed after {where} had applied it.",
                hint="Put it back, and make a new file for the change.",
            )
