"""Small SOFT-FLOWs on handmade episodes, for the tests of the method; the episodes and stages serve others too."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softflow.algos import Algorithm, Data, SoftFlow, SoftFlowConfig, Stage
from softflow.algos.trial import TrialConfig
from softflow.data import Episode, Replay
from softflow.policies import FlowPolicy

GAUSSIAN = dict(flow="gaussian", flow_options={"width": 16, "depth": 1})
ONE_STEP = dict(
    horizon=1,
    n_action_steps=1,
    batch_size=64,
    critic_width=32,
    ema_rate=0.1,
    temperature=1.0,
    normalize_actions=False,
)
"""Settings of a small method of one-step chunks whose actions are not normalised."""
MIXTURE = dict(flow="coupling", flow_options={"layers": 2, "width": 32, "components": 4})


def make_algorithm(observation_dim: int = 1, action_dim: int = 1, **settings: Any) -> SoftFlow:
    """A small SOFT-FLOW whose actor minimises nothing until a test gives a weight; `imitation`, `offline` and so on
    are dicts of what to change in them."""
    stages = {name: settings.pop(name, {}) for name in ("imitation", "warmup", "offline", "online")}
    sizes = dict(horizon=1, n_action_steps=1, batch_size=64, critic_width=16, ema_rate=1.0)
    settings = dict(trials=TrialConfig(enabled=False), candidates=4) | settings
    settings = sizes | dict(normalize_actions=False) | GAUSSIAN | settings
    config = SoftFlowConfig(**settings)
    for stage in (config.offline, config.online):
        stage.q_weight = stage.kl_weight = stage.nll_weight = 0.0
        stage.critic_updates = 1
    for name, changes in stages.items():
        for key, value in changes.items():
            assert hasattr(getattr(config, name), key)
            setattr(getattr(config, name), key, value)
    torch.manual_seed(0)
    algorithm = SoftFlow(config, observation_dim, action_dim)
    algorithm.fit_normalizer(torch.zeros(observation_dim), torch.ones(observation_dim))
    return algorithm


def make_episode(
    actions: Sequence[float], rewards: Sequence[float], terminated: bool = True, first: int = 0
) -> Episode:
    """Observations count from `first`."""
    observation = np.arange(first, first + len(actions) + 1)[:, None]
    return Episode(observation, np.array(actions)[:, None], np.array(rewards), terminated, not terminated, False)


def make_data(offline: Sequence[Episode], online: Sequence[Episode] = ()) -> Data:
    dims = offline[0].observation_dim, offline[0].action_dim
    data = Data(Replay(10_000, *dims), Replay(10_000, *dims), np.random.default_rng(0))
    for episode in offline:
        data.offline.add_episode(episode)
    for episode in online:
        data.online.add_episode(episode)
    return data


def stage_named(algorithm: Algorithm, name: str) -> Stage:
    [stage] = [stage for stage in algorithm.schedule() if stage.name == name]
    return stage


def enter(algorithm: Algorithm, name: str) -> Stage:
    """End the stage before and begin this one, as the loop does."""
    stages = algorithm.schedule()
    index = [stage.name for stage in stages].index(name)
    if index:
        stages[index - 1].end()
    stages[index].begin()
    if stages[index].candidates is not None:
        algorithm.deployed.candidates = stages[index].candidates
    return stages[index]


def train(algorithm: Algorithm, name: str, data: Data, updates: int) -> dict[str, Tensor]:
    """Enter a stage and make that many updates; the scalars of the last."""
    stage, scalars = enter(algorithm, name), {}
    for update in range(updates):
        scalars = stage.update(data, update / updates)
    return scalars


def set_gaussian(policy: FlowPolicy, mean: float, std: float) -> None:
    """Make a Gaussian policy the same Gaussian in every dimension, whatever the observation."""
    log_std, bound = math.log(std), policy.flow.log_std_bound
    with torch.no_grad():
        last = policy.flow.net[-1]
        last.weight.zero_()
        last.bias[: len(last.bias) // 2] = mean
        last.bias[len(last.bias) // 2 :] = log_std / (1 - abs(log_std) / bound)  # undoes `bounded`


def start_from(algorithm: SoftFlow, mean: float, std: float) -> None:
    """Put in place of what imitation would have learnt."""
    for policy in (algorithm.actor, algorithm.policy, algorithm.imitation_policy):
        set_gaussian(policy, mean, std)


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def assert_goes_on_the_same(original: Any, twin: Any, name: str, data: Callable[[], Data], updates: int = 3) -> None:
    """What `original` saves, through a file, makes `twin` go on in a stage as it does itself."""
    parts = [*vars(twin).values(), *vars(twin.policy_learner if hasattr(twin, "policy_learner") else twin).values()]
    with torch.no_grad():  # what the state leaves out stays wrong
        for module in (part for part in parts if isinstance(part, torch.nn.Module)):
            for parameter in module.parameters():
                parameter.add_(1.0)
    file = io.BytesIO()
    torch.save(original.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    for algorithm in (original, twin):
        torch.manual_seed(7)
        stage, fresh = stage_named(algorithm, name), data()
        if stage.candidates is not None:
            algorithm.deployed.candidates = stage.candidates
        for update in range(updates):
            stage.update(fresh, update / updates)
    assert_same(weights(original.deployed), weights(twin.deployed))
    assert_same(weights(original.actor), weights(twin.actor))
    assert original.deployed.describe() == twin.deployed.describe()
