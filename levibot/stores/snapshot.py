"""Reads that see one state of the database, from its catalogue to its rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def one_snapshot(db: Any) -> AsyncIterator[None]:
    """What is read in the block is of one instant, which is taken before the first query is planned.

    Otherwise a query that was planned just before a partition was attached misses the partition and sees what
    was committed with its rows. Begins the block's transaction, or sets the one that a pooler's block is.
    """
    if db.is_in_transaction():
        await db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield
        return
    async with db.transaction(isolation="repeatable_read", readonly=True):
        yield
