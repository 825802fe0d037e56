"""Databases of one test."""

from __future__ import annotations

import asyncio

import asyncpg

PATIENCE_S, PAUSE_S = 10.0, 0.2


async def drop_database(admin: asyncpg.Connection, name: str) -> None:
    """Drop a database with what is connected to it: pgbouncer and killed processes leave sessions.

    No role of ours may end an autovacuum worker, which PostgreSQL refuses all of it for; one is soon done.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            except asyncpg.InsufficientPrivilegeError:
                await asyncio.sleep(PAUSE_S)
            else:
                return
