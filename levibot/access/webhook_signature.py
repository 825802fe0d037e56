"""The proof that a webhook comes from who knows the secret, is as it was sent, and was sent just now."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

from levibot.errors import KeyRefused

# Clocks differ, and a sender repeats what was not answered; a recording of yesterday is worth nothing.
WINDOW = timedelta(minutes=5)
VERSION = "v1"


def signature_of(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over `TIMESTAMP.BODY`, as the header carries it. timestamp: whole seconds since 1970."""
    mac = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"{VERSION}={mac.hexdigest()}"


def check_signature(secret: str, timestamp: str, signature: str, body: bytes, now: datetime) -> None:
    """Raises KeyRefused unless the signature is that of this body and instant, and the instant is near `now`.

    Several signatures may stand there, with commas between: a sender that changes its secret sends both.
    """
    expected = signature_of(secret, timestamp, body)
    given = [one.strip() for one in signature.split(",")]
    # All are compared, however many: where the right one stands is nobody's business.
    if not sum(hmac.compare_digest(expected.encode(), one.encode(errors="replace")) for one in given):
        raise KeyRefused(
            "The signature is not that of this body and timestamp.",
            hint="Sign `TIMESTAMP.BODY` with HMAC-SHA256; docs/operations/security.md shows how.",
        )
    # Looked at after the signature: it is the sender's word only then.
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise KeyRefused("The timestamp is not in whole seconds since 1970.")
    age = now - datetime.fromtimestamp(int(timestamp), UTC)
    if abs(age) > WINDOW:
        raise KeyRefused(
            f"The webhook was signed {age.total_seconds():.0f} s ago, outside of "
            f"{WINDOW.total_seconds():.0f} s.",
            hint="Sign it anew, and set the sender's clock.",
        )
