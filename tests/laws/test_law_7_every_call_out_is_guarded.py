"""Law 7: every call that leaves the process has a time-out, a retry, a circuit breaker and a named fallback.

The check reads the source of every package for the ways out of a process: clients of stores and sources,
whoever opens one, and calls of Ray's actors. It holds them against `levibot/resilience/calls_out.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from levibot.resilience.calls_out import BOUNDARIES, CALLS, UNGUARDED, CallOut

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("levibot", "actors", "deployments", "tune", "rl")
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}

# Libraries that speak to somebody else. `urllib.parse` and the like do not.
LIBRARIES = {
    *("aiohttp", "asyncpg", "boto3", "ccxt", "clickhouse_connect", "ftplib", "grpc", "http.client", "httpx"),
    *("obstore", "openai", "psycopg", "redis", "requests", "smtplib", "socket", "urllib.request", "urllib3"),
    *("adbc_driver_postgresql", "s3fs", "websocket", "websockets"),
    # Ours: it stands before ccxt, and no guard before it.
    "levibot.market.exchange_wire",
}
# Exceptions and types of a library lead nowhere.
HARMLESS = {"redis.exceptions", "redis.backoff", "redis.retry", "redis.asyncio.retry"}
OPENERS = {
    *("open_redis", "open_durable", "open_volatile", "open_ticks", "open_online", "open_events"),
    *("open_source", "open_connection"),
}
RAY_CALLS = {("ray", "get"), ("ray", "wait")}
# What every client is given when it is made: any one of these words.
TIMEOUTS: Mapping[str, frozenset[str]] = {
    "WaitingPool.from_url": frozenset({"socket_timeout"}),
    "asyncpg.create_pool": frozenset({"timeout"}),
    "asyncpg.connect": frozenset({"timeout"}),
    "clickhouse_connect.get_client": frozenset({"send_receive_timeout"}),
    **{f"httpx.{verb}": frozenset({"timeout"}) for verb in ("get", "post", "put", "Client", "AsyncClient")},
}
# A way out that is closed again says nothing to anybody.
CLOSING = {"close", "aclose", "terminate"}


def violations(module: str, source: str, calls: tuple[CallOut, ...] = CALLS) -> list[str]:
    """Every way out of the process that the law does not know of, one sentence each."""
    tree = ast.parse(source)
    return [
        *_imports(module, tree),
        *_openings(module, tree, calls),
        *_remote_calls(module, tree, calls),
        *_way_round_a_guard(module, tree, calls),
        *_without_timeout(tree),
        *_guards(module, tree, calls),
    ]


def _imports(module: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            library = next((one for one in LIBRARIES if name == one or name.startswith(one + ".")), None)
            if library is None or any(name == one or name.startswith(one + ".") for one in HARMLESS):
                continue
            if (
                isinstance(node, ast.ImportFrom)
                and name == node.module
                and name in {"redis", "redis.asyncio"}
            ):
                continue  # what is imported from it decides
            if module not in BOUNDARIES.get(library, frozenset()):
                yield f"line {node.lineno}: imports {name}, and is no boundary of {library}"


def _openings(module: str, tree: ast.AST, calls: tuple[CallOut, ...]) -> Iterator[str]:
    if module in UNGUARDED or any(call.module == module for call in calls):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _last(node.func) in OPENERS:
            yield f"line {node.lineno}: {_last(node.func)}, and no guard in the table"


def _remote_calls(module: str, tree: ast.AST, calls: tuple[CallOut, ...]) -> Iterator[str]:
    led_through = {name for call in calls if call.module == module for name in call.through}
    for node, function in _with_functions(tree):
        is_remote = isinstance(node, ast.Call) and (
            _last(node.func) == "remote" or _dotted(node.func) in {".".join(call) for call in RAY_CALLS}
        )
        # `@ray.remote` and `ray.remote(Actor)` make a class into an actor: they call nobody.
        if not is_remote or (isinstance(node, ast.Call) and _dotted(node.func) == "ray.remote"):
            continue
        if {module, f"{module}:{function}"} & UNGUARDED.keys() or function in led_through:
            continue
        yield f"line {node.lineno}: calls an actor in {function or 'the module'}, and no guard leads there"


def _way_round_a_guard(module: str, tree: ast.AST, calls: tuple[CallOut, ...]) -> Iterator[str]:
    """What leads out is handed to a guard: calling it, or a method of it, goes round the guard."""
    led_through = {name for call in calls if call.module == module for name in call.through}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = _last(node.func)
        owner = _last(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        # Calls of actors have their own check.
        if called in led_through or (owner in led_through and called not in {*CLOSING, "remote"}):
            yield f"line {node.lineno}: calls {owner + '.' if owner else ''}{called} round its guard"


def _without_timeout(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        words = next((words for name, words in TIMEOUTS.items() if _dotted(node.func).endswith(name)), None)
        given = {keyword.arg for keyword in node.keywords}
        values = [keyword.value for keyword in node.keywords if words and keyword.arg in words]
        is_in_process = any(
            keyword.arg == "interface"
            and isinstance(keyword.value, ast.Constant)
            and keyword.value.value == "chdb"
            for keyword in node.keywords
        )
        if words is None or is_in_process:
            continue
        is_for_ever = any(isinstance(value, ast.Constant) and value.value is None for value in values)
        if not words & given or is_for_ever:
            yield f"line {node.lineno}: {_dotted(node.func)} without {' or '.join(sorted(words))}"


def _guards(module: str, tree: ast.AST, calls: tuple[CallOut, ...]) -> Iterator[str]:
    """As many guards as the table says, each with its time-out; and each fallback is there."""
    if module == "levibot/resilience/guard.py":
        return
    made = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and _last(n.func) == "Guard"]
    listed = [call for call in calls if call.module == module]
    if len(made) != len(listed):
        yield f"makes {len(made)} guards, and the table has {len(listed)}"
    functions = _defined(tree)
    for node in made:
        if not {"timeout_s", "transient"} <= {keyword.arg for keyword in node.keywords}:
            yield f"line {node.lineno}: a guard without timeout_s and transient"
    for call in listed:
        elsewhere, _, name = call.fallback_in.rpartition(":")
        if not call.fallback or name not in (_functions(elsewhere) if elsewhere else functions):
            yield f"{call.place}: there is no {call.fallback_in} to hold its fallback"
        if not _handed(ast.parse(SOURCES[call.called_in]) if call.called_in else tree) & set(call.through):
            yield f"{call.place}: nothing of {', '.join(call.through)} is handed to a guard"


def _handed(tree: ast.AST) -> set[str]:
    """What is handed to a guard: the names in the first argument, and in that of `to_thread`."""
    handed: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _last(node.func) == "call" and node.args:
            in_thread = _last(node.args[0]) == "to_thread"
            for argument in node.args[: 2 if in_thread else 1]:
                handed |= _names(argument)
    return handed


def _functions(module: str) -> set[str]:
    return _defined(ast.parse(SOURCES.get(module, "")))


def _defined(tree: ast.AST) -> set[str]:
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def _with_functions(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Each node with the name of the innermost function around it, empty outside of all."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr | ast.stmt):
                yield child, function
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from walk(child, child.name if is_function else function)

    return walk(tree, "")


def _names(node: ast.expr) -> set[str]:
    """The parts of `self._online.read`."""
    return set(_dotted(node).split("."))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return _dotted(node.func)
    return node.id if isinstance(node, ast.Name) else ""


def _last(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def test_every_package_is_looked_at() -> None:
    assert {"levibot", "actors", "deployments", "tune", "rl"} <= {module.split("/")[0] for module in SOURCES}
    assert len(SOURCES) > 80


@pytest.mark.parametrize("module", SOURCES)
def test_every_way_out_is_guarded(module: str) -> None:
    assert violations(module, SOURCES[module]) == []


def test_the_table_names_what_exists() -> None:
    listed = {call.module for call in CALLS} | {name.partition(":")[0] for name in UNGUARDED}
    listed |= {module for modules in BOUNDARIES.values() for module in modules}
    assert sorted(listed - SOURCES.keys()) == []
    assert all(reason for reason in UNGUARDED.values())


def test_no_boundary_is_left_open_for_later() -> None:
    """A module that no longer holds a client must not keep its leave to hold one."""
    for library, modules in BOUNDARIES.items():
        for module in modules:
            assert f"import {library}" in SOURCES[module] or f"from {library}" in SOURCES[module], module


GUARDED = CallOut("actors/x.py", "the store", ("_store",), "the last value", "_last")
MADE = """
class X:
    def __init__(self):
        self._guard = Guard("x", timeout_s=1.0, transient=())
    async def read(self):
        return await self._guard.call(self._store.read, 1)
    def _last(self): ...
