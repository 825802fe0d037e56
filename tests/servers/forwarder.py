"""Passes TCP connections on to a loopback port: `python -m tests.servers.forwarder HOST PORT TARGET_PORT`.

A process of its own, so that it can be killed: what is behind it lives on.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from levibot.stores.server_process import LOOPBACK


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    except OSError:
        pass  # the other side is gone, and so is this connection
    finally:
        target.close()


async def forward(host: str, port: int, target_port: int) -> None:
    """Serve until the process ends."""

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, there = await asyncio.open_connection(LOOPBACK, target_port)
        except OSError:
            writer.close()
            return
        with contextlib.suppress(OSError):
            await asyncio.gather(_pass_on(reader, there), _pass_on(back, writer))

    server = await asyncio.start_server(connect, host, port)
    print("ready", flush=True)  # noqa: T201 - read by the test
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(forward(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
