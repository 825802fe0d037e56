"""A policy is exported only as what it is, and sees live what it saw in training."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx import numpy_helper

from deployments.models import Models
from levibot.errors import DataError, RegistryConflict, RegistryError, UnknownVersion, UsageError
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.signal import SignalModel
from levibot.serving.policy import FILE, LOGITS, Policy, open_graph, run_graph
from levibot.settings import Settings
from levibot.stores.connect import open_policies, open_registry
from rl.exam import decisions_of
from rl.export_gate import LARGEST_DIFFERENCE, N_ROWS, as_seen, check_parity
from rl.export_onnx import export, export_checkpoint
from rl.game import Actions, Episode, Game
from rl.planted_market import planted_market
from rl.policy import policy_spec
from rl.policy_graph import policy_graph
from rl.spaces import action_space, observation_space
from rl.traded_market import TradedMarket
from rl.trading_env import TradingEnv

DESCRIBED = {"market_id": "planted", "source": "simulated", "git_commit": None}


@pytest.fixture(scope="module")
def market() -> TradedMarket:
    return planted_market(900, 0.002, 1, keeps_unscaled=True)


@pytest.fixture(scope="module", params=["discrete", "continuous"])
def game(request: pytest.FixtureRequest) -> Game:
    return Game(cast(Actions, request.param))


def module_for(market: TradedMarket, game: Game, seed: int = 3, *, activation: Any = "tanh") -> Any:
    """A net that wants every position at times: its last layer says more than a fresh one's."""
    torch.manual_seed(seed)
    module = policy_spec(observation_space(market), action_space(game.actions), activation=activation).build()
    with torch.no_grad():
        for weight in module.pi.parameters():
            weight.normal_(std=0.5)
    return module


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings.load(
        home=tmp_path, redis_url=redis_url, postgres_dsn="postgresql://not.used/x", symbols=("BTCUSDT",)
    )


def test_a_policy_is_exported_as_what_it_is_and_its_card_says_so(
    market: TradedMarket, game: Game, tmp_path: Path
) -> None:
    settings = Settings.load(home=tmp_path)
    registry, module = open_policies(settings), module_for(market, game)
    version = export(module, market, game, registry, DESCRIBED, seed=5)
    assert export(module, market, game, registry, DESCRIBED, seed=5) == version
    stored = registry.load(version)
    found = stored.metadata["parity"]
    assert found["rows"] == N_ROWS
    assert found["decisions"] == 899
    assert set(found["largest_differences"]) == {"training", "random", "extreme"}
    assert max(found["largest_differences"].values()) <= LARGEST_DIFFERENCE
    assert stored.metadata["view_version"] == CORE.version
    assert set(stored.files) == {FILE}
    onnx.checker.check_model(onnx.load_from_string(stored.files[FILE]), full_check=True)
    assert market.data_hash in stored.card
    assert Policy.of(stored).played_by.bar_volatility == market.scaling.bar_volatility


@pytest.mark.parametrize("part", ["scaling", "weights"])
def test_a_graph_that_says_other_things_is_refused_with_the_difference(
    market: TradedMarket, game: Game, part: str
) -> None:
    module = module_for(market, game, activation="relu")
    graph = onnx.load_from_string(policy_graph(module, market.scaling, game.actions))
    shapes = {"scaling": (len(market.scaling.names),), "weights": (64, 64)}
    tensor = next(of for of in graph.graph.initializer if tuple(of.dims) == shapes[part])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.001 + 1e-4, tensor.name))
    with pytest.raises(RegistryError, match=r"differs from its policy by [\d.e-]+ on \w+ rows"):
        check_parity(module, graph.SerializeToString(), market, game, np.random.default_rng(1), 3_000)


@pytest.mark.parametrize(("bias", "bounded"), [(90.0, 20.0), (-90.0, -20.0)])
def test_a_log_deviation_is_bounded_as_in_training(market: TradedMarket, bias: float, bounded: float) -> None:
    game = Game("continuous")
    module = module_for(market, game)
    with torch.no_grad():
        module.pi.net.mlp[-1].bias[1] = bias
    graph = policy_graph(module, market.scaling, game.actions)
    assert market.unscaled is not None
    rows = np.concatenate([market.unscaled, np.zeros((len(market.unscaled), 3))], axis=1)
    said = run_graph(open_graph(graph, len(market.scaling.names)), rows)[LOGITS]
    # Not bounded, its exponential would be infinite in single precision, or 0.
    assert set(said[:, 1].tolist()) == {bounded}
    check_parity(module, graph, market, game, np.random.default_rng(1), 3_000)


def test_a_graph_that_reads_its_logits_as_other_positions_is_refused(market: TradedMarket) -> None:
    game = Game()
    graph = onnx.load_from_string(policy_graph(module_for(market, game), market.scaling, "discrete"))
    next(node for node in graph.graph.node if node.op_type == "ArgMax").op_type = "ArgMin"
    with pytest.raises(RegistryError, match="other actions or positions"):
        check_parity(
            module_for(market, game), graph.SerializeToString(), market, game, np.random.default_rng(1), 300
        )


