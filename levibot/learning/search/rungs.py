"""Who goes on: candidates are compared with those that were judged on as many folds, and on no others.

Asynchronous successive halving (Li et al. 2020), for two objectives: instead of its place in one order, a
candidate has the number of others that are on a better front (Deb et al. 2002) than its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from levibot.errors import DataError
from levibot.learning.search.pareto import Score, front_ranks, own_areas


@dataclass(frozen=True, slots=True)
class Ladder:
    """Rungs at 1, 2, 4, … folds, and at all of them.

    n_folds: of a whole judgement. keep_share: of a rung's candidates that go on, about. fewest: who comes to
    a rung before so many have been there goes on whatever it scored.
    """

    n_folds: int
    keep_share: float = 1 / 3
    fewest: int = 4

    def __post_init__(self) -> None:
        if self.n_folds < 1 or not 0.0 < self.keep_share <= 1.0 or self.fewest < 1:
            raise DataError(
                f"A ladder of {self.n_folds} folds that keeps {self.keep_share} of at least {self.fewest} "
                "candidates is none: it takes a fold, a share in (0, 1] and a candidate."
            )

    @property
    def budgets(self) -> tuple[int, ...]:
        """Folds at each rung, fewest first."""
        rungs = [1]
        while rungs[-1] * 2 < self.n_folds:
            rungs.append(rungs[-1] * 2)
        return tuple(dict.fromkeys([*rungs, self.n_folds]))

    def after(self, n_folds: int) -> int:
        """The rung after one. Raises DataError where there is none."""
        later = [budget for budget in self.budgets if budget > n_folds]
        if not later:
            raise DataError(f"{n_folds} folds are all there are: no rung comes after {self.budgets[-1]}.")
        return later[0]

    def goes_on(self, own: Score, others: Sequence[Score]) -> bool:
        """Whether a candidate is judged on more folds. others: all that have been judged on as many.

        One that nobody dominates always is: which of two on a front is better, nobody can say.
        """
        if len(others) + 1 < self.fewest:
            return True
        ranks = front_ranks([own, *others])
        n_better = int((ranks[1:] < ranks[0]).sum())
        return n_better == 0 or n_better < self.keep_share * len(ranks) - 1e-9


def places(rungs: Sequence[Mapping[int, Score]]) -> list[int]:
    """The place of each candidate, 0 for the best. rungs: its scores by number of folds, at least one.

    Who came to a higher rung is before who did not; on the same rung, who is on a better front; on the same
    front, who adds more area that no other dominates. So scores of different budgets never meet.
    """
    order: list[int] = []
    highest = [max(scores) for scores in rungs]
    for rung in sorted(set(highest), reverse=True):
        here = [k for k, reached in enumerate(highest) if reached == rung]
        scores = [rungs[k][rung] for k in here]
        ranks = front_ranks(scores)
        for rank in range(int(ranks.max()) + 1):
            level = [j for j in range(len(here)) if ranks[j] == rank]
            own = own_areas([scores[j] for j in level])
            order += [here[j] for _, j in sorted(zip(own, level, strict=True), key=lambda pair: -pair[0])]
    return [order.index(k) for k in range(len(rungs))]
