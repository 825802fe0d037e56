"""ClickHouse's HTTP interface before the real engine: `clickhouse_server.py FOLDER [PORT]` prints its port.

Speaks as much of the protocol as clickhouse-connect needs: queries in the body, bound `param_*` values in the
URL, inserts as lz4-compressed Native blocks, errors with their code in a header. Settings are left aside.
"""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame

# lz4 is what the client packs its inserts with.
DECOMPRESS = {None: bytes, "lz4": lz4.frame.decompress}
INSERT = re.compile(rb"\s*(INSERT INTO .*?)\s+FORMAT Native\n", re.DOTALL)
CODE = re.compile(r"Code: (\d+)")
# The engine's session is one, and a client that keeps its connection must not shut the others out.
ONE_AT_A_TIME = threading.Lock()


class Front(BaseHTTPRequestHandler):
    """One request, one statement."""

    protocol_version = "HTTP/1.1"
    engine: chdb.session.Session

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        values = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        encoding = self.headers.get("Content-Encoding")
        body = DECOMPRESS[encoding](self._body())
        parameters = {k.removeprefix("param_"): v for k, v in values.items() if k.startswith("param_")}
        try:
            with ONE_AT_A_TIME:
                answer = self._run(values.get("query", "").encode() + body, parameters)
        except RuntimeError as exc:
            code = CODE.search(str(exc))
            self._answer(500, str(exc).encode(), {"X-ClickHouse-Exception-Code": code[1] if code else "0"})
        else:
            self._answer(200, answer, {})

    def _run(self, statement: bytes, parameters: dict[str, str]) -> bytes:
        insert = INSERT.match(statement)
        if insert is None:
            return bytes(self.engine.query(statement.decode(), "TabSeparated", params=parameters).bytes())
        with _file(statement[insert.end() :]) as path:
            self.engine.query(f"{insert[1].decode()} FROM INFILE '{path}' FORMAT Native")
        return b""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: stdout carries the port."""


@contextmanager
def _file(content: bytes) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(suffix=".native") as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    Front.engine = chdb.session.Session(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0), Front)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    finally:
        # In order: what runs is ended first, and nothing begins after it.
        ONE_AT_A_TIME.acquire()
        Front.engine.close()
