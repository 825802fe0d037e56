"""The header in which a busy server says when to come back."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """The wait in seconds that a Retry-After header asks for; None without one, or when it says nothing.

    value: whole seconds, or an HTTP date (RFC 9110, 10.2.3); a date that has passed is no wait.
    now: aware UTC, against which a date is read.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        instant = parsedate_to_datetime(text)
    except ValueError:
        return None
    # A date without a zone (-0000) is in UTC.
    aware = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant
    return max(0.0, (aware - now).total_seconds())
