"""What is signed, by whom and when: anything else is refused."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.access.webhook_signature import WINDOW, check_signature, signature_of
from levibot.errors import KeyRefused

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
AT = str(int(NOON.timestamp()))
SECRET = "s" * 32
BODY = b'{"symbol": "BTCUSDT"}'


def test_the_signature_is_hmac_sha256_of_timestamp_dot_body() -> None:
    expected = hmac.new(SECRET.encode(), AT.encode() + b"." + BODY, hashlib.sha256).hexdigest()
    assert signature_of(SECRET, AT, BODY) == f"v1={expected}"


@given(body=st.binary(max_size=200), seconds=st.integers(-300, 300))
def test_what_is_signed_within_the_window_passes(body: bytes, seconds: int) -> None:
    at = str(int(NOON.timestamp()) + seconds)
    check_signature(SECRET, at, signature_of(SECRET, at, body), body, NOON)


@given(body=st.binary(max_size=200), other=st.binary(max_size=200))
def test_a_signature_is_of_one_body_only(body: bytes, other: bytes) -> None:
    signature = signature_of(SECRET, AT, body)
    if body != other:
        with pytest.raises(KeyRefused):
            check_signature(SECRET, AT, signature, other, NOON)


def test_of_two_secrets_in_turn_either_passes() -> None:
    both = f"{signature_of('old' * 12, AT, BODY)}, {signature_of(SECRET, AT, BODY)}"
    check_signature(SECRET, AT, both, BODY, NOON)


@pytest.mark.parametrize(
    ("secret", "at", "signed_at", "match"),
    [
        ("t" * 32, AT, AT, "not that of"),
        (SECRET, AT, str(int(AT) + 1), "not that of"),
        (SECRET, str(int(AT) - int(WINDOW.total_seconds()) - 1), None, "signed 301 s ago"),
        (SECRET, str(int(AT) + int(WINDOW.total_seconds()) + 1), None, "signed -301 s ago"),
        (SECRET, "soon", None, "whole seconds"),
        (SECRET, "1e9", None, "whole seconds"),
        (SECRET, "", None, "whole seconds"),
        (SECRET, "9" * 13, None, "whole seconds"),
        (SECRET, "٣٣", None, "whole seconds"),
    ],
)
def test_another_secret_instant_or_time_is_refused(
    secret: str, at: str, signed_at: str | None, match: str
) -> None:
    signature = signature_of(secret, at if signed_at is None else signed_at, BODY)
    with pytest.raises(KeyRefused, match=match):
        check_signature(SECRET, at, signature, BODY, NOON)


@pytest.mark.parametrize("signature", ["", "v1=", "v1=zz", "ü", "v0=" + "0" * 64, "," * 50])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    with pytest.raises(KeyRefused):
        check_signature(SECRET, AT, signature, BODY, NOON + timedelta(seconds=1))
