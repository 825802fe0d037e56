"""The net that is trained and served: runners, learner and export build theirs from one description."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from gymnasium import spaces
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

Activation = Literal["tanh", "relu"]


def policy_spec(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    hidden: Sequence[int] = (64, 64),
    activation: Activation = "tanh",
) -> RLModuleSpec:
    """A policy and a value of the same observation, each a net of its own.

    observation_space, action_space: of one account. hidden: units of each layer, the first layer first.
    With shared layers the value's error, which is the larger by orders here, would move the policy.
    """
    return RLModuleSpec(
        module_class=DefaultPPOTorchRLModule,
        observation_space=observation_space,
        action_space=action_space,
        model_config=DefaultModelConfig(
            fcnet_hiddens=list(hidden), fcnet_activation=activation, vf_share_layers=False
        ),
    )
