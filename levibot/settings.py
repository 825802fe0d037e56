"""The only reader of the environment. Built once at each process's entry and passed down."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from levibot.clock import Clock, ReplayClock, SystemClock
from levibot.errors import SettingsError
from levibot.market.symbols import check_symbols, parse_symbols

SourceName = Literal["simulated", "parquet", "exchange"]

INTERVALS = {
    "1m": timedelta(minutes=1),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "4h": timedelta(hours=4),
    "1d": timedelta(days=1),
}
# Instants outside these years are a slip of the pen, and would overflow further down.
YEARS = range(1970, 2201)
# A server of ours that starts later would find its port taken now and then.
RAY_WORKER_PORTS = range(10002, 20000)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DEFAULT_SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT")


class Settings(BaseSettings):
    """Everything that can be set, with its default. Each field is the variable `LEVIBOT_<FIELD>`.

    Raises SettingsError through `load`, with one sentence a field.
    """

    model_config = SettingsConfigDict(env_prefix="LEVIBOT_", frozen=True, extra="ignore")

    home: Path = Field(Path(".levibot"), description="state folder: stores, models, logs")

    source: SourceName = Field("simulated", description="where bars come from")
    market: Path | None = Field(None, description="folder of a recorded market (source=parquet)")
    symbols: Annotated[tuple[str, ...], NoDecode] = Field(DEFAULT_SYMBOLS, min_length=1)
    bar_interval: Literal["1m", "5m", "15m", "1h", "4h", "1d"] = "1h"
    edge: float = Field(0.03, ge=0.0, le=0.1, description="planted edge of the simulated market")
    seed: int = Field(7, ge=0, description="seed of the simulated market and of training")
    exchange: str = Field("binance", description="ccxt exchange id (source=exchange)")
    exchange_url: str | None = Field(None, description="a mirror or proxy of the exchange")
    trades: bool = Field(True, description="stream the exchange's trades into the tick store")

    # Data from outside the exchange. Without its key a source is disabled, and nothing else changes.
    dex_url: str = Field("https://api.0x.org", description="0x: quotes of decentralised exchanges")
    dex_key: str | None = Field(None, repr=False)
    nft_url: str = Field("https://api.reservoir.tools", description="Reservoir: floors of NFT collections")
    nft_key: str | None = Field(None, repr=False)
    news_url: str = Field("https://api.openai.com/v1", description="OpenAI: sentiment of headlines")
    news_key: str | None = Field(None, repr=False)
    news_model: str = Field("gpt-4o-mini", description="model that reads the headlines")
    news_budget_usd: float = Field(1.0, ge=0.0, description="what the headlines may cost a day, UTC")
    news_feed_url: str = Field(
        "https://www.coindesk.com/arc/outboundfeeds/rss/", description="RSS feed of the headlines to rate"
    )
    nft_collection: str = Field(
        "0xbc4ca0eda7647a8ab7c2061c2e118a18a936f13d", description="collection whose floor is watched"
    )
    funding_poll_s: float = Field(60.0, ge=0.1, le=3600.0, description="from one look at funding to the next")
    dex_poll_s: float = Field(60.0, ge=0.1, le=3600.0, description="the same for DEX quotes")
    nft_poll_s: float = Field(600.0, ge=0.1, le=86400.0, description="the same for NFT floors")
    news_poll_s: float = Field(900.0, ge=0.1, le=86400.0, description="the same for headlines")

    train_start: datetime | None = Field(None, description="first bar that training sees")
    replay_start: datetime | None = Field(None, description="where the replay of a market begins")
    replay_speed: float = Field(1.0, gt=0.0, le=1000.0, description="bars a second in a replay")
    replay_wall_start: datetime | None = Field(
        None, description="wall instant of `replay_start`; set by `up`"
    )

    fresh_bars: float = Field(2.0, gt=0.0, description="a value is stale when older than this many bars")
    usable_bars: float = Field(24.0, gt=0.0, description="a signal older than this many bars is refused")
    feature_ttl_s: float = Field(60.0, gt=0.0, le=1e8, description="life of a feature vector in Redis")
    feature_shards: int = Field(1, ge=1, le=64, description="processes that compute the live features")
    signal_cache_s: float = Field(
        0.1,
        ge=0.0,
        le=60.0,
        description="how long a replica tells a signal that it has read without a look into Redis",
    )
    served_share: float = Field(
        0.01, ge=0.0, le=1.0, description="share of the served feature vectors that the event log keeps"
    )

    graph: str = Field(
        "development",
        pattern=r"^[a-z][a-z0-9-]*$",
        description="definition of the serving graph, in ops/serve",
    )
    shadow_versions: Annotated[tuple[str, ...], NoDecode] = Field(
        (), max_length=4, description="model versions that run beside the served one, and decide nothing"
    )
    shadow_memory_mb: int = Field(
        2048, ge=1024, le=1_048_576, description="address space of each; one that needs more ends alone"
    )
    shadow_timeout_s: float = Field(10.0, gt=0.0, le=600.0, description="in which each answers, or is ended")

    api_keys: Literal["on", "off"] = Field(
        "on", description="off: anybody may ask everything, for development on loopback only"
    )
    api_key: str | None = Field(None, repr=False, description="the key that commands ask a run with")
    rate_limit_per_s: int = Field(500, ge=1, le=1_000_000, description="requests a second of one key")
    rate_limit_burst: int = Field(1000, ge=1, le=1_000_000, description="and so many at once after a pause")
    webhook_secret: str | None = Field(
        None, repr=False, min_length=32, description="signs webhooks; without it none are taken"
    )

    http_host: str = "127.0.0.1"
    http_port: int = Field(8000, ge=1, le=65535)
    dashboard_port: int = Field(8265, ge=1, le=65535)

    redis_url: str | None = Field(None, description="your Redis, instead of the embedded server")
    redis_cache_url: str | None = Field(None, description="a Redis for what may be evicted")
    postgres_dsn: str | None = Field(None, description="your PostgreSQL or TimescaleDB")
    postgres_replica_dsn: str | None = Field(None, description="takes the reads that allow lag")
    postgres_pool_min: int = Field(5, ge=0, le=100, description="connections kept open, a process")
    postgres_pool_max: int = Field(20, ge=1, le=500, description="connections at most, a process")
    clickhouse_url: str | None = Field(None, description="your ClickHouse, instead of the engine in process")
    event_spool_mb: int = Field(256, ge=1, description="events kept on disk while ClickHouse is away")
    models_url: str | None = Field(None, description="where models lie: a folder or s3://bucket/prefix")
    store_timeout_s: float = Field(2.0, gt=0.0, le=60.0)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Settings of the environment, with `overrides` on top. Raises SettingsError."""
        try:
            return cls(**overrides)
        except ValidationError as exc:
            problem = exc.errors()[0]
            name = "LEVIBOT_" + "_".join(str(part) for part in problem["loc"][:1]).upper()
            reason = problem["msg"].removeprefix("Value error, ").rstrip(".")
            field = cls.model_fields.get(str(problem["loc"][0])) if problem["loc"] else None
            # A secret that is refused is a secret all the same.
            shown = repr(problem["input"]) if field is None or field.repr else "not usable"
            message = f"{name} is {shown}: {reason}." if problem["loc"] else f"{reason}."
            raise SettingsError(message) from exc

    @field_validator("symbols", mode="before")
    @classmethod
    def _split_symbols(cls, value: object) -> object:
        if isinstance(value, str):
            return parse_symbols(value)
        return value

    @field_validator("symbols")
    @classmethod
    def _check_symbols(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_symbols(value)

    @field_validator("shadow_versions", mode="before")
    @classmethod
    def _split_versions(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(dict.fromkeys(name for part in value.split(",") if (name := part.strip())))
        return value

    @field_validator("http_port", "dashboard_port")
    @classmethod
    def _not_of_workers(cls, value: int) -> int:
        if value in RAY_WORKER_PORTS:
            first, last = RAY_WORKER_PORTS[0], RAY_WORKER_PORTS[-1]
            raise ValueError(f"Ray gives the ports {first} to {last} to its workers; take another")
        return value

    @field_validator("train_start", "replay_start", "replay_wall_start")
    @classmethod
    def _aware(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        if value.year not in YEARS:
            raise ValueError(f"the year is not one of {YEARS[0]} to {YEARS[-1]}")
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    @field_validator("home", "market")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # Processes of one run start in different folders.
        try:
            return None if value is None else value.expanduser().resolve()
        except RuntimeError as exc:
            raise ValueError(str(exc)) from exc

    @field_validator("models_url")
    @classmethod
    def _models_place(cls, value: str | None) -> str | None:
        if value is None:
            return None
        scheme, separator, rest = value.partition("://")
        if not separator or scheme == "file":
            folder = Path(rest if separator else value)
            if separator and not folder.is_absolute():
                raise ValueError("a file URL has three slashes: file:///folder")
            return str(cls._absolute(folder))
        if scheme != "s3" or rest.startswith("/") or not rest:
            raise ValueError("models lie in a folder or in s3://bucket/prefix")
        return value

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.source == "parquet" and self.market is None:
            raise ValueError("source parquet needs the market's folder: set LEVIBOT_MARKET (or --path).")
        if self.api_keys == "off" and self.http_host not in LOOPBACK:
            raise ValueError(
                f"LEVIBOT_API_KEYS is off and LEVIBOT_HTTP_HOST is {self.http_host}: without keys it "
                "listens on loopback only"
            )
        if self.postgres_pool_min > self.postgres_pool_max:
            raise ValueError(
                f"LEVIBOT_POSTGRES_POOL_MIN {self.postgres_pool_min} is above LEVIBOT_POSTGRES_POOL_MAX "
                f"{self.postgres_pool_max}."
            )
        return self

    @property
    def interval(self) -> timedelta:
        return INTERVALS[self.bar_interval]

    @property
    def market_id(self) -> str:
        """Names one market among those that a state folder may hold; bars and models carry it."""
        if self.source == "parquet":
            return f"parquet:{self.market}:{self.bar_interval}"
        if self.source == "exchange":
            return f"exchange:{self.exchange}:{self.bar_interval}"
        return f"simulated:seed={self.seed}:edge={self.edge!r}:{self.bar_interval}"

    def clock(self) -> Clock:
        """The market's clock: a replay's for recorded and simulated markets, the system's for a live one."""
        if self.source == "exchange":
            return SystemClock()
        if self.replay_start is None or self.replay_wall_start is None:
            raise SettingsError(
                "The replay clock is not set.",
                hint="Start the system with `python -m levibot up`, or set LEVIBOT_REPLAY_START and "
                "LEVIBOT_REPLAY_WALL_START.",
            )
        rate = self.interval.total_seconds() * self.replay_speed
        return ReplayClock(self.replay_start, self.replay_wall_start, rate)

    def environment(self) -> dict[str, str]:
        """These settings as variables, for a process started by this one."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        as_text = {
            name: ",".join(v)
            if isinstance(v, tuple)
            else v.isoformat()
            if isinstance(v, datetime)
            else str(v)
            for name, v in values.items()
            if v is not None
        }
        return {f"LEVIBOT_{name.upper()}": text for name, text in as_text.items()}


def child_environment(settings: Settings, **extra: str) -> dict[str, str]:
    """The environment for a process of ours: this one's, the settings, this interpreter's tools first."""
    tools = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    return {**os.environ, "PATH": f"{tools}{os.pathsep}{path}", **settings.environment(), **extra}