"""


@pytest.mark.parametrize(
    ("module", "slip"),
    [
        ("actors/x.py", "import httpx"),
        ("levibot/trading/x.py", "from redis.asyncio import Redis"),
        ("levibot/trading/x.py", "import redis"),
        ("levibot/trading/x.py", "def load():\n    import ccxt"),
        ("levibot/trading/x.py", "from urllib.request import urlopen"),
        ("levibot/trading/x.py", "import urllib.request"),
        ("levibot/trading/x.py", "import http.client"),
        ("levibot/trading/x.py", "from asyncpg import connect"),
        ("tune/x.py", "import socket"),
        ("deployments/x.py", "client = open_redis(url, timeout_s=1.0)"),
        ("deployments/x.py", "client = open_durable(settings)"),
        ("actors/x.py", "client = connect.open_volatile(settings)"),
        ("deployments/x.py", "async def f():\n    await connect.open_ticks(settings)"),
        (
            "deployments/x.py",
            "class X:\n    async def f(self):\n        return await self._model.f.remote(1)",
        ),
        ("actors/x.py", "ray.get(ray.get_actor('feed').status.remote())"),
        ("actors/online_features.py", "def other():\n    ray.get_actor('x').f.remote()"),
        ("levibot/serving/client.py", "import httpx\nhttpx.get(url)"),
        ("levibot/serving/client.py", "import httpx\nhttpx.AsyncClient(timeout=None)"),
        ("levibot/market/dex.py", "from levibot.market.exchange_wire import open_wire"),
        ("levibot/market/exchange.py", "def load():\n    import ccxt.pro"),
        ("levibot/stores/postgres_pool.py", "asyncpg.create_pool(dsn)"),
        ("levibot/stores/clickhouse.py", "clickhouse_connect.get_client(dsn=dsn, interface='http')"),
        ("levibot/stores/redis.py", "WaitingPool.from_url(url, max_connections=3)"),
        ("deployments/x.py", "self._guard = Guard('x', timeout_s=1.0, transient=())"),
    ],
)
def test_the_check_finds_a_planted_way_out(module: str, slip: str) -> None:
    assert violations(module, slip) != []


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("self._guard.call(self._store.read, 1)", "self._store.read(1)"),
        ("timeout_s=1.0, ", ""),
        ("def _last(self): ...", ""),
        ("self._guard.call(self._store.read, 1)", "self._guard.call(self._other.read, 1)"),
        ('Guard("x", timeout_s=1.0, transient=())', "None"),
    ],
)
def test_the_check_finds_a_way_round_a_guard(good: str, bad: str) -> None:
    assert violations("actors/x.py", MADE, (GUARDED,)) == []
    assert violations("actors/x.py", MADE.replace(good, bad), (GUARDED,)) != []


@pytest.mark.parametrize(
    ("module", "fine"),
    [
        ("levibot/trading/x.py", "from urllib.parse import urlsplit"),
        ("levibot/trading/x.py", "from redis.exceptions import RedisError"),
        ("levibot/trading/x.py", "import asyncio, http, json"),
        ("tune/x.py", "@ray.remote(num_cpus=1)\ndef fit(): ..."),
        ("levibot/stores/clickhouse.py", "clickhouse_connect.get_client(interface='chdb', path=path)"),
        ("levibot/serving/client.py", "import httpx\nhttpx.get(url, timeout=2.0)"),
    ],
)
def test_the_check_leaves_the_rest_alone(module: str, fine: str) -> None:
    assert [v for v in violations(module, fine, ()) if "the table has" not in v] == []
