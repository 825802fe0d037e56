"""Law 9: every trial is counted. Whoever makes a score out of sample holds the ledger, and writes into it.

The check reads the source of every package: a function that comes to a ratio, or to an account that one could
be made of, takes a `TrialBook` and records. Whether what is recorded is what is reported, a real backtest
shows.
"""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.errors import StoreError
from levibot.learning.evidence.book import TrialBook
from levibot.learning.evidence.hold_out import HoldOut
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.training import TrainingParameters
from levibot.market.simulator import SimulatedSource
from levibot.stores.frozen_history import FrozenHistories
from levibot.stores.trial_journal import TrialJournal
from levibot.trading.conditions import Conditions
from levibot.trading.costs import Costs
from levibot.trading.report import Report, run_backtest
from levibot.trading.trials import YARDSTICKS
from tests.trial_books import new_book, trial

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("levibot", "actors", "deployments", "tune", "rl")
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
# What turns positions into an account, and an account into a figure that one may be chosen by.
SCORERS = {
    *("simulate", "trade", "trade_alone", "sharpe", "sharpe_interval", "performance", "holding"),
    "assemble_ensemble",
    "sit",
    *("SharpeEstimate", "judge", "overfitting", "sharpe_difference", "regrets", "rehearse"),
}
RECORDERS = {"record", "count_trials"}
HANDLE = "TrialBook"
# Who comes to a score without a ledger, and why that is right.
FORMULAS: Mapping[str, str] = {
    "levibot/learning/evidence/": "the formulas, and the ledger itself",
    "levibot/learning/models/": "the scale of what goes in, and a fit judged within its own window",
    "levibot/learning/onnx_export.py": "holds two forms of one model against each other",
    "levibot/learning/regret.py": "a formula; who asks it holds the ledger",
    "levibot/learning/rehearsal.py": "the account of a given model; who asks for it holds the ledger",
    "levibot/learning/voting.py": "a fit on days that are past: its weights are scored later",
    "levibot/monitoring/drift.py": "the loss of the live model on its last day: nothing is chosen by it",
    "levibot/trading/assembly.py": "the members' accounts, for their weights; who asks holds the ledger",
    "levibot/trading/audit.py": "controls and checks: what is earned there chooses nothing",
    "levibot/trading/audited.py": "the same pipeline for the audit, which chooses nothing",
    "levibot/trading/backtest.py": "the account of given positions",
    "levibot/trading/capacity.py": "how much a strategy that was counted could trade",
    "levibot/trading/comparisons.py": "strategies that were counted, held against each other",
    "levibot/trading/ensemble_walk.py": "the accounts that weights follow, as live: nothing is chosen by it",
    "levibot/trading/metrics.py": "the formulas",
    "levibot/trading/slices.py": "a formula over days that were counted as a whole",
    "levibot/trading/performance.py": "the figures of given orders; who asks holds the ledger",
    "levibot/trading/tape.py": "the account of given positions",
    "rl/exam.py": "the account of a given policy; who asks for it holds the ledger",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def violations(module: str, source: str) -> list[str]:
    """Every way to a score that goes round the ledger, one sentence each."""
    if module.startswith(tuple(FORMULAS)):
        return []
    tree = ast.parse(source)
    return [*_private_imports(tree), *_without_ledger(tree)]


def _private_imports(tree: ast.AST) -> Iterator[str]:
    """The private half of a scorer has no ledger of its own: it is for the scorer alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            for alias in node.names:
                if alias.name.startswith("_") and not alias.name.endswith("__"):
                    yield f"line {node.lineno}: takes {alias.name} out of {node.module}"


def _without_ledger(tree: ast.Module) -> Iterator[str]:
    scorers = SCORERS | {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname and alias.name in SCORERS
    }
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, Function)}
    uses = {name: _used(node) for name, node in functions.items()}
    scoring = _reaching(uses, scorers) | {n for n, f in functions.items() if _is_ratio_by_hand(f)}
    scoring |= _reaching(uses, scoring)
    recording = _reaching(uses, RECORDERS)
    for name in sorted(scoring):
        # What is private is reached through what is not, or not at all.
        if name.startswith("_"):
            continue
        if not _takes_ledger(functions[name]):
            yield f"line {functions[name].lineno}: {name} comes to a score and takes no {HANDLE}"
        elif name not in recording:
            yield f"line {functions[name].lineno}: {name} comes to a score and records none"
    for statement in tree.body:
        if not isinstance(statement, Function | ast.ClassDef) and _used(statement) & (scorers | scoring):
            yield f"line {statement.lineno}: a score at import"


def _used(tree: ast.AST) -> set[str]:
    """Every name that is called or handed on; not imports, what is bound here, nor a field of `self`."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return ({node.id for node in names} - bound) | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (id(node) in called or not (isinstance(node.value, ast.Name) and node.value.id == "self"))
    }


