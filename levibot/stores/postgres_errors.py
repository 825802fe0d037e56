"""What PostgreSQL and its client raise, as our errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from levibot.errors import DataError, StoreError, StoreUnavailable

# The server answers, but only to say that it will not serve now.
NOT_SERVING = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # starting up, shutting down, or recovering from a crash
    asyncpg.InsufficientResourcesError,  # no connection slot, no disk
)


def is_broken_by(exc: BaseException) -> bool:
    """Whether a connection is in the middle of something that will not end well.

    To tidy it up for the next user would wait for a silent server, or hide the error behind another one.
    """
    if isinstance(exc, asyncpg.QueryCanceledError):
        return False  # the server's own answer, and it is ready for the next query
    gone = (TimeoutError, asyncio.CancelledError, OSError, asyncpg.InternalClientError, *NOT_SERVING)
    return isinstance(exc, gone)


@contextmanager
def translated(where: str, query: str = "", limit_s: float | None = None) -> Iterator[None]:
    """Raise what the block raises as DataError, StoreError or StoreUnavailable.

    where: the server, for messages. query: the name of what runs there. limit_s: the server's limit on it.
    """
    at = f"PostgreSQL at {where}"
    try:
        yield
    except TimeoutError as exc:
        raise StoreUnavailable(f"{at} did not answer in time{_of(query)}.") from exc
    except asyncpg.QueryCanceledError as exc:
        if limit_s is not None and "statement timeout" in str(exc):
            raise StoreError(
                f"{at} cancelled the query {query}: it ran for longer than its limit of {limit_s:g} s.",
                hint="Ask for less at once, or look at the query's plan with EXPLAIN.",
            ) from exc
        raise StoreError(f"{at} cancelled the query {query}: {exc}.") from exc
    except asyncpg.CheckViolationError as exc:
        raise DataError(f"{at} refused a value: {exc}.") from exc
    except (*NOT_SERVING, OSError) as exc:
        raise StoreUnavailable(f"{at} does not serve: {exc or type(exc).__name__}.") from exc
    except (asyncpg.InterfaceError, asyncpg.InternalClientError) as exc:
        if isinstance(exc, ValueError):  # a value or an address that the client itself refuses
            raise StoreError(f"The call to {at} is wrong: {exc}.") from exc
        raise StoreUnavailable(f"The connection to {at} is gone: {exc}.") from exc
    except asyncpg.PostgresError as exc:
        raise StoreError(f"{at} answered {exc.sqlstate}: {exc}.") from exc


def _of(query: str) -> str:
    return f" ({query})" if query else ""
