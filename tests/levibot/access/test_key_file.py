"""Keys in their file: what opens, what does not any more, and what a broken file opens, which is nothing."""

from __future__ import annotations

import json
import multiprocessing
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.access.api_key import ApiKey, Role, digest_of, is_text_of, key_id_of, new_key
from levibot.access.key_file import FILE_NAME, KeyFile
from levibot.access.run_key import end_run_key, key_of, make_run_key
from levibot.clock import ManualClock
from levibot.errors import StoreError, UsageError
from levibot.settings import Settings

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def keys(tmp_path: Path, clock: ManualClock) -> KeyFile:
    return KeyFile(tmp_path, clock)


def test_a_key_opens_and_its_text_is_kept_nowhere(keys: KeyFile) -> None:
    text, key = keys.create("dashboard", Role.READER)
    assert keys.find(text) == key
    written = keys.path.read_text()
    assert text not in written
    assert text.rpartition("_")[2] not in written
    assert key.digest == digest_of(text)
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


@given(st.text(max_size=100))
def test_no_other_text_opens(text: str) -> None:
    _, key = new_key("x", Role.OPERATOR, NOON)
    assert not is_text_of(key, text)


def test_one_wrong_sign_at_either_end_opens_nothing(keys: KeyFile) -> None:
    text, key = keys.create("dashboard", Role.READER)
    other = "A" if text[-1] != "A" else "B"
    wrong = [text[:-1] + other, text + "A", text[:-1], "", key.key_id, f"levibot_{key.key_id}_", "x" + text]
    assert [keys.find(one) for one in wrong] == [None] * len(wrong)


def test_what_is_revoked_elsewhere_is_refused_by_the_next_look(tmp_path: Path, clock: ManualClock) -> None:
    here, there = KeyFile(tmp_path, clock), KeyFile(tmp_path, clock)
    text, key = there.create("dashboard", Role.READER)
    assert here.find(text) == key
    there.revoke(key.key_id)
    assert here.find(text) is None
    with pytest.raises(UsageError, match="revoked already"):
        here.revoke(key.key_id)
    assert [one.state(NOON) for one in here.records()] == ["revoked"]


def test_a_rotated_key_opens_until_the_overlap_ends(keys: KeyFile, clock: ManualClock) -> None:
    old_text, old = keys.create("bot", Role.READER)
    new_text, new = keys.create("bot", Role.READER, instead_of=old.key_id, overlap=HOUR)
    assert [keys.find(text) is not None for text in (old_text, new_text)] == [True, True]
    clock.advance(3600.0)
    assert [keys.find(text) is not None for text in (old_text, new_text)] == [False, True]
    with pytest.raises(UsageError, match="expired already"):
        keys.create("bot", Role.READER, instead_of=old.key_id)
    assert keys.find(new_text) == new


def test_a_key_with_a_life_ends_with_it(keys: KeyFile, clock: ManualClock) -> None:
    text, _ = keys.create("guest", Role.READER, life=HOUR)
    clock.advance(3599.999)
    assert keys.find(text) is not None
    clock.advance(0.001)
    assert keys.find(text) is None


def test_the_first_key_is_made_once(keys: KeyFile) -> None:
    text = keys.create_first("first", Role.OPERATOR)
    assert text is not None
    assert keys.find(text) is not None
    assert keys.create_first("first", Role.OPERATOR) is None
    for key in keys.records():
        keys.revoke(key.key_id)
    # Whoever has revoked all keys does not want a new one.
    assert keys.create_first("first", Role.OPERATOR) is None


@pytest.mark.parametrize("name", ["", "A", "-x", "a b", "x" * 65, "x\n"])
def test_a_name_that_is_none_is_refused(keys: KeyFile, name: str) -> None:
    with pytest.raises(UsageError, match="A key is named"):
        keys.create(name, Role.READER)


def test_there_is_no_key_before_the_first(keys: KeyFile) -> None:
    assert (keys.find("levibot_a_b"), keys.records()) == (None, [])


GOOD = {
    "key_id": "a",
    "name": "x",
    "role": "reader",
    "digest": "0" * 64,
    "created_at": NOON.isoformat(),
    "expires_at": None,
    "revoked_at": None,
}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"keys": [1]}',
        *(
            json.dumps({"keys": [{**GOOD, **change}]}).encode()
            for change in (
                {"role": "king"},
                {"digest": ""},
                {"created_at": "2026-05-01T12:00:00"},
                {"expires_at": "soon"},
                {"more": 1},
            )
        ),
    ],
)
def test_a_broken_file_opens_nothing_and_says_so(keys: KeyFile, data: bytes) -> None:
    text, _ = keys.create("dashboard", Role.READER)
    keys.path.write_bytes(data)
    with pytest.raises(StoreError, match="cannot be read"):
        keys.find(text)
    with pytest.raises(StoreError, match="cannot be read"):
        keys.create("another", Role.READER)
    assert keys.path.read_bytes() == data


def _create(home: str, n: int) -> None:
    for number in range(n):
        KeyFile(Path(home)).create(f"k{number}", Role.READER)


def test_writers_at_once_lose_no_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_create, args=(str(tmp_path), 20)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert len(KeyFile(tmp_path).records()) == 80


def test_the_runs_key_is_made_anew_and_ends_with_the_run(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert key_of(settings) is None
    first = make_run_key(tmp_path)
    second = make_run_key(tmp_path)
    keys = KeyFile(tmp_path)
    assert (keys.find(first), key_of(settings)) == (None, second)
    assert keys.find(second) is not None
    assert stat.S_IMODE((tmp_path / "run.key").stat().st_mode) == 0o600
    assert key_of(Settings(home=tmp_path, api_key="mine")) == "mine"
    end_run_key(tmp_path)
    assert (keys.find(second), key_of(settings)) == (None, None)
    assert (tmp_path / FILE_NAME).exists()


def test_only_the_form_of_a_key_names_one() -> None:
    text, key = new_key("x", Role.READER, NOON)
    assert key_id_of(text) == key.key_id
    assert [key_id_of(one) for one in ("", "levibot", "levibot_a", "levibot_a_", "other_a_b")] == [""] * 5


def test_an_operator_may_do_all_that_a_reader_may_and_not_the_other_way() -> None:
    roles = [(a, b) for a in Role for b in Role if not a.includes(b)]
    assert roles == [(Role.READER, Role.OPERATOR)]
    assert isinstance(new_key("x", Role.READER, NOON)[1], ApiKey)
