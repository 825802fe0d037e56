"""Settings: what is refused and in which words, and what a child process is told."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.clock import ReplayClock, SystemClock
from levibot.errors import SettingsError
from levibot.settings import DEFAULT_SYMBOLS, INTERVALS, Settings, child_environment

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LEVIBOT_")]:
        monkeypatch.delenv(name)


def test_an_option_wins_over_a_variable_and_a_variable_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Settings.load().seed == 7
    monkeypatch.setenv("LEVIBOT_SEED", "11")
    assert Settings.load().seed == 11
    assert Settings.load(seed=12).seed == 12


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"edge": "0.2"}, "LEVIBOT_EDGE is '0.2': Input should be less than or equal to 0.1."),
        ({"symbols": "BTC USDT"}, "LEVIBOT_SYMBOLS is 'BTC USDT': 'BTC USDT' is no symbol: 2 to 20 letters"),
        ({"symbols": "É1"}, "'É1' is no symbol"),
        ({"symbols": " , "}, "LEVIBOT_SYMBOLS is ()"),
        ({"symbols": "AB,ab"}, "AB is named twice."),
        ({"http_port": 0}, "LEVIBOT_HTTP_PORT is 0"),
        (
            {"http_port": 12000},
            "LEVIBOT_HTTP_PORT is 12000: Ray gives the ports 10002 to 19999 to its workers",
        ),
        ({"dashboard_port": 19999}, "LEVIBOT_DASHBOARD_PORT is 19999: Ray gives"),
        ({"train_start": "0001-01-01T00:00+05:00"}, "the year is not one of 1970 to 2200."),
        ({"replay_start": "9999-12-31T23:00-05:00"}, "the year is not one of 1970 to 2200."),
        ({"home": "~no-such-user/x"}, "LEVIBOT_HOME is '~no-such-user/x'"),
        ({"source": "parquet"}, "source parquet needs the market's folder: set LEVIBOT_MARKET (or --path)."),
        ({"store_timeout_s": "nan"}, "LEVIBOT_STORE_TIMEOUT_S is 'nan'"),
        ({"usable_bars": "nan"}, "LEVIBOT_USABLE_BARS is 'nan'"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_its_name(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load(**values)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "Value error" not in str(refused.value)
    assert not str(refused.value).endswith("..")


def test_symbols_are_read_as_people_write_them() -> None:
    assert Settings.load(symbols=" btcusdt, ETHUSDT ,").symbols == ("BTCUSDT", "ETHUSDT")


def test_an_instant_without_a_zone_is_utc() -> None:
    assert Settings.load(train_start="2024-01-01").train_start == datetime(2024, 1, 1, tzinfo=UTC)
    berlin = Settings.load(train_start="2024-01-01T01:00:00+01:00").train_start
    assert berlin == datetime(2024, 1, 1, tzinfo=UTC)
    assert berlin is not None
    assert berlin.tzinfo is UTC


def test_folders_do_not_depend_on_where_a_process_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.load(home="state", market="x/../y").home == tmp_path / "state"
    assert Settings.load(market="x/../y").market == tmp_path / "y"


@pytest.mark.parametrize("written", ["models", "file:///base/models", "/base/models", "./x/../models"])
def test_models_in_a_folder_do_not_depend_on_where_a_process_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: str
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = written.replace("/base", str(tmp_path))
    assert Settings.load(models_url=asked).models_url == str(tmp_path / "models")


def test_models_in_a_bucket_are_left_as_they_are() -> None:
    assert Settings.load(models_url="s3://bucket/a/b").models_url == "s3://bucket/a/b"


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "https://x/y", "file://models"])
def test_models_elsewhere_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="LEVIBOT_MODELS_URL"):
        Settings.load(models_url=url)


instants = st.datetimes(datetime(1970, 1, 2), datetime(2199, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
names = st.from_regex(r"[A-Z0-9]{2,20}", fullmatch=True)
some_settings = st.fixed_dictionaries(
    {},
    optional={
        "home": st.sampled_from([Path("/a b/ü"), Path("/x,y")]),
        "source": st.sampled_from(["simulated", "exchange"]),
        "symbols": st.lists(names, min_size=1, unique=True).map(tuple),
        "bar_interval": st.sampled_from(list(INTERVALS)),
        "edge": st.floats(0.0, 0.1),
        "seed": st.integers(0, 10**30),
        "replay_speed": st.floats(1e-9, 1000.0),
        "replay_start": instants,
        "replay_wall_start": instants,
        "train_start": instants,
        "fresh_bars": st.floats(1e-3, 1e9),
        "redis_url": st.just("redis://user:p%40ss@host:1/0"),
    },
)


@given(values=some_settings)
def test_a_child_process_reads_the_very_same_settings(values: dict[str, Any]) -> None:
    settings = Settings.load(**values)
    with pytest.MonkeyPatch.context() as patch:
        for name, text in child_environment(settings).items():
            patch.setenv(name, text)
        again = Settings.load()
    assert again == settings
    assert again.market_id == settings.market_id


def test_a_child_finds_this_interpreters_tools_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/elsewhere")
    told = child_environment(Settings.load(), LEVIBOT_RUN_ID="r")
    assert told["PATH"].split(os.pathsep)[1:] == ["/elsewhere"]
    assert told["LEVIBOT_RUN_ID"] == "r"
    assert told["LEVIBOT_SYMBOLS"] == ",".join(DEFAULT_SYMBOLS)
    assert "LEVIBOT_MARKET" not in told


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"edge": 0.0},
        {"edge": 0.0300001},
        {"bar_interval": "4h"},
        {"source": "exchange"},
        {"source": "parquet", "market": "/a"},
        {"source": "parquet", "market": "/b"},
        {"source": "exchange", "exchange": "kraken"},
    ],
)
def test_another_market_has_another_name(change: dict[str, Any]) -> None:
    ids = {Settings.load().market_id, Settings.load(source="parquet", market="/c").market_id}
    assert Settings.load(**change).market_id not in ids


def test_edges_that_differ_in_any_digit_are_other_markets() -> None:
    edges = (0.0, 0.03, 0.03 + 1e-9, 0.1 / 3, 0.0333333)
    assert len({Settings.load(edge=edge).market_id for edge in edges}) == len(edges)
    assert Settings.load(edge=0.03).market_id == "simulated:seed=7:edge=0.03:1h"


def test_a_live_market_has_the_machines_clock_and_a_replay_its_own() -> None:
    assert isinstance(Settings.load(source="exchange").clock(), SystemClock)
    replay = Settings.load(
        bar_interval="4h", replay_speed=2.0, replay_start=NOON, replay_wall_start=datetime.now(UTC)
    ).clock()
    assert isinstance(replay, ReplayClock)
    assert replay.rate == 2 * timedelta(hours=4).total_seconds()
    assert replay.market_start == NOON


@pytest.mark.parametrize("given_one", [{"replay_start": NOON}, {"replay_wall_start": NOON}, {}])
def test_a_replay_without_its_two_instants_has_no_clock(given_one: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="The replay clock is not set"):
        Settings.load(**given_one).clock()
