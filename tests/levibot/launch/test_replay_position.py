"""A second run goes on where the first one ended, market by market."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from levibot.errors import ProcessError
from levibot.launch.replay_position import read_position, write_position

NOON = datetime(2024, 5, 1, 12, 0, 0, 123457, tzinfo=UTC)


def test_each_market_has_its_own_position(tmp_path: Path) -> None:
    assert read_position(tmp_path, "a") is None
    write_position(tmp_path, "a", NOON - timedelta(days=1))
    write_position(tmp_path, "parquet:/x y:1h", NOON.astimezone(timezone(timedelta(hours=9))))
    write_position(tmp_path, "a", NOON)
    assert read_position(tmp_path, "a") == read_position(tmp_path, "parquet:/x y:1h") == NOON
    assert read_position(tmp_path, "b") is None
    assert [path.name for path in tmp_path.iterdir()] == ["replay.json"]


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"null", b'{"a": 1}', b'{"a": "soon"}', b'{"a": "2024-05-01"}', b"\xff", b"[" * 100_000],
)
def test_a_broken_note_is_named_and_not_overwritten(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "replay.json"
    path.write_bytes(text)
    with pytest.raises(ProcessError, match=r"replay\.json cannot be read: .* Remove it and start again"):
        read_position(tmp_path, "a")
    with pytest.raises(ProcessError):
        write_position(tmp_path, "a", NOON)
    assert path.read_bytes() == text
