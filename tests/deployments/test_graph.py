"""The definitions of the graph, and what a running one takes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

from deployments import graph
from deployments.app import as_defined, build_app
from deployments.graph import DEFINITIONS, HOLDERS, MembersConfig, RouterConfig, definition, reconfigured
from levibot.errors import SettingsError
from levibot.learning.models.kinds import MODELS
from levibot.stores.canary_setting import CanaryLimits, CanarySetting


@pytest.mark.parametrize(
    ("name", "members"),
    [("development", {"Members"}), ("apart", set(HOLDERS)), ("production", set(HOLDERS))],
)
def test_a_definition_sets_every_deployment_of_its_graph(name: str, members: set[str]) -> None:
    application, http_options = definition(name)
    assert http_options["host"] == "127.0.0.1"
    assert {one.name for one in application.deployments} == {"Api", "Router", "RlPolicy"} | members
    for one in application.deployments:
        given = one.model_dump(exclude_unset=True)
        assert given["max_ongoing_requests"] > 0
        assert given["max_queued_requests"] > 0
        if one.name not in ("Api", "RlPolicy"):
            config = RouterConfig if one.name == "Router" else MembersConfig
            assert set(given["user_config"]) == set(config.model_fields)
            config.model_validate(given["user_config"])
    # As `serve deploy` calls the builder, and as `up` does: both give a graph of these deployments.
    built = call_user_app_builder_with_args_if_necessary(build_app, application.args)
    assert built._bound_deployment.name == "Api"
    assert as_defined(application)._bound_deployment.name == "Api"


def test_a_definition_with_a_bad_part_is_refused_in_one_sentence_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = (DEFINITIONS / "development.yaml").read_text()
    (tmp_path / "weights.yaml").write_text(text.replace("weights: null", "weights: {trend: 0.7}"))
    (tmp_path / "torn.yaml").write_text(text[: text.index("- name: Members")])
    (tmp_path / "split.yaml").write_text(text.replace("members: fused", "members: halved"))
    (tmp_path / "curly.yaml").write_text("a: [}")
    monkeypatch.setattr(graph, "DEFINITIONS", tmp_path)
    for name, sentence in {
        "weights": r"user_config\.weights is .*sum to 0\.7",
        "torn": r"torn\.yaml has no deployment Members",
        "split": r"split\.yaml definition\.members is 'halved'",
        "curly": r"curly\.yaml cannot be read: ",
        "nowhere": r"nowhere\.yaml cannot be read: .* There are: curly, split, torn, weights\.",
    }.items():
        with pytest.raises(SettingsError, match=sentence) as refused:
            definition(name)
        assert "\n" not in str(refused.value)


def test_a_canary_without_limits_has_those_that_the_core_says() -> None:
    canary = RouterConfig.model_validate({"canary": {"version": "v1.1.0", "share": 0.1}}).canary
    assert canary is not None
    assert canary.setting() == CanarySetting("v1.1.0", 0.1, 1, CanaryLimits())


def test_every_kind_of_models_has_one_holder() -> None:
    assert sorted(kind for kinds in HOLDERS.values() for kind in kinds) == sorted(MODELS)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"weights": {"trend": 0.7}}, "user_config.weights is .*sum to 0.7"),
        ({"pinned_version": "newest"}, "user_config.pinned_version is 'newest'"),
        ({"wieghts": {}}, "user_config.wieghts is"),
        ("fast", "user_config is 'fast'"),
        ({"canary": {"version": "v1.1.0"}}, "user_config.canary.share is"),
        ({"canary": {"version": "v1.1.0", "share": 1.5}}, "user_config.canary.share is 1.5: .*equal to 1"),
        ({"canary": {"version": "newest", "share": 0.1}}, "user_config.canary.version is 'newest'"),
        (
            {"canary": {"version": "v1.1.0", "share": 0.1, "limits": {"drawdown": 0}}},
            "user_config.canary.limits.drawdown is 0: .*greater than 0",
        ),
    ],
)
def test_a_bad_configuration_is_refused_and_the_one_before_goes_on(given: object, named: str) -> None:
    held = RouterConfig(pinned_version="v1.0.0")
    assert reconfigured(RouterConfig, given, held) is held
    with pytest.raises(SettingsError, match=named):
        reconfigured(RouterConfig, given, None)