@pytest.fixture(scope="module")
def policies(market: TradedMarket, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Any]:
    """Served and trained policies, by actions and seed."""
    registry = open_policies(Settings.load(home=tmp_path_factory.mktemp("policies")))
    made = {}
    for game in (Game(), Game("continuous")):
        for seed in range(3):
            module = module_for(market, game, seed)
            version = export(module, market, game, registry, DESCRIBED, seed=seed, n_rows=300)
            made[game.actions, seed] = Policy.of(registry.load(version)), module
    return made


@hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    actions=st.sampled_from(["discrete", "continuous"]),
    seed=st.integers(0, 2),
    drift=st.sampled_from([0.0, 0.002, 0.05]),
    episode=st.integers(0, 1_000),
)
def test_live_observations_and_positions_are_those_of_the_environment(
    policies: dict[tuple[str, int], Any],
    market: TradedMarket,
    actions: str,
    seed: int,
    drift: float,
    episode: int,
) -> None:
    policy, module = policies[actions, seed]
    game = Game(cast(Actions, actions), episode=Episode(200, random_start=True))
    own = planted_market(2_000, drift, 2, keeps_unscaled=True)
    assert own.unscaled is not None
    # Missing features, which both must fill and count alike.
    unscaled = own.unscaled.copy()
    unscaled[np.random.default_rng(episode).random(unscaled.shape) < 0.1] = np.nan
    played = replace(own, known=market.scaling.apply(unscaled), scaling=market.scaling, unscaled=unscaled)
    env, decide = TradingEnv.over(played, "BTCUSDT", game), decisions_of(module, game)
    seen, info = env.reset(seed=episode)
    account = policy.played_by.account(float(played.mark[info["row"]]))
    is_over = False
    while not is_over:
        row = info["row"]
        features = dict(zip(policy.feature_names, unscaled[row].tolist(), strict=True))
        observation = policy.observation(features, account)
        assert np.abs(as_seen(market.scaling, observation[None, :])[0] - seen).max() <= 1e-6
        action, choice = decide(seen[None, :]), policy.decide(observation)
        if actions == "discrete":
            assert (choice.action, choice.position) == (action[0], action[0] - 1)
            assert sum(choice.probabilities.values()) == pytest.approx(1.0, abs=1e-6)
            assert (
                max(choice.probabilities, key=choice.probabilities.__getitem__)
                == (("short", "flat", "long")[action[0]])
            )
        else:
            assert choice.position == pytest.approx(action[0, 0], abs=LARGEST_DIFFERENCE)
            assert not choice.probabilities
        seen, _, is_bankrupt, is_at_end, info = env.step(action)
        is_over = is_bankrupt or is_at_end
        # A continuous position is the same to 1e-5 only, and two accounts of two targets see two things.
        target = choice.position if actions == "discrete" else float(action[0, 0])
        account.advance(target, float(played.fill[row + 1]), float(played.mark[row + 1]))
        assert account.equity == info["equity"]


def test_another_view_is_refused_and_a_missing_feature_is_not_an_unnamed_one(
    policies: dict[tuple[str, int], Any],
) -> None:
    policy, _ = policies["discrete", 0]
    policy.check_served(CORE)
    with pytest.raises(RegistryConflict, match="was trained on view core"):
        policy.check_served(FeatureView("core", CORE.features[:-1]))
    account = policy.played_by.account(100.0)
    known = dict.fromkeys(policy.feature_names, np.nan)
    assert policy.decide(policy.observation(known, account)).position in (-1.0, 0.0, 1.0)
    with pytest.raises(DataError, match=f"{policy.feature_names[0]} and 0 others"):
        policy.observation(dict.fromkeys(policy.feature_names[1:], 0.0), account)
    with pytest.raises(DataError, match="has shape"):
        policy.decide(np.zeros(3))


@pytest.mark.stores
async def test_a_policy_can_never_be_the_model_that_serves(market: TradedMarket, settings: Settings) -> None:
    policies, models = open_policies(settings), open_registry(settings)
    version = export(module_for(market, Game()), market, Game(), policies, DESCRIBED, seed=1, n_rows=300)
    assert models.versions() == []
    # Also where somebody puts one among the models by hand.
    stored = policies.load(version)
    face = Models(settings)
    try:
        with pytest.raises(UnknownVersion):
            await face.activate(version, "test", None)
        strayed = models.publish(stored.metadata, stored.files)
        with pytest.raises(RegistryConflict, match="of kind 'policy'"):
            await face.activate(strayed, "test", None)
    finally:
        await face.close()
    assert await asyncio.to_thread(models.active) is None
    with pytest.raises(RegistryError, match="of kind 'policy'"):
        SignalModel.from_files(stored.metadata, stored.files)


def test_a_checkpoint_from_elsewhere_is_never_opened(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path / "home", source="simulated")
    elsewhere = tmp_path / "elsewhere" / "checkpoints" / "turn-000001"
    (elsewhere / "learner_group").mkdir(parents=True)
    (tmp_path / "home" / "trainings").mkdir(parents=True)
    (tmp_path / "home" / "trainings" / "link").symlink_to(elsewhere)
    for place in (elsewhere, tmp_path / "home" / "trainings" / "link"):
        with pytest.raises(UsageError, match="is not in"):
            export_checkpoint(settings, place)
