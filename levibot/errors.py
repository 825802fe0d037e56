"""Every exception that LeviBot raises.

LeviBotError
├── UsageError                a call that cannot work as written (exit code 2)
│   ├── SettingsError             a setting is missing or out of its limits
│   ├── UnknownSymbol             a symbol that this market does not have
│   └── DataError                 bars, features or labels that break their schema
├── StoreError                a store answered with an error
│   └── StoreUnavailable          a store does not answer, or its circuit is open
├── SourceError               a market source failed
│   ├── SourceUnavailable         a market source does not answer
│   └── SourceDisabled            a market source has no key, or its budget is spent
├── AccessRefused             a caller may not ask this
│   ├── KeyRefused                no API key or signature, or one that is not valid
│   └── RoleRefused               a key whose role is too low for what is asked
├── RateLimited               a caller asks more often than its limit allows
├── RegistryError             a model version is broken or refused
│   ├── UnknownVersion            a model version that this registry does not have
│   └── RegistryConflict          the registry is in another state than the caller takes it to be
├── NotReady                  what is asked for is not there yet, or too old to be used
└── ProcessError              a process that LeviBot runs did not start or stop
    └── PortInUse                 a port is taken by somebody else

A message says what, which value, which limit; `hint` says what to do. `is_transient` marks the errors that
the same call may not meet again a moment later: only these are ever retried.
"""


class LeviBotError(Exception):
    """The root of the tree. `code` is the stable name that HTTP answers and `--json` output carry.

    retry_after_s: how long the other side asks us to wait before a repeat, None where it says nothing.
    """

    code = "internal"
    is_transient = False

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions travel between actors; the default reduce loses keyword arguments.
        return _rebuild, (type(self), self.message, self.hint, self.retry_after_s)


def _rebuild(kind: type[LeviBotError], message: str, hint: str, retry_after_s: float | None) -> LeviBotError:
    return kind(message, hint=hint, retry_after_s=retry_after_s)


class UsageError(LeviBotError):
    """A call that cannot work as written."""

    code = "usage"


class SettingsError(UsageError):
    """A setting is missing or out of its limits."""

    code = "settings"


class UnknownSymbol(UsageError):
    """A symbol that this market does not have."""

    code = "unknown_symbol"


class DataError(UsageError):
    """Bars, features or labels that break their schema."""

    code = "bad_data"


class StoreError(LeviBotError):
    """A store answered with an error."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """A store does not answer, or its circuit is open."""

    code = "store_unavailable"
    is_transient = True


class SourceError(LeviBotError):
    """A market source failed."""

    code = "source_error"


class SourceUnavailable(SourceError):
    """A market source does not answer."""

    code = "source_unavailable"
    is_transient = True


class SourceDisabled(SourceError):
    """A market source has no key, or its budget is spent."""

    code = "source_disabled"


class AccessRefused(LeviBotError):
    """A caller may not ask this."""

    code = "access_refused"


class KeyRefused(AccessRefused):
    """No API key or signature, or one that is not valid."""

    code = "key_refused"


class RoleRefused(AccessRefused):
    """A key whose role is too low for what is asked."""

    code = "role_refused"


class RateLimited(LeviBotError):
    """A caller asks more often than its limit allows."""

    code = "rate_limited"
    is_transient = True


class RegistryError(LeviBotError):
    """A model version is broken or refused."""

    code = "registry"


class UnknownVersion(RegistryError):
    """A model version that this registry does not have."""

    code = "unknown_version"


class RegistryConflict(RegistryError):
    """The registry is in another state than the caller takes it to be, or a version does not fit this run."""

    code = "registry_conflict"


class NotReady(LeviBotError):
    """What is asked for is not there yet, or too old to be used."""

    code = "not_ready"


class ProcessError(LeviBotError):
    """A process that LeviBot runs did not start or stop."""

    code = "process"


class PortInUse(ProcessError):
    """A port is taken by somebody else."""

    code = "port_in_use"
