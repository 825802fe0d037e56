"""Whether the processes of a run grow: their memory over time, its slope, and how sure that is."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import psutil

from levibot.market.bars import FloatArray

MB = 1024.0**2
# What a process needs until it has seen everything once is no leak.
WARM_UP_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth and its standard error, both in MB an hour."""

    mb_per_h: float
    standard_error_mb_per_h: float

    def is_above(self, limit_mb_per_h: float) -> bool:
        """Whether it grows faster than that, by two standard errors."""
        return self.mb_per_h - 2.0 * self.standard_error_mb_per_h > limit_mb_per_h


def slope(at_s: FloatArray, mb: FloatArray) -> Slope:
    """Least squares over samples (T,), T >= 8, with a standard error that samples near each other share.

    Memory goes in steps: one sample says much of the next. So the error is Newey & West 1987 with Bartlett's
    weights over the nearest sqrt(T) samples; the plain one would call every step a leak. Raises ValueError on
    fewer samples, or on times that do not grow.
    """
    if len(at_s) != len(mb) or len(at_s) < 8 or not (np.diff(at_s) > 0.0).all():
        raise ValueError(
            f"{len(at_s)} times and {len(mb)} values give no slope: 8 at least, in order of time."
        )
    hours = (at_s - at_s.mean()) / 3600.0
    spread = float(hours @ hours)
    rise = float(hours @ (mb - mb.mean())) / spread
    scores = hours * (mb - mb.mean() - rise * hours)
    lags = int(np.sqrt(len(at_s)))
    variance = float(scores @ scores)
    for lag in range(1, lags + 1):
        variance += 2.0 * (1.0 - lag / (lags + 1.0)) * float(scores[lag:] @ scores[:-lag])
    return Slope(rise, float(np.sqrt(max(0.0, variance)) / spread))


@dataclass
class MemoryLog:
    """Own memory of the processes of a run, by name and sample. One thread writes, others read later."""

    at_s: list[float] = field(default_factory=list)
    mb: dict[str, list[float]] = field(default_factory=dict)

    def take(self, at_s: float, processes: Iterable[psutil.Process]) -> None:
        """Note a sample. A name that is new was not there before: zero."""
        now: dict[str, float] = defaultdict(float)
        for process in processes:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                told = process.memory_info()
                now[name_of(process)] += (told.rss - told.shared) / MB
        for name in now.keys() - self.mb.keys():
            self.mb[name] = [0.0] * len(self.at_s)
        self.at_s.append(at_s)
        for name, values in self.mb.items():
            values.append(now.get(name, 0.0))

    def slopes(self) -> dict[str, Slope]:
        """Of each name that was there all the time after the warm-up."""
        begin = int(WARM_UP_SHARE * len(self.at_s))
        at_s = np.array(self.at_s[begin:])
        series = {name: np.array(values[begin:]) for name, values in self.mb.items()}
        return {name: slope(at_s, mb) for name, mb in series.items() if (mb > 0.0).all()}


def name_of(process: psutil.Process) -> str:
    """What it is: Ray's name of an actor or replica, else the program."""
    words = process.cmdline()
    return words[0].split("#")[0] if words and words[0].startswith("ray::") else process.name()


@contextmanager
def sampled(processes: Callable[[], Sequence[psutil.Process]], every_s: float) -> Iterator[MemoryLog]:
    """Samples from a thread of its own until the block ends."""
    log, ended = MemoryLog(), threading.Event()

    def sample() -> None:
        started = time.monotonic()
        while not ended.wait(every_s):
            log.take(time.monotonic() - started, processes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield log
    finally:
        ended.set()
        sampler.join()
