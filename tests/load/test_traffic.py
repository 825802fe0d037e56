"""The users of a load run against the routes themselves, over a fake of what is behind them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from deployments.http import build_http
from deployments.model_routes import ModelsFace
from deployments.models import Activated, ModelList
from levibot.serving.answer import Answer
from tests.fakes.face import NOON, FakeFace
from tests.load.traffic import Traffic


class OneModel:
    """A registry whose only version serves."""

    async def list(self) -> ModelList:
        return ModelList((), "v1.0.0", "0" * 64, (), NOON)

    async def card(self, version: str) -> str:
        raise NotImplementedError

    async def activate(self, version: str, reason: str, instead_of: str | None) -> Activated:
        raise NotImplementedError


class NotingFace(FakeFace):
    """Notes when it was asked for BTCUSDT, in seconds of the monotonic clock."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.asked_at: list[float] = []

    async def predict(self, symbol: str, version: str | None = None, key_id: str = "") -> Answer:
        if symbol == "BTCUSDT":
            self.asked_at.append(time.monotonic())
        return await super().predict(symbol, version, key_id)


@pytest.fixture
def face(tmp_path: Path) -> NotingFace:
    return NotingFace(tmp_path)


@pytest.fixture
def url_and_key(face: NotingFace, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The routes behind a real socket, and the file of a key that they take."""
    models: ModelsFace = OneModel()
    face.models = models
    key_file = tmp_path / "key"
    key_file.write_text(face.reader)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(build_http(face), log_level="error"))
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        serving.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", key_file
        server.should_exit = True
        serving.join()


def test_every_route_is_asked_and_what_is_not_right_has_failed(
    url_and_key: tuple[str, Path], face: NotingFace
) -> None:
    url, key_file = url_and_key
    # At once: most of their time goes into starting.
    with ThreadPoolExecutor() as both:
        running = [
            both.submit(Traffic(url, key_file, (s,), "").run, 60, 6, "hot") for s in ("BTCUSDT", "ETHUSDT")
        ]
        right, wrong = (run.result() for run in running)

    assert right.failed == 0
    assert set(right.by_route) == {
        "POST /ai/predict",
        "POST /ai/predict/batch",
        "GET /features/{symbol}",
        "GET /events",
        "GET /ai/models/list",
    }
    assert right.latencies.n == right.requests > 0
    asks_symbol = ("POST /ai/predict", "POST /ai/predict/batch", "GET /features/{symbol}")
    assert wrong.failed == sum(wrong.by_route[route].n for route in asks_symbol if route in wrong.by_route)
    assert wrong.failed > 0

    # Users who all ask at the same moment of a second would meet in a twentieth of it.
    at_s = np.sort(face.asked_at)
    in_a_twentieth = np.searchsorted(at_s, at_s + 0.05) - np.arange(len(at_s))
    assert in_a_twentieth.max() < 30
