"""LightGBM's text form, read without LightGBM, whose own reader may end the process on a broken file."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from levibot.errors import RegistryError
from levibot.learning.models.forest import Forest, Tree

# Bits of a node's decision_type.
_IS_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING_NONE, _MISSING_NAN = 0, 2

_OF_NODES = ("split_gain", "internal_value", "internal_weight", "internal_count")
_OF_LEAVES = ("leaf_weight", "leaf_count")
_REST = re.compile(
    r"\nfeature_importances:\n(?:[^=\n]+=[0-9]+\n)*"
    r"\nparameters:\n(?:\[[a-z0-9_]+: [^\[\]\n]*\]\n)*"
    r"\nend of parameters\n\npandas_categorical:null\n"
)
# The range of a feature's values, or a feature without any.
_INFO = re.compile(r"none|\[[-+.e0-9]+:[-+.e0-9]+\]")


def read_forest(data: bytes) -> Forest:
    """The trees of a regression model. Raises RegistryError on anything else."""
    try:
        header, trees, rest = _parts(data.decode())
        head = _fields(header)
        n_features = int(head["max_feature_idx"]) + 1
        _check_header(header, head, n_features)
        # LightGBM cuts the text where these numbers say.
        sizes = [int(size) for size in head["tree_sizes"].split()]
        ends = np.cumsum([0, *sizes]).tolist()
        if min(sizes, default=0) < 0 or ends[-1] != len(trees):
            raise RegistryError(
                f"A LightGBM model says its trees take {ends[-1]} bytes; they take {len(trees)}."
            )
        blocks = [trees[begin:end] for begin, end in pairwise(ends)]
        if not _REST.fullmatch(rest):
            raise RegistryError("What follows the trees of the LightGBM model is not what LightGBM writes.")
        forest = Forest(tuple(_tree(number, block) for number, block in enumerate(blocks)), n_features, False)
    except (KeyError, ValueError, UnicodeDecodeError) as exc:
        raise RegistryError(f"These bytes are not a LightGBM model in text form: {exc!r}.") from exc
    forest.check()
    return forest


def _parts(text: str) -> tuple[str, str, str]:
    """Header, trees, and what follows them."""
    body, end, rest = text.partition("end of trees\n")
    header, blank, trees = body.partition("\n\n")
    if not end or not blank or not text.isascii():
        raise RegistryError("These bytes are not a whole LightGBM model in text form.")
    return header, trees, rest


def _check_header(header: str, head: dict[str, str], n_features: int) -> None:
    wanted = {
        "version": "v4",
        "num_class": "1",
        "num_tree_per_iteration": "1",
        "label_index": "0",
        "objective": "regression",
    }
    if not header.startswith("tree\n") or any(head[name] != value for name, value in wanted.items()):
        raise RegistryError("These bytes are not a LightGBM 4 regression in text form.")
    names, infos = head["feature_names"].split(" "), head["feature_infos"].split(" ")
    if not len(names) == len(infos) == n_features or not all(map(_INFO.fullmatch, infos)):
        raise RegistryError(f"The LightGBM model does not describe its {n_features} features.")


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in block.split("\n"))
    return {name: value for name, sign, value in pairs if sign}


def _tree(number: int, block: str) -> Tree:
    fields = _fields(block)
    if not block.startswith(f"Tree={number}\n") or float(fields["shrinkage"]) <= 0.0:
        raise RegistryError(f"Tree {number} of the LightGBM model is not where it is said to be.")
    n_leaves = int(fields["num_leaves"])
    of_nodes = {name: len(_floats(fields[name])) for name in _OF_NODES if n_leaves > 1}
    of_leaves = {name: len(_floats(fields[name])) for name in _OF_LEAVES if n_leaves > 1}
    if set(of_nodes.values()) - {n_leaves - 1} or set(of_leaves.values()) - {n_leaves}:
        raise RegistryError(f"Tree {number} of the LightGBM model has {n_leaves} leaves and {of_nodes}.")
    value = _floats(fields["leaf_value"])
    if len(value) != int(fields["num_leaves"]) or fields["num_cat"] != "0" or fields["is_linear"] != "0":
        raise RegistryError("A tree of the LightGBM model has other leaves than it says, or other splits.")
    if len(value) == 1:
        nothing = np.empty(0, dtype=np.intp)
        return Tree(nothing, np.empty(0), nothing, nothing, nothing, value)
    threshold = _floats(fields["threshold"])
    decision = _integers(fields["decision_type"])
    missing = decision >> 2
    if (decision & _IS_CATEGORICAL).any() or not np.isin(missing, (_MISSING_NONE, _MISSING_NAN)).all():
        raise RegistryError(
            "The LightGBM model splits in ways that ours do not: by category, or zero as missing."
        )
    # A feature that was never missing in training is read as 0 when it is missing later.
    left = np.where(missing == _MISSING_NAN, (decision & _DEFAULT_LEFT) > 0, threshold >= 0.0)
    return Tree(
        _integers(fields["split_feature"]),
        threshold,
        left.astype(np.intp),
        _integers(fields["left_child"]),
        _integers(fields["right_child"]),
        value,
    )


def _floats(text: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([float(word) for word in text.split()])


def _integers(text: str) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return np.array([int(word) for word in text.split()], dtype=np.intp)
