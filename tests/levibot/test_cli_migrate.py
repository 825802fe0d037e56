"""`migrate` with the embedded stores that it starts for itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from levibot.stores.migrations import sql_files
from tests.levibot.conftest import Command

pytestmark = pytest.mark.stores


def test_a_dry_run_prints_what_then_runs_once(levibot: Command) -> None:
    expected = [file for file in sql_files("postgres") if not file.name.endswith(".timescale.sql")]
    planned = levibot("migrate", "--dry-run", "--json")
    assert (planned.code, planned.err) == (0, "")
    assert planned.json()["engine"] == "plain"
    assert [file["name"] for file in planned.json()["migrations"]] == [file.name for file in expected]
    for file, path in zip(planned.json()["migrations"], expected, strict=True):
        assert file["sql"] == path.read_text()
        assert file["checksum"] == hashlib.sha256(path.read_bytes()).hexdigest()

    text = levibot("migrate", "--dry-run").out
    assert text.startswith(
        f"{len(expected)} would run (engine: plain), all in one transaction:\n\n-- 0001_bars.sql"
    )
    assert "CREATE TABLE bars (" in text

    applied = levibot("migrate", "--json").json()
    assert (applied["dry_run"], applied["migrations"]) == (False, planned.json()["migrations"])
    assert levibot("migrate").out == "The tables are up to date (engine: plain).\n"


def test_a_server_that_is_away_is_one_line(
    levibot: Command, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("LEVIBOT_POSTGRES_DSN", "postgresql://u:secret@127.0.0.1:1/x")
    monkeypatch.setenv("LEVIBOT_REDIS_URL", "redis://127.0.0.1:1")
    refused = levibot("migrate", "--dry-run")
    assert refused.code == 1
    assert "127.0.0.1:1 does not serve" in refused.error()
    assert "secret" not in refused.err
