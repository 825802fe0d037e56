"""`GET /events` on five million events with the whole system up, beside `GET /livez` through the same hop.

A month of events is appended in batches of 5,000. Of its partitions the newest is left as merges have left it
beside the writing; those that have ended are merged, as the engine does within an hour. Then the system is
started on them: stores, actors, a simulated market that appends every second, HTTP. `slowest_page_*`: the
slowest of nine pages, each with its filters. `store_mean_ms`: what the store took for them, as the event
log counts it (`/metrics`). The reference answers without a look at anything: what is above it is the list's.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from urllib.parse import urlencode, urlsplit

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, p95, report
from benchmarks.event_table import EventTable
from benchmarks.events import BATCH, N_ROWS, QUICK_ROWS
from benchmarks.running_system import RunningSystem, running_system
from levibot.stores.event_query import EventCursor

N_ROUNDS, QUICK_ROUNDS = 20, 3
TIMEOUT_S = 30.0


class Client:
    """One client that keeps its connection, as browsers and dashboards do."""

    def __init__(self, system: RunningSystem) -> None:
        self._connection = HTTPConnection(urlsplit(system.url).netloc, timeout=TIMEOUT_S)
        self._headers = system.headers

    def text(self, path: str) -> str:
        """The answer. Raises RuntimeError on another status than 200."""
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} was answered with {answer.status}: {body[:300]!r}")
        return body.decode()

    def ms(self, path: str) -> float:
        """Milliseconds from the request to the parsed answer."""
        started = time.perf_counter()
        json.loads(self.text(path))
        return 1000 * (time.perf_counter() - started)


class Pages:
    """The nine pages, over HTTP."""

    def __init__(self, client: Client, paths: list[str], n_rounds: int) -> None:
        self._client = client
        self._paths = paths
        self._n_rounds = n_rounds

    def ours(self) -> Mapping[str, float]:
        before = self._store()
        of_page: dict[str, list[float]] = {path: [] for path in self._paths}
        for _ in range(self._n_rounds):
            for path, times in of_page.items():
                times.append(self._client.ms(path))
        calls, total_s = (now - then for now, then in zip(self._store(), before, strict=True))
        every = [ms for times in of_page.values() for ms in times]
        return {
            "request_p50_ms": median(every),
            "request_p95_ms": p95(every),
            "slowest_page_p50_ms": max(median(times) for times in of_page.values()),
            "slowest_page_p95_ms": max(p95(times) for times in of_page.values()),
            "store_mean_ms": 1000 * total_s / calls,
        }

    def reference(self) -> Mapping[str, float]:
        times = [self._client.ms("/livez") for _ in range(self._n_rounds * len(self._paths))]
        return {"request_p50_ms": median(times), "request_p95_ms": p95(times)}

    def _store(self) -> tuple[float, float]:
        """Reads of the events since the start, and the seconds that they took."""
        totals = {"levibot_queries_total": 0.0, "levibot_query_seconds_total": 0.0}
        for family in text_string_to_metric_families(self._client.text("/metrics")):
            for sample in family.samples:
                labels = sample.labels
                is_read = labels.get("store") == "clickhouse" and labels["query"].startswith("read")
                if sample.name in totals and is_read:
                    totals[sample.name] += sample.value
        return totals["levibot_queries_total"], totals["levibot_query_seconds_total"]


def paths_of(table: EventTable) -> list[str]:
    """The pages that `benchmarks.events` asks the store for."""
    middle = table.event_at(table.n_rows // 2)
    after = {"after": EventCursor(middle.ts, middle.event_id).text()}
    since = {"since": (table.end - timedelta(days=1)).isoformat()}
    asked: list[dict[str, str]] = [
        {},
        {"event_type": "signal"},
        {"symbol": "BTCUSDT"},
        {"event_type": "drift", "symbol": "BTCUSDT"},
        {"event_type": "model_refused"},
        since,
        {**since, "event_type": "signal", "symbol": "ETHUSDT"},
        after,
        {**after, "event_type": "signal", "symbol": "BTCUSDT"},
    ]
    return ["/events?" + urlencode({"limit": 100, **one}) for one in asked]


def parts_of(table: EventTable) -> dict[str, int]:
    """How many parts each table has."""
    rows = table.client.query(
        "SELECT table, count() FROM system.parts WHERE active AND table LIKE 'events%' GROUP BY table"
    ).result_rows
    return dict(sorted(rows))


def main() -> None:
    given = arguments("GET /events with the whole system up, against GET /livez.")
    n_rows = QUICK_ROWS if given.quick else N_ROWS
    with tempfile.TemporaryDirectory(prefix="levibot-events-http-") as folder:
        home = Path(folder) / "home"
        table = EventTable(home / "clickhouse", n_rows, with_before=False, batch=BATCH)
        try:
            table.let_age()
            paths, parts = paths_of(table), parts_of(table)
        finally:
            table.close()
        with running_system(home) as system:
            pages = Pages(Client(system), paths, QUICK_ROUNDS if given.quick else N_ROUNDS)
            pages.ours()  # The caches of a system that has just begun are empty.
            result = compare(
                "events_http",
                pages.ours,
                pages.reference,
                what="GET /livez of the same system over the same connection",
                goal={"slowest_page_p50_ms": ("<=", 50.0)},
                repeats=QUICK_REPEATS if given.quick else REPEATS,
                packages=("chdb", "clickhouse-connect", "ray", "fastapi"),
                notes={"n_rows": n_rows, "batch": BATCH, "parts": parts, "measured_at": "an HTTP client"},
            )
    report(result, as_json=given.json)


if __name__ == "__main__":
    main()
