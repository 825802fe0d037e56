"""What the HTTP face depends on: each part, whether answers can do without it, and what they fall back to.

`/healthz` shows the state of each, `python -m levibot dependencies` draws them; there is no second list.
"""

from __future__ import annotations

from dataclasses import dataclass

from levibot.errors import UsageError

FACE = "api"


@dataclass(frozen=True, slots=True)
class Dependency:
    """One part. is_critical: without it no new signal comes to be, and what is there only grows old.

    gives: what it is asked for. fallback: what happens without it. falls_back_to: the dependencies that the
    fallback stands on, empty where it stands on nothing but this process. uses: what it depends on itself.
    """

    name: str
    title: str
    is_critical: bool
    gives: str
    fallback: str
    falls_back_to: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()


DEPENDENCIES = (
    Dependency(
        "router",
        "Router and models (Ray Serve)",
        True,
        "signals that are not in the cache",
        "the signal that was answered last, with its age, until it is too old to be used",
        uses=("redis_cache", "models"),
    ),
    Dependency(
        "online_features",
        "online_features (actor)",
        True,
        "the newest feature vectors",
        "the vectors in Redis, which grow visibly stale",
        ("redis_cache",),
        uses=("redis_cache", "postgres"),
    ),
    Dependency(
        "market_feed",
        "market_feed (actor)",
        True,
        "finished bars",
        "signals of the bars that there are, until they are too old to be used",
        uses=("postgres",),
    ),
    Dependency(
        "redis_cache",
        "Redis: features and signals",
        False,
        "the signal of the newest bar, feature vectors",
        "the router's own copy, then the signal that was answered last, with its age",
        ("router",),
    ),
    Dependency(
        "redis_durable",
        "Redis: limits, webhooks, idempotency",
        False,
        "counts of requests, the queue of webhooks",
        "each replica counts requests by itself; webhooks are refused, and their senders repeat them",
    ),
    Dependency(
        "postgres",
        "PostgreSQL",
        False,
        "the bars of a request",
        "the bars that were read last, with their age, and the reason",
    ),
    Dependency(
        "clickhouse",
        "ClickHouse",
        False,
        "the list of events",
        "events wait on disk; the list is an error that says so",
    ),
    Dependency(
        "event_log",
        "event_log (actor)",
        False,
        "writes and reads of events",
        "events become dead letters in Redis, then lines of the log",
        ("redis_durable",),
        uses=("clickhouse",),
    ),
    Dependency(
        "models",
        "Model registry",
        False,
        "the versions and which of them serves",
        "the list as it was read last, with when and why; the version that serves goes on",
    ),
)


def dot() -> str:
    """The dependencies in Graphviz' language: solid lines depend, dashed ones are fallbacks.

    Raises UsageError where a dependency names one that is not there.
    """
    names = {dependency.name for dependency in DEPENDENCIES}
    lines = [
        "digraph dependencies {",
        '  rankdir="LR"; node [shape="box", fontname="sans-serif", fontsize="11"];',
        '  edge [fontname="sans-serif", fontsize="9"];',
        f'  "{FACE}" [label="Api (HTTP face)", style="bold"];',
    ]
    for one in DEPENDENCIES:
        tier = "critical" if one.is_critical else "not critical"
        colour = "#b00020" if one.is_critical else "#555555"
        label = f"{one.title}\\n{tier}\\nwithout it: {_wrapped(one.fallback)}"
        lines.append(f'  "{one.name}" [label="{label}", color="{colour}"];')
    for one in DEPENDENCIES:
        lines.append(f'  "{FACE}" -> "{one.name}" [label="{_wrapped(one.gives)}"];')
        for other in (*one.uses, *one.falls_back_to):
            if other not in names:
                raise UsageError(f"{one.name} names {other}, which is no dependency.")
        lines += [f'  "{one.name}" -> "{other}";' for other in one.uses]
        lines += [
            f'  "{one.name}" -> "{other}" [style="dashed", label="fallback"];' for other in one.falls_back_to
        ]
    return "\n".join([*lines, "}", ""])


def _wrapped(text: str, width: int = 34) -> str:
    rows = [""]
    for word in text.split():
        if rows[-1] and len(rows[-1]) + 1 + len(word) > width:
            rows.append(word)
        else:
            rows[-1] = f"{rows[-1]} {word}".strip()
    return "\\n".join(rows)
