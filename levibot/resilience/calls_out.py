"""Every call that leaves a process: through which guard it goes, and what is done when it fails.

Time-out, retry and circuit are the guard's (`levibot/resilience/guard.py`); how many attempts, and how long,
is said where the guard is made. This table says what no code says by itself: which way out a guard stands
before, and where its fallback is. Law 7's test holds it against the source of every package, both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallOut:
    """One guard. module: where it is made. place: what it guards.

    through: names of functions and objects that lead out of the process; in this module they are handed to a
    guard and never called. fallback: what happens without an answer. fallback_in: the function that does it.
    """

    module: str
    place: str
    through: tuple[str, ...]
    fallback: str
    fallback_in: str


CALLS = (
    CallOut(
        "actors/dead_letter_replayer.py",
        "Redis: the dead letters",
        ("_replay",),
        "the letters stay where they are, and are looked at again",
        "_run",
    ),
    CallOut(
        "actors/event_letters.py",
        "Redis: keeping lost events",
        ("_send",),
        "the JSON log line, by the client of the event log",
        "keeper",
    ),
    CallOut(
        "actors/event_letters.py",
        "the event log, once more",
        ("append", "append_to_log"),
        "the letter stays in its queue, and waits longer",
        "appender",
    ),
    CallOut(
        "actors/event_log.py",
        "the event log's actor",
        ("_send",),
        "the events become dead letters; where that fails too, a line in the log",
        "append",
    ),
    CallOut(
        "actors/market_feed.py",
        "the market's source and the tick store",
        ("ingest",),
        "the feed waits, and reads what it missed from the source",
        "_run",
    ),
    CallOut(
        "actors/online_features.py",
        "the tick store and Redis",
        ("materialiser",),
        "the features wait, and grow visibly stale meanwhile",
        "_run",
    ),
    CallOut(
        "deployments/api.py",
        "Redis: signals and features",
        ("_online",),
        "the router, then what was answered last, with its age",
        "_find",
    ),
    CallOut(
        "deployments/api.py",
        "the router's replica",
        ("_remote_signal",),
        "what was answered last, with its age",
        "_route",
    ),
    CallOut(
        "deployments/router.py",
        "the model's replica",
        ("_remote_signals",),
        "the desk's last signals, with their age",
        "signal",
    ),
    CallOut(
        "levibot/serving/desk.py",
        "Redis: windows and signals",
        ("_online",),
        "the last signals, which the caller takes from here",
        "last",
    ),
    CallOut(
        "levibot/stores/cache.py",
        "Redis: the cache's second tier",
        ("_get", "_set", "_forget_in_redis"),
        "the loader",
        "_look_further",
    ),
)

# The modules that may hold a client of each library; all other modules go through them.
BOUNDARIES: Mapping[str, frozenset[str]] = {
    "asyncpg": frozenset({"levibot/stores/postgres_client.py"}),
    "ccxt": frozenset({"levibot/market/exchange.py"}),
    "clickhouse_connect": frozenset({"levibot/stores/events.py"}),
    "httpx": frozenset(
        {"levibot/launch/ray_head.py", "levibot/launch/up.py", "levibot/serving/client.py"},
    ),
    "redis": frozenset(
        {
            "levibot/resilience/circuit_board.py",
            "levibot/resilience/dead_letters.py",
            "levibot/resilience/idempotency.py",
            "levibot/stores/cache.py",
            "levibot/stores/online.py",
            "levibot/stores/redis.py",
            "levibot/stores/valkey_server.py",
        }
    ),
    "socket": frozenset({"levibot/stores/server_process.py"}),
}

# Who opens a store or calls an actor without a guard, and why that is right: `module` or `module:function`.
UNGUARDED: Mapping[str, str] = {
    "actors/detached.py:start_detached": "starts an actor; the deployment fails as a whole and says so",
    "actors/event_log.py": "the owner of the engine: each caller has its own guard",
    "actors/online_features.py:poke": "nobody waits for it; the actor looks by itself every second",
    "levibot/commands/backtest.py": "an operator waits, and the error is the answer",
    "levibot/commands/dead_letters.py": "an operator waits, and the error is the answer",
    "levibot/commands/market.py": "an operator waits, and the error is the answer",
    "levibot/launch/up.py": "an operator waits; a start that fails ends what it has begun, and says why",
    "levibot/stores/connect.py": "opens for others, who guard their calls",
    "levibot/stores/online.py": "opens for others, who guard their calls",
    "tune/train.py": "a job: Ray repeats its task; one that fails publishes nothing",
}
