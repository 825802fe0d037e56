"""The process that writes or reads: `python -m tests.faults.worker write|read KIND WHERE FIRST STREAMS [N]`.

`write` goes on until SIGTERM and prints `ack STREAM NUMBER INSTANT` for each item that was acknowledged, in
seconds of the machine's monotonic clock, and `refused STREAM NUMBER INSTANT` for each error that a caller
got. What was refused for a passing reason is written again: it may be there already. `read` prints
`stored STREAM NUMBER`, as often as the item is stored.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time

from levibot.errors import LeviBotError
from levibot.telemetry.logging import configure_logging
from tests.faults.subject import Item, Subject
from tests.faults.subjects import SUBJECTS

# Between two items of one stream, and before a repeat.
PAUSE_S = 0.005
REPEAT_S = 0.05


def say(word: str, item: Item, *more: object) -> None:
    # In one write: a process that is killed leaves whole lines, whether its output is buffered or not.
    sys.stdout.write(" ".join(map(str, [word, *item, *more])) + "\n")
    sys.stdout.flush()


async def keep_writing(subject: Subject, stream: int, stop: asyncio.Event) -> None:
    number = 0
    while not stop.is_set():
        item = stream, number
        try:
            await subject.write(item)
        except LeviBotError as exc:
            if not exc.is_transient:
                raise
            say("refused", item, time.monotonic())
            await asyncio.sleep(REPEAT_S)
            continue
        say("ack", item, time.monotonic())
        number += 1
        await asyncio.sleep(PAUSE_S)


async def write(kind: str, where: str, first: int, streams: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    subject = await SUBJECTS[kind](where)
    async with asyncio.TaskGroup() as group:
        for stream in range(first, first + streams):
            group.create_task(keep_writing(subject, stream, stop))
    await subject.close()


async def read(kind: str, where: str, streams: int, n: int) -> None:
    subject = await SUBJECTS[kind](where)
    for item in await subject.stored(streams, n):
        say("stored", item)
    await subject.close()


if __name__ == "__main__":
    configure_logging("ERROR", "drill")
    mode, kind, where, *numbers = sys.argv[1:]
    first, streams, n = (int(number) for number in [*numbers, "0"][:3])
    asyncio.run(write(kind, where, first, streams) if mode == "write" else read(kind, where, streams, n))
