"""The table of all features, as Markdown, made from their definitions."""

from __future__ import annotations

from collections.abc import Sequence

from levibot.features.feature import Feature
from levibot.features.view import FeatureView
from levibot.features.views import FULL, VIEWS

HEAD = """# Features

Every feature of every view, made from the definitions and not to be edited. A test keeps this page true, and
writes it:
`LEVIBOT_WRITE_FEATURES=1 .venv/bin/python -m pytest tests/levibot/features/test_catalogue.py`.

"Rows" are the bars, its own included, that the formula reads, and so its warm-up. `σ` after them says that
it is scaled by the slow volatility too, which reads {sigma_rows} rows and is known after 56 days of hourly
bars; `others` that it reads the other symbols' bars. A value that is not known is NaN: before its rows are
there, after a hole of more than 24 bars, where a denominator is zero, and where the side series that it reads
is off. Bold names are in the view `core` too, which the served model reads.
"""


def render(views: Sequence[FeatureView] = VIEWS, widest: FeatureView = FULL) -> str:
    """The page: the views, then one table a family. widest: a view that has every feature."""
    sigma_rows = max(feature.warmup_bars for feature in widest.features if feature.scaled)
    lines = [HEAD.format(sigma_rows=sigma_rows), "| view | features | warm-up in bars |", "|---|---|---|"]
    lines += [f"| `{view.name}` | {len(view.features)} | {view.warmup_bars} |" for view in views]
    inside = {feature.name for view in views if view is not widest for feature in view.features}
    for family in dict.fromkeys(feature.family for feature in widest.features):
        members = [feature for feature in widest.features if feature.family == family]
        lines += [
            "",
            f"## {family} ({len(members)})",
            "",
            "| feature | what it is | unit | inputs | rows | source |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(feature, feature.name in inside) for feature in members]
    return "\n".join(lines) + "\n"


def _row(feature: Feature, is_core: bool) -> str:
    name = f"**{feature.name}**" if is_core else feature.name
    what = (feature.formula.__doc__ or "").partition("\n")[0]
    marks = (" σ" if feature.scaled else "") + (" others" if feature.reads_others else "")
    cells = (
        name,
        what,
        feature.unit,
        ", ".join(feature.inputs),
        f"{feature.window_bars}{marks}",
        feature.source,
    )
    # A bar in a formula is no border of the table.
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
