"""What of the graph is set in `ops/serve/*.yaml`: how it is built, and what changes while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import structlog
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from levibot.errors import DataError, SettingsError
from levibot.learning.members import checked_weights
from levibot.stores.canary_setting import CanaryLimits, CanarySetting

DEFINITIONS = Path(__file__).parents[1] / "ops" / "serve"
# The deployments of members, and the kinds of models that each has.
HOLDERS = {"LightGBM": ("lightgbm",), "XGBoost": ("xgboost",), "Lstm": ("lstm",), "Linear": ("linear",)}
FUSED = "Members"
# Those of every graph.
FIXED = ("Api", "Router", "RlPolicy")
log = structlog.get_logger()
Config = TypeVar("Config", bound=BaseModel)


class GraphArgs(BaseModel):
    """The `args` of the application: what takes a new graph."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    members: Literal["apart", "fused"] = Field(
        description="apart: each kind in processes of its own; fused: all of them in one"
    )

    def holders(self) -> dict[str, tuple[str, ...]]:
        """The deployments of members, and the kinds of each."""
        if self.members == "apart":
            return dict(HOLDERS)
        return {FUSED: tuple(kind for kinds in HOLDERS.values() for kind in kinds)}


class MembersConfig(BaseModel):
    """The `user_config` of a deployment of members."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kept_versions: int = Field(default=3, ge=2, le=16, description="versions that a replica holds at most")


class LimitsConfig(BaseModel):
    """Beyond any one of these a canary is rolled back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    error_share: float = Field(
        default=0.1, ge=0, le=1, description="of its newest bars that it fails to answer, alone"
    )
    latency_s: float = Field(default=1.0, gt=0, le=60, description="that 95 % of its newest answers take")
    drawdown: float = Field(default=0.1, gt=0, le=1, description="of its account from its highest equity")
    worse_by_bps: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="of equity a bar that it certainly earns less than the champion",
    )
    deadline_s: float = Field(default=2.0, gt=0, le=60, description="in which it answers, or has failed")


class CanaryConfig(BaseModel):
    """A version that a share of the callers is answered with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(pattern=r"^v\d+\.\d+\.\d+$")
    share: float = Field(ge=0, le=1, description="of the callers; at 0 it is only priced in shadow")
    attempt: int = Field(
        default=1, ge=1, le=1_000_000, description="one that was rolled back begins anew under a higher one"
    )
    limits: LimitsConfig = LimitsConfig()

    def setting(self) -> CanarySetting:
        """The same, as the core knows it."""
        limits = CanaryLimits(**self.limits.model_dump())
        return CanarySetting(self.version, self.share, self.attempt, limits)


class RouterConfig(BaseModel):
    """The `user_config` of the router."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pinned_version: str | None = Field(
        default=None, pattern=r"^v\d+\.\d+\.\d+$", description="answers instead of the active one"
    )
    weights: dict[str, float] | None = Field(
        default=None, description="by member, instead of the ensemble's; they sum to 1"
    )

    canary: CanaryConfig | None = Field(default=None, description="null: everybody has the champion's signal")

    @field_validator("weights")
    @classmethod
    def _are_weights(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None:
            try:
                checked_weights(np.array([*value.values()]), len(value))
            except DataError as exc:
                raise ValueError(str(exc)) from exc
        return value


def reconfigured(kind: type[Config], given: object, held: Config | None) -> Config:
    """The configuration that counts from now on: a bad one is refused in the log, and `held` goes on.

    Raises SettingsError on a bad one where none is held: a replica does not start on what it cannot read.
    """
    try:
        return kind.model_validate(given or {})
    except ValidationError as exc:
        message = _sentence("user_config", exc)
    if held is None:
        raise SettingsError(message, hint="Correct it in ops/serve and deploy again.")
    log.error("a new configuration is refused, and the one before goes on", reason=message)
    return held


def definition(name: str) -> tuple[ServeApplicationSchema, dict[str, Any]]:
    """The application of `ops/serve/<name>.yaml`, and the options of HTTP beside it.

    Raises SettingsError on a file that is not as Serve wants it, that lacks a deployment of its graph, or
    whose configurations no replica could start on: there each is tried again and again.
    """
    path = DEFINITIONS / f"{name}.yaml"
    there = ", ".join(sorted(file.stem for file in DEFINITIONS.glob("*.yaml")))
    try:
        schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
        (application,) = schema.applications
        args = GraphArgs.model_validate(application.args)
    except ValidationError as exc:
        raise SettingsError(f"In {path} {_sentence('definition', exc)}") from exc
    except (OSError, ValueError, yaml.YAMLError) as exc:
        reason = " ".join(str(exc).split())
        raise SettingsError(f"{path} cannot be read: {reason}.", hint=f"There are: {there}.") from exc
    given = {one.name: one for one in application.deployments}
    for wanted in (*FIXED, *args.holders()):
        if wanted not in given:
            raise SettingsError(f"{path} has no deployment {wanted}, which its graph has.")
    for holder in args.holders():
        reconfigured(MembersConfig, given[holder].user_config, None)
    reconfigured(RouterConfig, given["Router"].user_config, None)
    return application, schema.http_options.model_dump(exclude_unset=True)


def _sentence(of: str, exc: ValidationError) -> str:
    problem = exc.errors()[0]
    name = ".".join([of, *map(str, problem["loc"])])
    reason = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{name} is {problem['input']!r}: {reason}."
