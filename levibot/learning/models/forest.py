"""Regression trees as arrays: what two libraries store, checked before either of them reads it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from levibot.errors import RegistryError
from levibot.learning.models.sequence import IndexArray
from levibot.market.bars import FloatArray


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree of n inner nodes, node 0 its root, and n + 1 leaves.

    feature, threshold, goes_left_when_missing: (n,). left, right: (n,) an inner node, or ~leaf where
    negative. value: (n + 1,) of the leaves.
    """

    feature: IndexArray
    threshold: FloatArray
    goes_left_when_missing: IndexArray
    left: IndexArray
    right: IndexArray
    value: FloatArray


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees whose values are added up.

    is_strict: a row goes left where feature < threshold, and where feature <= threshold if not.
    """

    trees: tuple[Tree, ...]
    n_features: int
    is_strict: bool

    def check(self) -> None:
        """Raises RegistryError unless every node is reached once and all numbers are in range.

        A library that follows such indices without a look leaves the process.
        """
        if self.n_features < 1:
            raise RegistryError(f"The trees read {self.n_features} features: there must be at least one.")
        for number, tree in enumerate(self.trees):
            if not self._is_sound(tree):
                raise RegistryError(f"Tree {number} of the model is broken: its nodes do not make a tree.")

    def _is_sound(self, tree: Tree) -> bool:
        n_inner = len(tree.feature)
        if any(len(part) != n_inner for part in (tree.threshold, tree.left, tree.right)) or (
            len(tree.goes_left_when_missing) != n_inner or len(tree.value) != n_inner + 1
        ):
            return False
        children = np.sort(np.concatenate([tree.left, tree.right]))
        # Each leaf and each inner node but the root is the child of one node, which was numbered before it.
        wanted = np.concatenate([np.arange(-(n_inner + 1), 0), np.arange(1, n_inner)])
        if n_inner and not np.array_equal(children, wanted):
            return False
        parents = np.arange(n_inner)
        is_forward = all(
            bool((child[child >= 0] > parents[child >= 0]).all()) for child in (tree.left, tree.right)
        )
        in_range = bool(((tree.feature >= 0) & (tree.feature < self.n_features)).all())
        # A threshold may be infinite: it parts the missing values from all others.
        are_numbers = bool(np.isfinite(tree.value).all()) and not bool(np.isnan(tree.threshold).any())
        return is_forward and in_range and are_numbers
