"""One fault under writers: start them, break the store, mend it, compare it with what was acknowledged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from tests.faults.subject import Item

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0
# Longer than the time-out of a call.
AWAY_S = 2.0


@dataclass(frozen=True, slots=True)
class Observed:
    """What one drill showed.

    lost: acknowledged, not stored. duplicates: stored more than once. recovered_s: from the store's return to
    the first acknowledgement of the last stream to get one, and to the drill's own sign of it. grown_mb:
    resident memory of the writer that grew most, at its highest, less what it had before the fault; None
    where no writer lived through it. acknowledged_away: while the store was away. refused: at any time.
    """

    acknowledged: int
    lost: int
    duplicates: int
    recovered_s: float
    grown_mb: float | None
    acknowledged_away: int
    refused: int


@dataclass
class Writer:
    """A worker process that writes, and what it has said so far: instants of acknowledgement by item."""

    process: subprocess.Popen[str]
    streams: range
    acks: dict[Item, float] = field(default_factory=dict)
    n_refused: int = 0

    def follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.endswith("\n"):
                return  # killed in the middle of saying it: nobody has heard this one
            word, stream, number, instant = line.split()
            if word == "ack":
                self.acks[int(stream), int(number)] = float(instant)
            else:
                assert word == "refused"
                self.n_refused += 1

    def n_acks(self, since: float = 0.0) -> dict[int, int]:
        counts = Counter(stream for (stream, _), at in list(self.acks.items()) if at >= since)
        return {stream: counts[stream] for stream in self.streams}

    def rss_mb(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6


class Drill:
    """Writers of one kind on one store. prefix: puts a process elsewhere, as into a namespace.

    n_before, n_after: acknowledged by each stream before the fault and after it. is_back: a sign of the whole
    service beside the acknowledgements, where those do not wait for the store.
    """

    def __init__(
        self,
        kind: str,
        where: str,
        *,
        n_writers: int = 2,
        n_streams: int = 4,
        n_before: int = 20,
        n_after: int = 10,
        is_back: Callable[[], bool] = lambda: True,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self._kind = kind
        self._where = where
        self._n_writers = n_writers
        self._n_streams = n_streams
        self._n_before = n_before
        self._n_after = n_after
        self._is_back = is_back
        self._environment = {**os.environ, **(environment or {})}
        self._prefix = prefix

    def fault(self, begin: Callable[[], None], end: Callable[[], None], away_s: float = AWAY_S) -> Observed:
        """The store goes by `begin` and is back when `end` returns."""
        with self._writing() as writers:
            _until(lambda: _least(writers) >= self._n_before, writers)
            before = [writer.rss_mb() for writer in writers]
            peak = before
            began_at = time.monotonic()
            begin()
            try:
                while time.monotonic() < began_at + away_s:
                    peak = [max(high, writer.rss_mb()) for high, writer in zip(peak, writers, strict=True)]
                    time.sleep(0.05)
            finally:
                end()
            back_at = time.monotonic()
            recovered_s = self._recovered_s(writers, back_at)
            peak = [max(high, writer.rss_mb()) for high, writer in zip(peak, writers, strict=True)]
        grown_mb = max(high - low for high, low in zip(peak, before, strict=True))
        return self._compare(writers, recovered_s, grown_mb, (began_at, back_at))

    def writer_killed(
        self, begin: Callable[[], None] = lambda: None, end: Callable[[], None] = lambda: None
    ) -> Observed:
        """The writers are killed in the middle of it, and others begin the same work anew.

        `begin` takes the store away before that, `end` brings it back before the others begin. What the dead
        had acknowledged is looked for before they begin, as they would write it again.
        """
        with self._writing() as writers:
            _until(lambda: _least(writers) >= self._n_before, writers)
            began_at = time.monotonic()
            begin()
            _until(lambda: _least(writers, began_at) >= self._n_after, writers)
            for writer in writers:
                writer.process.kill()
                writer.process.wait()
            end()
            found = self._stored(writers)
            lost = {item for writer in writers for item in writer.acks} - set(found)
            back_at = time.monotonic()
            with self._writing() as successors:
                # Through the work of the dead and beyond it.
                goals = {s: n + self._n_after for writer in writers for s, n in writer.n_acks().items()}
                recovered_s = self._recovered_s(successors, back_at)
                _until(lambda: all(_acks(successors)[s] >= n for s, n in goals.items()), successors)
        observed = self._compare([*writers, *successors], recovered_s, None, (began_at, back_at))
        return replace(observed, lost=observed.lost + len(lost))

    def _recovered_s(self, writers: list[Writer], back_at: float) -> float:
        """Wait until the service is whole again; returns how long that took."""
        _until(self._is_back, writers)
        is_back_s = time.monotonic() - back_at
        _until(lambda: _least(writers, back_at) >= self._n_after, writers)
        return max(is_back_s, _first_acks_s(writers, back_at))

    @contextmanager
    def _writing(self) -> Iterator[list[Writer]]:
        writers, threads = [], []
        try:
            for k in range(self._n_writers):
                streams = range(k * self._n_streams, (k + 1) * self._n_streams)
                process = self._worker("write", streams.start, len(streams))
                writers.append(Writer(process, streams))
            for writer in writers:
                threads.append(threading.Thread(target=writer.follow))
                threads[-1].start()
            yield writers
            for writer in writers:
                if writer.process.poll() is None:
                    writer.process.send_signal(signal.SIGTERM)
                    assert writer.process.wait(WAIT_S) == 0
        finally:
            for writer in writers:
                writer.process.kill()
                writer.process.wait()
            for thread in threads:
                thread.join()
            for writer in writers:
                assert writer.process.stdout is not None
                writer.process.stdout.close()

    def _compare(
        self, writers: list[Writer], recovered_s: float, grown_mb: float | None, away: tuple[float, float]
    ) -> Observed:
        acknowledged = {item for writer in writers for item in writer.acks}
        stored = self._stored(writers)
        return Observed(
            acknowledged=len(acknowledged),
            lost=len(acknowledged - set(stored)),
            duplicates=sum(count - 1 for count in stored.values()),
            recovered_s=recovered_s,
            grown_mb=grown_mb,
            acknowledged_away=sum(
                away[0] <= at < away[1] for writer in writers for at in writer.acks.values()
            ),
            refused=sum(writer.n_refused for writer in writers),
        )

    def _stored(self, writers: list[Writer]) -> Counter[Item]:
        """What a reader sees of the streams, as far as they were acknowledged."""
        n = max(number for writer in writers for _, number in writer.acks) + 1
        reader = self._worker("read", 0, self._n_writers * self._n_streams, n)
        output, _ = reader.communicate(timeout=WAIT_S)
        assert reader.returncode == 0
        words = [line.split() for line in output.splitlines()]
        return Counter((int(stream), int(number)) for _, stream, number in words)

    def _worker(self, mode: str, *numbers: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.faults.worker", mode, self._kind, self._where]
        return subprocess.Popen(
            [*self._prefix, *command, *map(str, numbers)],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )


def _acks(writers: list[Writer], since: float = 0.0) -> dict[int, int]:
    return {stream: n for writer in writers for stream, n in writer.n_acks(since).items()}


def _least(writers: list[Writer], since: float = 0.0) -> int:
    return min(_acks(writers, since).values())


def _first_acks_s(writers: list[Writer], since: float) -> float:
    firsts: dict[int, float] = {}
    for writer in writers:
        for (stream, _), at in sorted(writer.acks.items(), key=lambda ack: ack[1]):
            if at >= since:
                firsts.setdefault(stream, at)
    return max(firsts.values()) - since


def _until(condition: Callable[[], bool], writers: list[Writer]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        for writer in writers:
            assert writer.process.poll() is None, f"a writer ended with {writer.process.returncode}"
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {_acks(writers)}"
        time.sleep(0.02)
