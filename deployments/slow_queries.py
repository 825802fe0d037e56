"""What the queries of all processes cost."""

from __future__ import annotations

from collections.abc import Sequence

from actors.processes import Said
from deployments.schemas import QueryCostEntry

SHOWN = 10


def top_queries(said: Sequence[Said]) -> tuple[list[QueryCostEntry], dict[str, str]]:
    """The queries that took most time, each with its process, and the problem of each silent process."""
    queries = [QueryCostEntry(process=one.process, **query) for one in said for query in one.answer or ()]
    missing = {one.process: one.problem for one in said if one.answer is None}
    return sorted(queries, key=lambda query: query.total_s, reverse=True)[:SHOWN], missing
