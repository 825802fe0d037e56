"""Load on a whole system of its own: `python -m tests.load`; it fails where a goal is missed.

`--way cold` takes the cached signal away before each prediction, and the face holds none in memory: it then
asks the router, which reads the newest windows and knows what the model said of them. The model itself is
asked once a bar, whoever asks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.running_system import running_system
from levibot.access.run_key import FILE_NAME
from levibot.launch.run_record import processes_of, read_record
from levibot.settings import Settings
from levibot.stores.embedded import endpoints
from tests.load.memory import Slope, sampled
from tests.load.traffic import Traffic
from tests.load.verdict import Goal, Latencies, Seen

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
# So few symbols teach from more bars.
TRAIN_START = "2023-07-01T00:00:00"
# A leak by two standard errors; less than this is some hundred MB a week, which a restart ends.
GROWS_AT_MOST_MB_PER_H = 4.0
SOAK_S, SAMPLES = 3600, 240
# Between the taking away of a signal and the question for it the router may write a new one.
MISSED_SHARE = 0.95
FACE = "ServeReplica:default:Api"
PERCENTILES = (0.5, 0.95, 0.99)


def main() -> int:
    """Run what the words say; 0 where every goal was met."""
    asked = _words()
    symbols = ",".join(SYMBOLS)
    with tempfile.TemporaryDirectory(prefix="levibot-load-") as folder, ExitStack() as ending:
        home = Path(folder) / "home"
        cache = {"LEVIBOT_SIGNAL_CACHE_S": "0"} if asked.way == "cold" else {}
        served = running_system(home, LEVIBOT_SYMBOLS=symbols, LEVIBOT_TRAIN_START=TRAIN_START, **cache)
        system = ending.enter_context(served)
        redis_url = endpoints(Settings.load(home=home)).redis_cache_url
        traffic = Traffic(system.url, home / FILE_NAME, SYMBOLS, redis_url)
        # What is loaded at the first request is loaded before anything is judged.
        traffic.run(asked.rate, asked.warm_up, asked.way)
        log = ending.enter_context(sampled(lambda: processes(home), asked.seconds / SAMPLES))
        if asked.flame is not None:
            ending.enter_context(flame_graph(home, asked.flame, asked.seconds))
        seen = traffic.run(asked.rate, asked.seconds, asked.way)
        slopes = log.slopes() if asked.soak else {}
        load_average = os.getloadavg()
    goal = Goal(asked.rate, missed_share=MISSED_SHARE if asked.way == "cold" else None)
    problems = [*goal.unmet(seen), *growing(slopes)]
    record = {
        "way": asked.way,
        **report(seen),
        "memory_mb": {name: round(values[-1], 1) for name, values in sorted(log.mb.items())},
        "memory_mb_per_h": {
            name: [one.mb_per_h, one.standard_error_mb_per_h] for name, one in slopes.items()
        },
        "load_average": [round(one, 1) for one in load_average],
        "problems": problems,
        "holds": not problems,
    }
    sys.stdout.write(json.dumps(record, indent=2) + "\n")
    return 0 if record["holds"] else 1


def _words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--rate", type=int, default=100, help="requests a second")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=10, help="seconds of traffic that are not judged")
    parser.add_argument("--way", choices=("hot", "cold"), default="hot")
    parser.add_argument("--soak", action="store_true", help="an hour at least, and no process may grow")
    parser.add_argument("--flame", type=Path, help="write a flame graph of the face to this SVG (py-spy)")
    asked = parser.parse_args()
    if asked.soak:
        asked.seconds = max(asked.seconds, SOAK_S)
    return asked


def processes(home: Path) -> Sequence[psutil.Process]:
    """Every process of the run: the launcher with its stores, and the cluster."""
    record = read_record(home)
    if record is None or record.launcher is None:
        return ()
    below = record.launcher.children(recursive=True)
    return list({record.launcher, *below, *processes_of(record.run_id)})


@contextmanager
def flame_graph(home: Path, svg: Path, seconds: int) -> Iterator[None]:
    """What one replica of the face does in these seconds. Raises RuntimeError where py-spy may not look."""
    face = next(one for one in processes(home) if FACE in " ".join(one.cmdline()))
    program = Path(sys.executable).with_name("py-spy")
    words = [program, "record", "--pid", str(face.pid), "--duration", str(seconds), "--output", svg]
    drawing = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    yield
    if drawing.wait(60.0):
        raise RuntimeError(f"py-spy ended with {drawing.returncode}: may it look into other processes?")


def growing(slopes: dict[str, Slope]) -> list[str]:
    """One sentence for each process that grows."""
    return [
        f"{name} grows by {one.mb_per_h:.1f} ± {one.standard_error_mb_per_h:.1f} MB an hour."
        for name, one in slopes.items()
        if one.is_above(GROWS_AT_MOST_MB_PER_H)
    ]


def report(seen: Seen) -> dict[str, Any]:
    """The run in numbers, all requests and each route."""
    return {
        "requests": seen.requests,
        "failed": seen.failed,
        "requests_per_s": round(seen.rate_per_s, 1),
        "missed_share": seen.missed_share,
        "all_ms": _percentiles(seen.latencies),
        **{route: _percentiles(one) for route, one in sorted(seen.by_route.items())},
    }


def _percentiles(latencies: Latencies) -> dict[str, float]:
    return {"n": latencies.n, **{f"p{round(100 * p)}": latencies.percentile_ms(p) for p in PERCENTILES}}


if __name__ == "__main__":
    sys.exit(main())
