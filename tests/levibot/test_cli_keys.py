"""`keys`: made, listed, rotated and ended, and what the settings say of switching them off."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from levibot.access.key_file import KeyFile
from tests.levibot.conftest import Command


def test_a_key_is_shown_once_and_ends_when_it_is_revoked(levibot: Command, home: Path) -> None:
    made = levibot("keys", "create", "dashboard", "--json").json()
    assert (made["role"], made["state"]) == ("reader", "valid")
    assert KeyFile(home).find(made["api_key"]) is not None
    assert stat.S_IMODE((home / "keys.json").stat().st_mode) == 0o600
    listed = levibot("keys", "list", "--json")
    assert made["api_key"] not in listed.out
    assert made["api_key"] not in (home / "keys.json").read_text()
    assert [key["key_id"] for key in listed.json()["keys"]] == [made["key_id"]]
    assert made["key_id"] in levibot("keys", "revoke", made["key_id"]).out
    assert KeyFile(home).find(made["api_key"]) is None
    again = levibot("keys", "revoke", made["key_id"])
    assert again.code == 2
    assert "revoked already" in again.error()


def test_a_rotation_leaves_both_keys_valid_for_as_long_as_it_says(levibot: Command, home: Path) -> None:
    old = levibot("keys", "create", "desk", "--role", "operator", "--json").json()
    rotated = ("keys", "create", "desk", "--role", "operator", "--instead-of", old["key_id"])
    new = levibot(*rotated, "--overlap", "600", "--json").json()
    keys = KeyFile(home)
    assert keys.find(old["api_key"]) is not None
    assert keys.find(new["api_key"]) is not None
    levibot("keys", "create", "desk", "--instead-of", new["key_id"], "--overlap", "0")
    assert keys.find(new["api_key"]) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("create", "a b"), "A key is named 'a b'."),
        (("create", "run"), "that of a run's own key"),
        (("create", "desk", "--role", "king"), "There is no role 'king'."),
        (("create", "desk", "--instead-of", "0"), "There is no key 0."),
        (("revoke", "0"), "There is no key 0."),
    ],
)
def test_a_wrong_call_is_one_line_and_makes_nothing(
    levibot: Command, home: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    refused = levibot("keys", *arguments)
    assert refused.code == 2
    assert sentence in refused.error()
    assert KeyFile(home).records() == []


def test_keys_are_switched_off_on_loopback_only(levibot: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVIBOT_API_KEYS", "off")
    assert levibot("keys", "list").code == 0
    monkeypatch.setenv("LEVIBOT_HTTP_HOST", "0.0.0.0")
    refused = levibot("keys", "list")
    assert refused.code == 2
    assert "without keys it listens on loopback only" in refused.error()


def test_what_depends_on_what_is_listed(levibot: Command) -> None:
    listed = levibot("dependencies")
    assert listed.code == 0
    assert {"router", "postgres", "clickhouse"} <= {line.split()[0] for line in listed.out.splitlines()}
