"""One websocket connection to an exchange's trades, over ccxt; it ends at the first fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from levibot.errors import SourceError, SourceUnavailable, UsageError
from levibot.market.exchange_answers import ticks_of
from levibot.market.exchange_wire import network_error, translated
from levibot.market.ticks import Ticks


class TradeStream:
    """The trades of some symbols as they happen, for one event loop. State: what has come and is not taken.

    What comes waits in ccxt's memory, a bounded number of trades a symbol; the oldest give way to the newest.
    A stream that raised is over: close it and open another. pairs: ccxt's name of each symbol.
    """

    def __init__(self, wire: Any, exchange_id: str, pairs: Mapping[str, str]) -> None:
        if not wire.has.get("watchTradesForSymbols"):
            raise UsageError(
                f"There is no stream of trades of the exchange {exchange_id}.",
                hint="Set LEVIBOT_TRADES=false.",
            )
        self._wire = wire
        self._exchange_id = exchange_id
        self._pairs = dict(pairs)
        self._connection: Any = None
        wire.client = self._watched(wire.client)

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return bool(self._connection is not None and self._connection.isConnected and not self._has_ended())

    def take(self) -> dict[str, Ticks]:
        """The trades that came since the last call, in the order of their ids; symbols without any left out.

        Raises SourceError when one of them is no trade.
        """
        taken = {}
        for symbol, pair in self._pairs.items():
            waiting = self._wire.trades.get(pair)
            if waiting is not None and len(waiting):
                rows = list(waiting)
                waiting.clear()
                with translated(self._exchange_id, symbol):
                    taken[symbol] = ticks_of(symbol, rows)
        return taken

    async def wait(self) -> None:
        """Return when a trade has come. Call `take` before: what has come already does not count.

        Raises SourceUnavailable when the connection is lost or cannot be made, and SourceError when a message
        cannot be read or the exchange refuses the subscription.
        """
        if self._has_ended():
            raise SourceUnavailable(f"The exchange {self._exchange_id} has closed the stream of trades.")
        with translated(self._exchange_id, "the stream of trades"):
            # Aggregate trades: their ids are those of `trades_from`, so that the two can be joined.
            await self._wire.watch_trades_for_symbols(
                list(self._pairs.values()), None, None, {"name": "aggTrade"}
            )

    async def close(self) -> None:
        """Close the connection."""
        await self._wire.close()

    def _has_ended(self) -> bool:
        # ccxt forgets a connection that is over, and would silently make a new one.
        return self._connection is not None and self._connection not in (self._wire.clients or {}).values()

    def _watched(self, client_of: Callable[[str], Any]) -> Callable[[str], Any]:
        """ccxt's maker of connections, whose reader dies in silence of a message that it cannot read."""

        def watched_client(url: str) -> Any:
            connection = client_of(url)
            if connection is not self._connection:
                self._connection = connection
                connection.handle_message = self._checked(connection, connection.handle_message)
            return connection

        return watched_client

    def _checked(self, connection: Any, handle: Callable[[Any], None]) -> Callable[[Any], None]:
        def handle_message(message: Any) -> None:
            try:
                with translated(self._exchange_id, "the stream of trades"):
                    handle(message)
            except SourceError as exc:
                connection.on_error(network_error(f"a message cannot be read: {exc.message}"))

        return handle_message
