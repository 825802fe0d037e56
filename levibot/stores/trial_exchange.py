"""Carries trials between the journal of a state folder and the ledger in PostgreSQL, both ways."""

from __future__ import annotations

from dataclasses import dataclass

from levibot.stores.trial_journal import TrialJournal
from levibot.stores.trials import BATCH_ROWS, TrialStore


@dataclass(frozen=True, slots=True)
class Exchanged:
    """n_sent: new in the ledger. n_taken: new in the journal."""

    n_sent: int
    n_taken: int


async def exchange(journal: TrialJournal, store: TrialStore) -> Exchanged:
    """Send what the ledger lacks, take what the journal lacks.

    Ended anywhere, it goes on where it was: a trial that is sent or taken twice is one trial.
    Raises what the two raise.
    """
    ledger_id = await store.ledger_id()
    n_sent = n_taken = 0
    while waiting := journal.waiting(ledger_id, BATCH_ROWS):
        n_sent += await store.write_many(waiting)
        journal.confirm(ledger_id, waiting)
    while True:
        reached = journal.reached(ledger_id)
        trials, number = await store.after(reached)
        if not trials:
            return Exchanged(n_sent, n_taken)
        n_taken += journal.take(ledger_id, trials, number)