def _reaching(uses: Mapping[str, set[str]], wanted: set[str]) -> set[str]:
    """The functions of a module that use one of these, or one that does."""
    found: set[str] = set()
    while more := {name for name, used in uses.items() if used & (wanted | found)} - found:
        found |= more
    return found


def _takes_ledger(function: Function) -> bool:
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    # Not `TrialBook | None`: a ledger that may be left out is left out.
    return any(
        a.annotation is not None and ast.unparse(a.annotation).strip("'\"") == HANDLE for a in arguments
    )


def _is_ratio_by_hand(function: Function) -> bool:
    """A mean over a standard deviation, also by way of names."""
    values = {
        node.targets[0].id: node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }

    def calls(node: ast.expr, names: set[str]) -> bool:
        while isinstance(node, ast.Name) and node.id in values:
            node = values.pop(node.id)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
            return calls(node.left, names) or calls(node.right, names)
        if not isinstance(node, ast.Call):
            return False
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return called in names or (called in {"float", "asarray"} and any(calls(a, names) for a in node.args))

    return any(
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Div)
        and calls(node.left, {"mean", "nanmean", "fmean"})
        and calls(node.right, {"std", "nanstd", "stdev", "pstdev"})
        for node in ast.walk(function)
    )


def test_every_package_is_looked_at() -> None:
    assert {"levibot", "actors", "deployments", "tune", "rl"} <= {module.split("/")[0] for module in SOURCES}
    assert all(
        reason and any(module.startswith(name) for module in SOURCES) for name, reason in FORMULAS.items()
    )


@pytest.mark.parametrize("module", SOURCES)
def test_no_score_goes_round_the_ledger(module: str) -> None:
    assert violations(module, SOURCES[module]) == []


def test_the_check_sees_the_one_scorer_there_is() -> None:
    """Without its ledger the backtest itself would be caught: the check is not blind to it."""
    report = "levibot/trading/report.py"
    for good, bad in (
        (f"trials: {HANDLE},", ""),
        (f"trials: {HANDLE},", f"trials: {HANDLE} | None,"),
        ("count_trials(", "dict("),
    ):
        assert good in SOURCES[report]
        assert any("run_backtest" in text for text in violations(report, SOURCES[report].replace(good, bad)))


@pytest.mark.parametrize(
    "slip",
    [
        "def score(r):\n    return sharpe(r)",
        "def score(r):\n    return metrics.sharpe(r)",
        "from levibot.trading.metrics import sharpe as s\ndef score(r):\n    return s(r)",
        "def score(r):\n    return _inner(r)\ndef _inner(r):\n    return sharpe_interval(r, seed=1)",
        "class Search:\n    def trial(self, r):\n        return simulate(r)",
        "async def score(r):\n    return SharpeEstimate.of(r).ratio",
        "def best(runs):\n    return max(runs, key=sharpe)",
        "def best(runs):\n    return max(runs, key=metrics.sharpe)",
        "class Search:\n    def best(self, r):\n        return self.sharpe(r)",
        "def score(r, book: TrialBook):\n    return sharpe(r)",
        "def score(r, book: TrialBook | None = None):\n    book.record(r)\n    return sharpe(r)",
        "def score(r):\n    return np.mean(r) / np.std(r)",
        "def score(r):\n    return r.mean() / r.std(ddof=1) * np.sqrt(365.0)",
        "def score(r):\n    m = float(np.mean(r))\n    d = r.std()\n    return m / d",
        "def score(r):\n    return 19.1 * r.mean() / float(r.std())",
        "BEST = sharpe(returns)",
        "from levibot.trading.report import _performance",
    ],
)
def test_a_planted_scorer_without_its_ledger_is_caught(slip: str) -> None:
    assert violations("tune/search.py", slip) != []


