"""moto's S3, one request at a time: `python -m tests.servers.s3_app HOST PORT`.

moto checks the condition of a conditional put and stores the object in two steps, with nothing to hold off
another thread between them: two puts with `If-None-Match: *` have both been answered with success. A real S3
lets one of them win, and so does this one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import run_simple


class OneAtATime:
    """Passes requests on one after the other, each with its whole answer."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            return list(self._app(environ, start_response))


if __name__ == "__main__":
    run_simple(sys.argv[1], int(sys.argv[2]), OneAtATime(), threaded=True, request_handler=MotoRequestHandler)
