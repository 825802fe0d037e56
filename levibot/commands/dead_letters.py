"""`dead-letters list`, `replay`, `drop`: messages that no attempt could deliver."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from levibot.commands.shared import JsonFlag, load_settings, say
from levibot.errors import UsageError

if TYPE_CHECKING:
    # The client of Redis is slow to import, and most commands do without.
    from levibot.resilience.dead_letters import DeadLetter, DeadLetters

T = TypeVar("T")

MAX_SHOWN = 10_000

POLL_S = 0.2

group = typer.Typer(
    help="Messages that no attempt could deliver: look at them, have them tried again, delete them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

QueueArgument = Annotated[str, typer.Argument(help="like events")]
IdsOption = Annotated[list[str] | None, typer.Option("--id", help="this letter only; may be repeated")]


@group.command("list")
def list_letters(
    queue: Annotated[str | None, typer.Argument(help="its letters (default: how many each holds)")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_SHOWN, help="the oldest so many")] = 100,
    as_json: JsonFlag = False,
) -> None:
    """Show the queues, or the oldest letters of one."""
    if queue is None:
        counts = _with_letters(lambda letters: letters.queues())
        text = "\n".join(f"{n:7,}  {name}" for name, n in counts.items()) or "There are no dead letters."
        say(as_json, {"queues": counts}, text)
        return
    letters = _with_letters(lambda there: there.read(queue, limit))
    text = "\n".join(map(_line, letters)) or f"There are no dead letters in {queue}."
    say(as_json, {"queue": queue, "letters": [letter.to_json() for letter in letters]}, text)


@group.command("replay")
def replay(
    queue: QueueArgument,
    ids: IdsOption = None,
    wait_s: Annotated[
        float, typer.Option("--wait", min=0.0, max=3600.0, help="seconds to wait for the outcome")
    ] = 30.0,
    as_json: JsonFlag = False,
) -> None:
    """Have letters tried again now by the running system. Exit code 1 when one was not delivered."""
    outcome = _with_letters(lambda letters: _replay(letters, queue, ids, wait_s))
    text = (
        f"{outcome['delivered']} delivered, {outcome['failed']} failed again, {outcome['waiting']} waiting."
    )
    say(as_json, {"queue": queue, **outcome}, text)
    if outcome["failed"] or outcome["waiting"]:
        raise typer.Exit(1)


@group.command("drop")
def drop(
    queue: QueueArgument,
    ids: IdsOption = None,
    every: Annotated[bool, typer.Option("--all", help="every letter of the queue")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete letters for good."""
    if every == bool(ids):
        raise UsageError("It is not said which letters to delete.", hint="Give --id once or more, or --all.")
    n_dropped = _with_letters(lambda letters: letters.drop(queue, None if every else ids))
    say(as_json, {"queue": queue, "dropped": n_dropped}, f"{n_dropped} deleted from {queue}.")


async def _replay(
    letters: DeadLetters, queue: str, ids: Collection[str] | None, wait_s: float
) -> dict[str, int]:
    """Make the letters due, and look what the running system's consumer makes of them."""
    before = {
        letter.letter_id: letter.replays
        for letter in await letters.read(queue, MAX_SHOWN)
        if ids is None or letter.letter_id in ids
    }
    unknown = set(ids or ()) - set(before)
    if unknown:
        raise UsageError(f"There is no letter {min(unknown)} in {queue}.")
    await letters.make_due(queue, list(before))
    deadline = time.monotonic() + wait_s
    while True:
        now = {letter.letter_id: letter.replays for letter in await letters.read(queue, MAX_SHOWN)}
        in_hand = (await letters.queues()).get(queue, 0) - len(now)
        failed = sum(now.get(letter_id, n) > n for letter_id, n in before.items())
        waiting = sum(now.get(letter_id) == n for letter_id, n in before.items())
        # A letter in hand is in neither: its end is not known yet.
        waiting += min(max(0, in_hand), len(before) - failed - waiting)
        if not waiting or time.monotonic() >= deadline:
            return {"delivered": len(before) - failed - waiting, "failed": failed, "waiting": waiting}
        await asyncio.sleep(POLL_S)


def _with_letters(call: Callable[[DeadLetters], Awaitable[T]]) -> T:
    """What the call makes of this state folder's dead letters."""
    from levibot.resilience.dead_letters import DeadLetters
    from levibot.stores.connect import open_durable

    settings = load_settings()

    async def connected() -> T:
        client = open_durable(settings)
        try:
            return await call(DeadLetters(client))
        finally:
            await client.aclose()

    return asyncio.run(connected())


def _line(letter: DeadLetter) -> str:
    fields: dict[str, Any] = {
        "died": letter.died_at.isoformat(timespec="seconds"),
        "attempts": letter.attempts,
        "due": letter.due_at.isoformat(timespec="seconds"),
        "trace": letter.trace_id or "-",
    }
    return f"{letter.letter_id}  " + "  ".join(f"{k} {v}" for k, v in fields.items()) + f"  {letter.error}"
