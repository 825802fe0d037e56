"""Law 7, for data from outside: one module opens each kind of connection, and its users are guarded."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("levibot", "actors", "deployments", "tune")
# The libraries that reach out, and the modules of `levibot/market/` that may import them.
DOORS = {
    "ccxt": {"levibot/market/exchange_wire.py"},
    "aiohttp": {"levibot/market/exchange_wire.py"},
    "httpx": {"levibot/market/http_client.py"},
    "requests": set[str](),
    "websockets": set[str](),
}
# Only these may use the unguarded exchange.
WIRE_USERS = {"levibot/market/exchange_client.py", "levibot/market/trade_stream.py"}


def imports_of(source: str) -> set[str]:
    """The modules that a source imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def users_of(module: str) -> set[str]:
    users = set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if any(name == module or name.startswith(module + ".") for name in imports_of(path.read_text())):
                users.add(path.relative_to(ROOT).as_posix())
    return users


@pytest.mark.parametrize("library", DOORS)
def test_a_connection_is_opened_in_one_place(library: str) -> None:
    users = users_of(library)
    # Other rooms talk by HTTP to LeviBot's own processes, but to no exchange.
    assert {user for user in users if user.startswith("levibot/market/")} == DOORS[library]
    assert library != "ccxt" or users == DOORS[library]


def test_the_unguarded_exchange_has_no_other_user() -> None:
    assert users_of("levibot.market.exchange_wire") - {"levibot/market/exchange_wire.py"} == WIRE_USERS


@pytest.mark.parametrize(
    "source",
    [
        "import ccxt",
        "import ccxt.pro as exchange",
        "from ccxt import binance",
        "def f():\n    import ccxt.async_support",
        "if True:\n    from ccxt.pro import kraken as k",
    ],
)
def test_a_second_door_would_be_found(source: str) -> None:
    assert any(name.split(".")[0] == "ccxt" for name in imports_of(source))
