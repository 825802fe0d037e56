"""How many connections the pools of this process hold, counted when the metrics are read."""

from __future__ import annotations

from functools import partial

import asyncpg

from levibot.telemetry.metrics import DEFAULT, Metrics

STATES = ("idle", "used")


class PoolCensus:
    """Keeps `levibot_db_pool_connections` true. State: the open pools, by database.

    Counted on demand, since a connection that the server ends goes without telling anybody.
    """

    def __init__(self, metrics: Metrics = DEFAULT) -> None:
        self._metrics = metrics
        self._pools: dict[str, list[asyncpg.Pool]] = {}

    def add(self, database: str, pool: asyncpg.Pool) -> None:
        """Count this pool too, until it is removed. database: `primary` or `replica`."""
        if database not in self._pools:
            self._pools[database] = []
            for state in STATES:
                gauge = self._metrics.db_pool_connections.labels(database, state)
                gauge.set_function(partial(self.count, database, state))
        self._pools[database].append(pool)

    def remove(self, database: str, pool: asyncpg.Pool) -> None:
        """Do not count a closed pool any longer."""
        if pool in self._pools.get(database, ()):
            self._pools[database].remove(pool)

    def count(self, database: str, state: str) -> int:
        """The connections in that state, `idle` or `used`, of all open pools to that database."""
        # A copy: the metrics are read from another thread than the pools' own.
        pools = tuple(self._pools.get(database, ()))
        idle = sum(int(pool.get_idle_size()) for pool in pools)
        return idle if state == "idle" else sum(int(pool.get_size()) for pool in pools) - idle


CENSUS = PoolCensus()
