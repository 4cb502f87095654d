"""Actors: they act as the algorithm whose networks they have, and their bouts can be repeated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softflow.runs.actor import Actor
from softflow.runs.assembly import make_environment
from softflow.task import TaskSpec
from softflow.training.experience import explorer
from softflow.training.fleet import Bout
from tests.cli.foreign_policies import HORIZON
from tests.runs.learners import SIZES, configuration, learner

ACTING = [
    "filtered_imitation", "flow_q_learning", "latent_steering", "q_chunking", "residual", "rfs", "rfs_ppo",
    "sac_prior_data", "softflow", "softflow_gaussian", "softflow_paper", "softflow_per_step",
]  # fmt: skip


@pytest.mark.parametrize("trials", [True, False])
@pytest.mark.parametrize("algo", ACTING)
def test_an_actor_acts_as_the_algorithm_whose_networks_it_has(algo, trials):
    config = configuration(algo)
    if trials and hasattr(config.method, "trials"):
        config.method.trials.enabled, config.method.candidates = True, 4
    taught, teacher = learner(config, 1), learner(config, 2)
    if teacher.deployed.critic is not None:
        teacher.deployed.candidates = 3
    taught.act_by(teacher.acting())
    observation, arms = (
        np.random.default_rng(0).normal(size=(5, SIZES[0])).astype(np.float32),
        np.array([0, 1, 2, 3, 0]),
    )
    decided = []
    for algorithm in (teacher, taught):
        torch.manual_seed(0)
        decided.append(explorer(algorithm, "cpu")(observation, arms))
    for ours, theirs in zip(*decided, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_actors_get_does_not_change_while_the_learner_learns():
    algorithm = learner(configuration("softflow"), 0)
    given = algorithm.acting()
    before = {(part, key): value.clone() for part, state in given.networks.items() for key, value in state.items()}
    for _, weight in algorithm.named_weights():
        weight.data += 1
    assert all(torch.equal(given.networks[part][key], value) for (part, key), value in before.items())


def test_a_bout_is_the_same_on_every_actor():
    config = configuration("softflow")
    acting, bout = learner(config, 0).acting(), Bout([11, 12, 13], [0, 1, 2])
    actors = [Actor(config, *SIZES, environments=2) for _ in range(2)]
    actors[1].execute(Bout([5], [0]), acting)  # what came before does not matter
    first, second = (actor.execute(bout, acting) for actor in actors)
    assert first.steps == second.steps == sum(map(len, first.episodes))
    assert [(one.seed, one.arm) for one in first.episodes] == [(one.seed, one.arm) for one in second.episodes]
    assert {(one.seed, one.arm) for one in first.episodes} == set(zip(*bout, strict=True))
    for one, other in zip(first.episodes, second.episodes, strict=True):
        np.testing.assert_array_equal(one.observation, other.observation)
        np.testing.assert_array_equal(one.proposals.chunk, other.proposals.chunk)


@pytest.mark.parametrize("policy", ["Plain", "Noisy"])
def test_an_actor_steers_the_policy_of_another_project_in_its_units(policy):
    config, sizes = configuration("residual"), (3, 1)
    config.run.env, config.method.base = "Pendulum-v1", f"tests.cli.foreign_policies:{policy}"
    config.method.horizon, config.method.n_action_steps = HORIZON, 2
    taught = learner(config, 0, sizes)
    taught.deployed.task = TaskSpec.from_env(make_environment(config.run))
    returned = Actor(config, *sizes, environments=2).execute(Bout([11, 12], [0, 0]), taught.acting())
    assert [len(one) for one in returned.episodes] == [200, 200]
    first = returned.episodes[0]
    torch.manual_seed(0)
    chunk = taught.deployed.policy.propose(torch.tensor(first.observation[:1]))[0, 0, :2]
    if policy == "Plain":  # it draws nothing
        np.testing.assert_allclose(first.action[:2], chunk.detach(), rtol=1e-5)