@pytest.mark.parametrize(
    "fine",
    [
        "def score(r, book: TrialBook):\n    book.record(r)\n    return sharpe(r)",
        "def score(r, *, book: 'TrialBook'):\n    return _inner(r, book)\n"
        "def _inner(r, b):\n    b.record(r)\n    return simulate(r)",
        "def scale(x):\n    return (x - x.mean()) / x.std()",
        "class Score:\n    def to_json(self):\n        return {'sharpe': self.sharpe}",
        "def relative(x):\n    return x / x.std()",
        "from levibot.trading.metrics import sharpe",
        "from levibot import __version__",
        "def folds(rows):\n    judge = rows > 1\n    return judge",
        "def middle(x):\n    return x.mean() / len(x)",
    ],
)
def test_the_check_leaves_the_rest_alone(fine: str) -> None:
    assert violations("tune/search.py", fine) == []


SYMBOLS = ("BTCUSDT", "ETHUSDT")
SOURCE = SimulatedSource(SYMBOLS, timedelta(hours=1), seed=5, edge=0.03)
QUICK = TrainingParameters(booster=LightGBMParameters(trees=5), n_models=1, n_folds=2)


def backtest(book: TrialBook, fee_bps: float = 7.5) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        return run_backtest(
            SOURCE,
            SYMBOLS,
            train_start=datetime(2020, 1, 1, tzinfo=UTC),
            test_start=datetime(2020, 7, 1, tzinfo=UTC),
            test_end=datetime(2020, 8, 1, tzinfo=UTC),
            seed=1,
            trials=book,
            histories=FrozenHistories(Path(folder), say=pytest.fail),
            conditions=Conditions(Costs(fee_bps=fee_bps)),
            training=QUICK,
        )


def test_what_is_reported_is_what_was_counted() -> None:
    book = new_book()
    report = backtest(book)
    kept = {t.parameters["strategy"]: t for t in book.journal.newest()}
    assert set(kept) == set(report.strategies) >= {"ensemble", "router", "lightgbm", *YARDSTICKS}
    for name, performance in report.strategies.items():
        assert kept[name].net_sharpe == performance.sharpe_net
        assert kept[name].gross_sharpe == performance.sharpe_gross
        assert kept[name].kind == ("yardstick" if name in YARDSTICKS else "hand")
        assert kept[name].daily_returns == pytest.approx(performance.daily_returns, abs=1e-7)
        assert (kept[name].data_hash, kept[name].seed) == (report.run["data_hash"], report.run["seed"])
    assert report.to_json()["trials"]["counted"] == len(set(kept) - set(YARDSTICKS))
    # The same again is the same trial, and the same report.
    assert backtest(book).to_json() == report.to_json()
    assert len(book.journal.newest()) == len(kept)


def test_the_trials_of_others_make_a_result_worth_less() -> None:
    book = new_book()
    alone = backtest(book).to_json()
    rng = np.random.default_rng(0)
    period = {
        "market_id": "test",
        "start": datetime(2020, 7, 1, tzinfo=UTC),
        "end": datetime(2020, 8, 1, tzinfo=UTC),
    }
    book.journal.add([trial(rng.normal(0.0, 0.02, 31), n=n, **period) for n in range(40)])
    read = backtest(book, fee_bps=8.5).to_json()
    # Forty of a search, and those of two reports by hand: the other costs made other accounts.
    n_own = alone["trials"]["counted"]
    assert read["trials"]["counted"] == read["ensemble"]["deflated_sharpe"]["n_trials"] == 40 + 2 * n_own
    assert 30.0 < read["ensemble"]["deflated_sharpe"]["n_effective"] < 40.0 + 2 * n_own
    # A report's own members are trials too.
    assert alone["ensemble"]["deflated_sharpe"]["probability"] < alone["ensemble"]["psr"]
    assert read["ensemble"]["deflated_sharpe"]["probability"] < 0.7 * read["ensemble"]["psr"]
    # Nobody chose the yardsticks.
    held = read["buy_and_hold"]
    assert held["deflated_sharpe"] == {"probability": held["psr"], "n_trials": 1, "n_effective": 1.0}


def test_a_score_that_cannot_be_counted_is_not_given(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    book = replace(new_book(), journal=TrialJournal(tmp_path / "home" / "trials.sqlite"))
    with pytest.raises(StoreError, match="No score without it"):
        backtest(book)


def test_a_backtest_over_the_hold_out_is_a_look_in_its_own_report() -> None:
    july = HoldOut("july", datetime(2020, 7, 10, tzinfo=UTC), datetime(2020, 9, 1, tzinfo=UTC))
    book = replace(new_book(), hold_out=july)
    assert [backtest(book).to_json()["trials"]["hold_out"]["looks"] for _ in range(2)] == [1, 2]
    assert book.family("", july.start, july.end).n_trials == len(backtest(book).strategies) - len(YARDSTICKS)
