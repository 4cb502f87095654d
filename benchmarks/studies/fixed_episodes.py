"""Measure on a fixed set of own episodes what the critic's choice and the terms of the actor are worth.

    softflow-train --env peg_insertion --num-demos 40 --online.steps 0 --run-dir runs/peg
    python -m benchmarks.studies.fixed_episodes runs/peg --critic-updates 2000 8000 --candidates 1 4 8 16
    python -m benchmarks.studies.fixed_episodes runs/peg --critic-updates 2000 --actor-updates 300 600 1200 \
        --online '{q_weight: 1.0, kl_weight: 0.3, nll_weight: 0.0}'

The policy that a run of `softflow` had after imitation executes some episodes. On these and the demonstrations, a new
critic learns, then the actor. After each given number of updates, the policy is evaluated on held-out episodes, with
one chunk and with the critic's choice among several. Nothing new is collected, so this shows in minutes what a change
of the objective does, without the noise of what was collected.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch
import yaml
from gymnasium.vector import VectorEnv

from softflow.algos import SoftFlow
from softflow.algos.base import Data
from softflow.algos.softflow_settings import SoftFlowConfig
from softflow.algos.trial import TrialConfig
from softflow.data import Decision, Episode, ImitationRule, Replay, load_dataset
from softflow.policies import BestOfN
from softflow.runs.assembly import load_run, make_environments, make_mirror
from softflow.training.evaluation import evaluate
from softflow.training.failures import EnvironmentErrors
from softflow.training.random_state import seed_all
from softflow.training.rollout import Rollout
from softflow.training.run_folder import RunFolder

OWN_SEEDS, TEST_SEEDS = 5_000_000, 2_000_000
"""First seeds of the own episodes and of the held-out ones, which no run uses."""

Environments = VectorEnv[Any, Any, Any]


def collect(environments: Environments, acting: BestOfN, number: int) -> list[Episode]:
    """Execute `number` episodes, with the chunks that were proposed."""
    rollout = Rollout(environments, iter(range(OWN_SEEDS, OWN_SEEDS + number)), EnvironmentErrors())

    def explore(observation: np.ndarray, arms: np.ndarray) -> Decision[np.ndarray]:
        actions, proposed = acting.decide(torch.as_tensor(observation, dtype=torch.float32))
        return Decision(actions.numpy(), proposed=proposed.numpy())

    episodes, steps = list[Episode](), 1
    while steps:
        ended, steps = rollout.execute_chunks(explore)
        episodes += ended
    return episodes


def success(environments: Environments, acting: BestOfN, episodes: int) -> float:
    """Return the success rate on held-out episodes."""

    def act(observation: np.ndarray) -> np.ndarray:
        return acting.act(torch.as_tensor(observation, dtype=torch.float32)).numpy()

    return evaluate(environments, act, episodes, TEST_SEEDS)[0].success_rate


def make_replay(
    episodes: Sequence[Episode],
    method: SoftFlowConfig,
    rule: ImitationRule,
    mirror: Callable[[Episode], Episode] | None,
) -> Replay:
    """Return a replay of the episodes and their mirror images."""
    every = [*episodes, *(map(mirror, episodes) if mirror else ())]
    rows, sizes = sum(len(one) + 1 for one in every), (every[0].observation_dim, every[0].action_dim)
    replay = Replay(rows, *sizes, horizon=method.horizon, n_action_steps=method.n_action_steps, imitate=rule)
    for episode in every:
        replay.add_episode(episode)
    return replay


def stages(totals: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Return each total with the number of updates since the one before."""
    return zip(totals, np.diff(totals, prepend=0).tolist(), strict=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run of softflow")
    parser.add_argument("--episodes", type=int, default=300, help="number of own episodes")
    parser.add_argument("--held-out", type=int, default=200, help="number of held-out episodes of each evaluation")
    parser.add_argument("--critic-updates", type=int, nargs="+", default=[8000], help="updates of the critic alone")
    parser.add_argument("--actor-updates", type=int, nargs="*", default=[], help="updates of the actor after those")
    parser.add_argument("--online", type=yaml.safe_load, default={}, help="settings of the stage online, as YAML")
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 4], help="numbers of chunks to choose among")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.35], help="temperatures of these chunks")
    args = parser.parse_args()

    deployed, config = load_run(args.run, stage="imitation")
    run, trained = config.run, deployed.policy.policy
    torch.set_num_threads(1)
    seed_all(run.seed)
    method = replace(config.method, trials=TrialConfig(enabled=False))
    demonstrations = list(load_dataset(RunFolder.open(args.run).path / "demonstrations.npz").episodes)
    algorithm = SoftFlow(method, demonstrations[0].observation_dim, demonstrations[0].action_dim)
    algorithm.load_base(trained)
    algorithm.fit_critics()
    environments = make_environments(run, run.num_envs, method.n_action_steps)

    def acting(candidates: int, temperature: float) -> BestOfN:
        critic = algorithm.critic if candidates > 1 else None
        return BestOfN(algorithm.policy, critic, method.n_action_steps, candidates, temperature)

    def report(what: str) -> None:
        for candidates, temperature in product(args.candidates, args.temperatures):
            rate = success(environments, acting(candidates, temperature), args.held_out)
            print(f"{what}: {candidates} candidates at temperature {temperature:g}: {rate:.3f}", flush=True)

    own = collect(environments, acting(1, method.temperature), args.episodes)
    rate = np.mean([episode.is_success for episode in own])
    print(f"{len(own)} own episodes, {sum(map(len, own)):,} steps, success {rate:.3f}")
    mirror = make_mirror(run)
    rule = ImitationRule(run.imitate).choose(demonstrations).rule
    replays = [make_replay(episodes, method, rule, mirror) for episodes in (demonstrations, own)]
    data = Data(*replays, np.random.default_rng(run.seed))
    for total, updates in stages(args.critic_updates):
        for _ in range(updates):
            algorithm.learn_values(data, 0.0)
        report(f"{total:,} critic updates")
    stage = replace(method.online, **args.online)
    algorithm.policy_learner.restart(stage.learning_rate)
    for total, updates in stages(args.actor_updates):
        for _ in range(updates):
            algorithm.improve(stage, data, 0.0)
        report(f"{total:,} actor updates")


if __name__ == "__main__":
    main()
