"""The model card: what a version says of itself, for people.

Written from the metadata and the checksums that the manifest holds, so that the two cannot disagree. What the
metadata do not say is said to be unknown; nothing is left out silently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_UNKNOWN = "not recorded"
# Their order is that of the questions of somebody who meets the model for the first time.
_MADE = (
    ("kind", "Kind"),
    ("market_id", "Market"),
    ("source", "Source"),
    ("symbols", "Symbols"),
    ("interval_s", "Bars, seconds"),
    ("view", "Feature view"),
    ("view_version", "View version"),
    ("train_start", "Learned from"),
    ("train_end", "Learned until"),
    ("training_data", "Training data"),
    ("data_hash", "Data hash"),
    ("seed", "Seed"),
    ("git_commit", "Git commit"),
)
_TABLES = (
    ("metrics", "Out of sample", "It was not scored out of sample before it was published."),
    ("trials", "Trials", "No trials were counted for it."),
    ("promotion", "Promotion", "No rule decided on it."),
    ("selection", "Selection of features", "It reads every feature of its view."),
    ("parameters", "Parameters", "None are recorded."),
    ("training", "Training", "No parameters are recorded."),
)


def render_card(metadata: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown. metadata: JSON values. files: name to `sha256` and `size_bytes`, as in the manifest."""
    title = metadata.get("kind", "model")
    lines = [f"# Model card: {title}", "", "| | |", "|---|---|"]
    lines += [f"| {label} | {_cell(metadata.get(name))} |" for name, label in _MADE]
    for name, label, otherwise in _TABLES:
        lines += ["", f"## {label}", ""]
        values = metadata.get(name)
        lines += _table(values) if isinstance(values, Mapping) and values else [otherwise]
    names = metadata.get("feature_names")
    lines += ["", "## Features", ""]
    if isinstance(names, list) and names:
        lines += [f"{len(names)}: {', '.join(_text(name) for name in names)}."]
    else:
        lines += ["None are recorded."]
    known = {name for name, _ in _MADE} | {name for name, _, _ in _TABLES} | {"feature_names"}
    rest = {name: value for name, value in metadata.items() if name not in known}
    if rest:
        lines += ["", "## Also recorded", "", *_table(rest)]
    lines += ["", "## Files", "", "| file | bytes | SHA-256 |", "|---|---|---|"]
    lines += [
        f"| {_text(name)} | {entry['size_bytes']} | `{entry['sha256']}` |" for name, entry in files.items()
    ]
    return "\n".join(lines) + "\n"


def _table(values: Mapping[str, Any]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {_text(name)} | {_cell(value)} |" for name, value in values.items())]


def _cell(value: Any) -> str:
    if value is None:
        return _UNKNOWN
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return _text(", ".join(value)) or "none"
    return _text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _text(value: Any) -> str:
    """One line that ends no cell early."""
    return " ".join(str(value).replace("\\", "\\\\").replace("|", "\\|").split())
