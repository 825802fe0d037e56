"""What a symbol may look like. One spelling everywhere: base and quote joined, in capitals, like BTCUSDT."""

from __future__ import annotations

import re

PATTERN = "^[A-Z0-9]{2,20}$"

_SYMBOL = re.compile(PATTERN)


def parse_symbols(text: str) -> tuple[str, ...]:
    """The symbols of a comma-separated list, in its order and in capitals."""
    return tuple(symbol.strip().upper() for symbol in text.split(",") if symbol.strip())


def check_symbols(symbols: tuple[str, ...]) -> tuple[str, ...]:
    """The symbols as they are. Raises ValueError naming the first that is none, or that is named twice."""
    for symbol in symbols:
        if not _SYMBOL.fullmatch(symbol):
            raise ValueError(f"{symbol!r} is no symbol: 2 to 20 letters and digits, like BTCUSDT")
    twice = {symbol for symbol in symbols if symbols.count(symbol) > 1}
    if twice:
        raise ValueError(f"{min(twice)} is named twice")
    return symbols
