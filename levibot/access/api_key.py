"""An API key: the text that its holder keeps, and the little that is kept of it here."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

PREFIX = "levibot"
SECRET_BYTES = 32


class Role(StrEnum):
    """What a key may do: a reader asks, an operator may change what serves too."""

    READER = "reader"
    OPERATOR = "operator"

    def includes(self, other: Role) -> bool:
        """Whether this role may do all that the other may."""
        return self is other or self is Role.OPERATOR


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key.

    digest: SHA-256 of its text, hexadecimal. Instants are aware UTC; expires_at: None: never; revoked_at:
    None: it was not revoked.
    """

    key_id: str
    name: str
    role: Role
    digest: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether it opens anything at that instant."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def state(self, now: datetime) -> str:
        """valid, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if self.is_valid(now) else "expired"


def new_key(
    name: str, role: Role, created_at: datetime, expires_at: datetime | None = None
) -> tuple[str, ApiKey]:
    """The text of a new key, which nobody can show a second time, and what is kept of it.

    The text is `levibot_ID_SECRET` with 256 random bits in its secret: a slow hash guards what people can
    remember, and nobody can guess this at any speed (docs/decisions/0037-keys-in-a-file.md).
    """
    key_id = secrets.token_hex(6)
    text = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    return text, ApiKey(key_id, name, role, digest_of(text), created_at, expires_at)


def key_id_of(text: str) -> str:
    """The part of a key that names it, empty where the text has not the form of a key."""
    prefix, _, rest = text.partition("_")
    key_id, separator, secret = rest.partition("_")
    return key_id if prefix == PREFIX and separator and secret else ""


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def is_text_of(key: ApiKey, text: str) -> bool:
    """Whether the text is this key's. Takes as long for a near miss as for a far one."""
    return hmac.compare_digest(key.digest, digest_of(text))
