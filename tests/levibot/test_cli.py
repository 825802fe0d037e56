"""The command line: what it refuses and how, and the backtest. Commands against a run: test_cli_run.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from levibot import __version__
from levibot.errors import UsageError
from levibot.trading import report_file
from levibot.trading.report_file import write_report
from tests.levibot.conftest import Command

COMMANDS = ("up", "down", "status", "ingest", "predict", "sources", "backtest", "audit")
PERIOD = ("--train-start", "2020-01-01", "--test-start", "2020-04-20", "--test-end", "2020-04-24")
SYMBOLS = ("--symbols", "BTCUSDT,ETHUSDT,SOLUSDT")


def dates(train_start: str, test_start: str, test_end: str) -> tuple[str, ...]:
    return "--train-start", train_start, "--test-start", test_start, "--test-end", test_end


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(levibot: Command, command: str) -> None:
    shown = levibot(command, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert f"{command} [OPTIONS]" in shown.out
    assert "--json" in shown.out


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_without_a_command_all_are_listed(levibot: Command, arguments: tuple[str, ...]) -> None:
    shown = levibot(*arguments)
    assert (shown.code, shown.err) == (0, "")
    assert all(f"\n  {command} " in shown.out for command in COMMANDS)


def test_the_version_is_that_of_the_package(levibot: Command) -> None:
    assert levibot("--version").out == f"levibot {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("ingest", "--nope"), "No such option: --nope"),
        (("fly",), "No such command 'fly'"),
        (("predict",), "Missing argument"),
        (("predict", "BTCUSDT", "ETHUSDT"), "unexpected extra argument"),
        (("ingest", "--seed", "x"), "Invalid value for '--seed'"),
        (("ingest", "--seed"), "requires an argument"),
        (("ingest", "--until", "soon"), "Invalid value for '--until'"),
        (("ingest", "--until", "0001-01-01"), "outside the years 1970 to 2200"),
        (("ingest", "--until", "9999-12-31"), "outside the years 1970 to 2200"),
        (("ingest", "--source", "moon"), "LEVIBOT_SOURCE is 'moon'"),
        (("ingest", "--source", "parquet"), "needs the market's folder: set LEVIBOT_MARKET (or --path)."),
        (("ingest", "--source", "parquet", "--path", "/nowhere"), "There is no market folder /nowhere."),
        (("backtest", *PERIOD, "--path", "/nowhere"), "--path names the recorded market /nowhere, but"),
        (("ingest", "--symbols", ""), "LEVIBOT_SYMBOLS is ()"),
        (("ingest", "--symbols", "BTC-USDT"), "'BTC-USDT' is no symbol"),
        (("ingest", "--symbols", "BTCUSDT,btcusdt"), "BTCUSDT is named twice"),
        (("ingest", "--edge", "0.2"), "LEVIBOT_EDGE is 0.2"),
        (("ingest", "--edge", "nan"), "LEVIBOT_EDGE is nan"),
        (("up", "--replay-speed", "0"), "LEVIBOT_REPLAY_SPEED is 0.0"),
        (("backtest", *PERIOD, "--cost-bps", "-1"), "Invalid value for '--cost-bps'"),
        (("backtest", *PERIOD, "--cost-bps", "nan"), "Invalid value for '--cost-bps'"),
        (("backtest", *dates("2020-06-01", "2020-05-01", "2020-07-01")), "must come in this order"),
        (
            ("backtest", *dates("2020-01-01", "2020-07-01", "2020-05-01")),
            "the test runs 2020-07-01 to 2020-05-01: they must come in this order",
        ),
        (("backtest", *dates("2020-01-01", "2020-07-01", "9999-12-31")), "outside the years"),
        (("backtest", *dates("0001-01-01", "2020-07-01", "2020-08-01")), "outside the years"),
        (("backtest", *dates("2020-01-01", "2020-01-03", "2020-01-04")), "needs at least"),
        (("backtest", *PERIOD, "--json", "/no/such/folder/report.json"), "/no/such/folder for the report"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    levibot: Command, home: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    refused = levibot(*arguments)
    assert refused.code == 2
    assert sentence in refused.error()
    assert not home.exists()


@pytest.mark.parametrize("name", ["LEVIBOT_HTTP_PORT", "LEVIBOT_LOG_LEVEL", "LEVIBOT_TRAIN_START"])
def test_a_wrong_variable_is_named(levibot: Command, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "loud")
    refused = levibot("status")
    assert (refused.code, refused.out) == (2, "")
    assert refused.error().startswith(f"{name} is 'loud': ")


@pytest.mark.parametrize("arguments", [("ingest", "--source", "moon"), ("ingest", "--nope"), ("status",)])
def test_errors_in_json_are_one_object(levibot: Command, arguments: tuple[str, ...]) -> None:
    refused = levibot(*arguments, "--json")
    assert refused.json().keys() == {"error"}
    assert refused.json()["error"].keys() == {"code", "message", "hint"}
    assert refused.json()["error"]["message"] in refused.error()


@pytest.mark.parametrize("command", ["status", "down"])
def test_where_nothing_runs_the_exit_code_is_1(levibot: Command, home: Path, command: str) -> None:
    failed = levibot(command)
    assert (failed.code, failed.out) == (1, "")
    assert failed.error() == f"Nothing runs from {home}. Start it with `python -m levibot up`."
    assert not home.exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nowhere", "http://[::1", "http://a..b", ""])
def test_predict_says_which_address_does_not_answer(levibot: Command, url: str) -> None:
    failed = levibot("predict", "BTCUSDT", "--url", url or "http://127.0.0.1:1/")
    assert (failed.code, failed.out) == (1, "")
    assert "does not answer: " in failed.error()


@pytest.mark.parametrize("command", ["status", "down", "predict BTCUSDT", "ingest"])
@pytest.mark.parametrize("record", ["{", "[]", "{}", '{"pid": 1}', "\xff"])
def test_a_broken_record_of_a_run_is_named(levibot: Command, home: Path, command: str, record: str) -> None:
    home.mkdir()
    (home / "run.json").write_text(record)
    failed = levibot(*command.split())
    assert (failed.code, failed.out) == (1, "")
    assert f"{home / 'run.json'} cannot be read" in failed.error()


def test_a_state_folder_that_is_a_file_is_named(levibot: Command, home: Path) -> None:
    home.write_text("mine")
    failed = levibot("ingest")
    assert failed.code == 1
    assert str(home) in failed.error()
    assert home.read_text() == "mine"


def test_a_state_folder_that_cannot_be_made_is_named(
    levibot: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_text("mine")
    monkeypatch.setenv("LEVIBOT_HOME", "/proc/levibot")
    failed = levibot("ingest", "--json")
    assert failed.code == 1
    assert "/proc/levibot" in failed.json()["error"]["message"]


def test_a_report_is_written_whole_and_says_how_it_came_about(
    levibot: Command, tmp_path: Path, home: Path
) -> None:
    done = levibot("backtest", *PERIOD, *SYMBOLS, "--cost-bps", "12.5", "--json", tmp_path / "report.json")
    assert done.code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "report.json"]
    assert sorted(path.name for path in home.iterdir()) == ["backtests", "trials.sqlite"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["costs"]["total_bps"] == pytest.approx(12.5)
    assert report["period"]["days"] == 5
    assert (report["run"]["source"], report["run"]["seed"]) == ("simulated", 7)
    assert report["period"]["test_end"] == "2020-04-24T00:00:00+00:00"
    assert "simulated market, 2020-04-20 to 2020-04-24, net of 12.5 bps a side" in done.out
    assert "buy_and_hold" in done.out


def test_figures_that_are_not_defined_are_dashes(levibot: Command, tmp_path: Path) -> None:
    done = levibot("backtest", *dates("2020-01-01", "2020-04-20", "2020-04-20"), *SYMBOLS)
    assert done.code == 0
    assert "– … –" in done.out
    record = json.loads(levibot("backtest", *PERIOD, *SYMBOLS, "--json", "-").out)
    record["ensemble"]["annual_return"] = None
    console = Console(width=report_file.PIPE_WIDTH)
    with console.capture() as shown:
        console.print(report_file.table(record, is_terminal=False))
    assert "–" in next(line for line in shown.get().splitlines() if "ensemble" in line)[-12:]


def test_a_report_on_standard_output_is_nothing_but_json(
    levibot: Command, tmp_path: Path, home: Path
) -> None:
    done = levibot("backtest", *PERIOD, *SYMBOLS, "--json", "-")
    assert done.code == 0
    assert done.json()["run"]["symbols"] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert list(tmp_path.iterdir()) == [home]


def test_a_report_that_cannot_be_written_leaves_nothing_behind(
    levibot: Command, tmp_path: Path, home: Path
) -> None:
    longest = tmp_path / ("r" * 255)  # its draft has a longer name than a file may have
    failed = levibot("backtest", *PERIOD, *SYMBOLS, "--json", longest)
    assert failed.code == 2
    assert "The report cannot be written" in failed.err
    assert list(tmp_path.iterdir()) == [home]


def test_a_draft_that_cannot_take_its_place_is_removed(tmp_path: Path) -> None:
    # A folder that came there while the backtest ran.
    (tmp_path / "report.json").mkdir()
    with pytest.raises(UsageError, match=r"The report cannot be written to .*report\.json: Is a directory"):
        write_report(tmp_path / "report.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_folder_in_place_of_the_report_is_refused_before_the_work(levibot: Command, tmp_path: Path) -> None:
    failed = levibot("backtest", *PERIOD, *SYMBOLS, "--json", tmp_path)
    assert failed.code == 2
    assert "it is a folder" in failed.error()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_refused(levibot: Command, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    failed = levibot("backtest", *PERIOD, *SYMBOLS, "--json", tmp_path / "report.json")
    tmp_path.chmod(0o700)
    assert failed.code == 2
    assert "cannot be written to" in failed.error()


def test_the_module_runs_as_a_program(home: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEVIBOT_")}
    done = subprocess.run(
        [sys.executable, "-m", "levibot", "status", "--json"],
        env=environment | {"LEVIBOT_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "not_ready"
    assert done.stderr == f"levibot: Nothing runs from {home}. Start it with `python -m levibot up`.\n"
