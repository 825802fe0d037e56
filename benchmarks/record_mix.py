"""Records what clients ask of a running system: `python -m benchmarks.record_mix` writes the two mixes here.

The system is the whole one: `levibot up` on a simulated market of 16 symbols, a bar every 20 s. Its clients
are of this file and do what real ones do: dashboards and a wall that poll, bots that follow one symbol or a
few, a reader of the event log, a scraper of metrics. So the times, the bars that change in between, and what
a request costs the server are a system's own. Who asks for which symbol is drawn from a seeded Zipf law,
since it has no users.

`request_mix.csv`: of each prediction that was answered the milliseconds since the first, the number of the
symbol and of the bar. `redis_mix.csv.gz`: of each key that the server was asked for (MONITOR) the
milliseconds, `r` or `w`, the family, and the symbol's number. No value, address or caller is kept.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from redis import Redis
from redis.exceptions import RedisError

from benchmarks.running_system import RunningSystem, running_system
from levibot.settings import Settings
from levibot.stores.embedded import endpoints

REQUESTS = Path(__file__).with_name("request_mix.csv")
COMMANDS = Path(__file__).with_name("redis_mix.csv.gz")
SYMBOLS = [f"S{number}USDT" for number in range(16)]
SECONDS, BAR_S, ZIPF, SEED = 180.0, 20.0, 1.1, 7
N_BOTS, N_DASHBOARDS, SHOWN = 10, 2, 10
FAMILIES = {
    ":signal": "signal",
    ":features": "features",
    ":features:vector": "vector",
    ":features:window": "window",
}
READS = frozenset({"GET", "MGET", "HGETALL", "HMGET", "HGET"})
WRITES = frozenset({"SET", "HSET", "HSETEX", "SETEX", "PSETEX", "MSET"})
_KEY = re.compile(r"S(\d+)USDT(:\S+)")


class Recorder:
    """What was asked. State: both mixes, as they come in."""

    def __init__(self) -> None:
        self.started = time.time()
        self.requests: list[tuple[int, int, datetime]] = []
        self.commands: list[tuple[int, str, str, int]] = []
        self.n_refused = 0

    def request(self, number: int, as_of: datetime) -> None:
        self.requests.append((round(1000 * (time.time() - self.started)), number, as_of))

    def command(self, at: float, text: str) -> None:
        """One line of MONITOR: each of its keys, where it reads or writes any that a symbol owns."""
        name, _, rest = text.partition(" ")
        kind = "r" if name.upper() in READS else "w" if name.upper() in WRITES else ""
        if not kind:
            return
        # The value of a write may look like a key.
        words = rest.split(" ")[: 1 if kind == "w" else None]
        for word in words:
            if (found := _KEY.fullmatch(word.strip('"'))) and found[2] in FAMILIES:
                self.commands.append(
                    (round(1000 * (at - self.started)), kind, FAMILIES[found[2]], int(found[1]))
                )


class Clients:
    """Everybody who asks, for one event loop."""

    def __init__(self, system: RunningSystem, recorder: Recorder) -> None:
        self._http = httpx.AsyncClient(base_url=system.url, headers=system.headers, timeout=30.0)
        self._recorder = recorder
        self._rng = np.random.default_rng(SEED)
        weights = 1.0 / np.arange(1, len(SYMBOLS) + 1) ** ZIPF
        self._weights = weights / weights.sum()

    async def run(self, seconds: float) -> None:
        """Ask for so long."""
        everybody = [self._bot(self._favourites(1 + k % 3)) for k in range(N_BOTS)]
        everybody += [self._dashboard(self._favourites(SHOWN)) for _ in range(N_DASHBOARDS)]
        everybody += [self._wall(), self._reader(), self._scraper()]
        tasks = [asyncio.create_task(one) for one in everybody]
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()
        for task in done:
            task.result()

    def _favourites(self, n: int) -> list[int]:
        return [int(k) for k in self._rng.choice(len(SYMBOLS), n, replace=False, p=self._weights)]

    async def _bot(self, numbers: list[int]) -> None:
        """Asks for each of its symbols every second or two."""
        while True:
            await asyncio.sleep(self._rng.uniform(1.0, 2.0))
            for number in numbers:
                await self._predict(number)

    async def _dashboard(self, numbers: list[int]) -> None:
        """A page that shows some symbols and the newest events, and renews itself."""
        while True:
            await asyncio.sleep(self._rng.uniform(4.5, 5.5))
            await asyncio.gather(*(self._predict(number) for number in numbers))
            await self._get("/readyz")
            await self._get("/events?limit=100")

    async def _wall(self) -> None:
        """All symbols, four times a minute."""
        while True:
            for number in range(len(SYMBOLS)):
                await self._predict(number)
            await asyncio.sleep(15.0)

    async def _reader(self) -> None:
        """Pages through the signals of a symbol."""
        while True:
            await asyncio.sleep(self._rng.uniform(8.0, 12.0))
            symbol = SYMBOLS[self._favourites(1)[0]]
            path: str | None = f"/events?event_type=signal&symbol={symbol}"
            for _ in range(3):
                if path is None:
                    break
                page = await self._get(path)
                after = page["next_cursor"] if page else None
                path = after and f"/events?event_type=signal&symbol={symbol}&after={after}"

    async def _scraper(self) -> None:
        while True:
            await asyncio.sleep(15.0)
            (await self._http.get("/metrics")).raise_for_status()

    async def _predict(self, number: int) -> None:
        answer = await self._http.post("/ai/predict", json={"symbol": SYMBOLS[number]})
        if answer.status_code == 200:
            self._recorder.request(number, datetime.fromisoformat(answer.json()["as_of"]))
        else:
            self._recorder.n_refused += 1

    async def _get(self, path: str) -> Any:
        answer = await self._http.get(path)
        if answer.status_code != 200:
            self._recorder.n_refused += 1
            return None
        return answer.json()


def monitor(url: str, recorder: Recorder, stop: threading.Event) -> None:
    """Note what the server is asked, until told to stop."""
    with Redis.from_url(url, socket_timeout=1.0) as client, client.monitor() as listening:
        while not stop.is_set():
            try:
                said = listening.next_command()
            except (RedisError, TimeoutError):
                continue  # Nobody asked for a second.
            recorder.command(float(said["time"]), said["command"])


def write_mixes(recorder: Recorder) -> None:
    """Both files, oldest first. Bars are numbered from the first that was seen of any symbol."""
    bars = {
        as_of: number for number, as_of in enumerate(sorted({as_of for _, _, as_of in recorder.requests}))
    }
    requests = sorted((ms, number, bars[as_of]) for ms, number, as_of in recorder.requests)
    first = requests[0][0]
    with REQUESTS.open("w", newline="") as file:
        _write(file, ((ms - first, number, bar) for ms, number, bar in requests))
    # mtime: the same mix is the same file.
    with COMMANDS.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed:
        text = "".join(
            f"{ms},{kind},{family},{number}\n" for ms, kind, family, number in sorted(recorder.commands)
        )
        packed.write(text.encode())


def _write(file: Any, rows: Iterable[tuple[object, ...]]) -> None:
    csv.writer(file, lineterminator="\n").writerows(rows)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="levibot-mix-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        market = {"LEVIBOT_SYMBOLS": ",".join(SYMBOLS), "LEVIBOT_REPLAY_SPEED": str(1.0 / BAR_S)}
        with running_system(home, **market) as system:
            recorder, stop = Recorder(), threading.Event()
            redis_url = endpoints(Settings.load(home=home)).redis_cache_url
            watching = threading.Thread(target=monitor, args=(redis_url, recorder, stop))
            watching.start()
            try:
                asyncio.run(Clients(system, recorder).run(SECONDS))
            finally:
                stop.set()
                watching.join()
    write_mixes(recorder)
    sys.stdout.write(
        f"{len(recorder.requests)} predictions, {len(recorder.commands)} keys, {recorder.n_refused} refused\n"
    )


if __name__ == "__main__":
    main()
