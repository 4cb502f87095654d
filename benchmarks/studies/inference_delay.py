"""Compare ways to continue a chunk while the next one is computed, under simulated inference delays.

    softflow-train --algo imitation --env peg_insertion --num-demos 40 --imitation.updates 1500 --run-dir runs/peg
    python -m benchmarks.studies.inference_delay runs/peg --delays 0 2 4 --strategies naive likeliest

With a delay of d steps, the chunk computed from the observation of step t takes over at step t + d; until then the
robot executes the previous one. A new chunk is computed every `n_action_steps` steps, as in the run. The first chunk of
an episode has no delay. For each delay and strategy (`softflow.policies.seam`), the study runs the same held-out
episodes and prints the success rate with its Wilson 95 % interval and the means over episodes of

    seam jump       the mean over the seams of the largest |a_t - a_(t-1)| of any action dimension, as a fraction of
                    the action range; t is the first step of a new chunk that was not committed
    largest jump    the same at the worst of all steps
    jerk            the root mean square third difference of the actions, in the same unit per step^3

The first row has the same numbers for the demonstrations that the run learnt from, with every step as a seam.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

import softflow
from softflow.data import Episode, observation_tensor
from softflow.policies import BestOfN
from softflow.policies.seam import STRATEGIES, continue_chunk, require_strategy
from softflow.runs.assembly import load_run, make_environments
from softflow.training.evaluation import HELD_OUT_SEEDS, summarize
from softflow.training.random_state import seed_all
from softflow.training.rollout import Rollout
from softflow.training.vector import closing

ACTION_RANGE = 2.0  # of actions in [-1, 1]
JERK_ORDER = 3


class Delayed:
    """A policy whose chunks arrive `delay` steps after their observation, for episodes that run side by side.

    It returns whole chunks whose first `delay` actions are those of the previous chunk. Executing the first
    `n_action_steps` of each is thus the same as switching to every chunk `delay` steps after its observation.
    """

    def __init__(self, deployed: BestOfN, delay: int, strategy: str, candidates: int) -> None:
        self.deployed, self.delay, self.strategy, self.candidates = deployed, delay, strategy, candidates
        self._remaining: dict[int, Tensor] = {}

    def act(self, observation: Tensor, episodes: Sequence[int]) -> Tensor:
        """Choose chunks: (B, O) and the number of each row's episode, either all new or all begun -> (B, H, A)."""
        if self._remaining:
            previous = torch.stack([self._remaining[number] for number in episodes])
            chunk = continue_chunk(self.deployed, observation, previous, self.delay, self.strategy, self.candidates)
        else:
            chunk = self.deployed.choose(observation)
        self._remaining = dict(zip(episodes, chunk[:, self.deployed.n_action_steps :], strict=True))
        return chunk


def run_episodes(environments: VectorEnv[Any, Any, Any], policy: Delayed, seed: int) -> tuple[list[Episode], int]:
    """Run one episode in every environment, all at the same time. Return those that ended and the number lost."""
    rollout = Rollout(environments, iter(range(seed, seed + environments.num_envs)))

    def act(observation: np.ndarray, arms: np.ndarray) -> np.ndarray:
        return policy.act(observation_tensor(observation), rollout.running_seeds).numpy()

    done, steps = list[Episode](), 1
    while steps:
        ended, steps = rollout.execute_chunks(act)
        done += ended
    return done, rollout.failures


def jumps(action: np.ndarray) -> np.ndarray:
    """Return the largest change of any dimension at steps 1 to T - 1, (T, A) -> (T - 1,), per action range."""
    return np.abs(np.diff(action, axis=0)).max(-1) / ACTION_RANGE


def jerk(action: np.ndarray) -> float:
    """Return the root mean square third difference, (T, A), per action range. It takes at least four steps."""
    return float(np.sqrt(np.square(np.diff(action, n=JERK_ORDER, axis=0)).mean())) / ACTION_RANGE


def row(label: str, episodes: Sequence[Episode], seams: slice, lost: int = 0) -> str:
    """Return the row of a table. Element t of `seams` is step t + 1; episodes too short for a number are left out."""
    result = summarize(episodes, lost)
    low, high = result.success_ci95
    changes = [jumps(episode.action) for episode in episodes]
    at_seams = [change[seams].mean() for change in changes if len(change[seams])]
    largest = [change.max() for change in changes if len(change)]
    rough = [jerk(episode.action) for episode in episodes if len(episode) > JERK_ORDER]
    numbers = " | ".join(f"{np.mean(one):.3f}" if one else "-" for one in (at_seams, largest, rough))
    return f"| {label} | {result.success_rate:.2f} [{low:.2f}, {high:.2f}] | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 2, 4], help="inference delays in control steps")
    parser.add_argument("--strategies", choices=list(STRATEGIES), nargs="+", default=["naive", "likeliest"])
    parser.add_argument("--candidates", type=int, default=16, help="number of chunks to choose among")
    parser.add_argument("--episodes", type=int, default=50, help="number of held-out episodes of each row")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEEDS, help="seed of the first episode")
    arguments = parser.parse_args()
    if min(arguments.episodes, arguments.candidates) < 1:
        parser.error("--episodes and --candidates must be at least 1")
    torch.set_num_threads(1)
    loaded, config = load_run(arguments.run)
    deployed = loaded.policy
    longest = min(deployed.n_action_steps, deployed.policy.horizon - deployed.n_action_steps)
    if not 0 <= min(arguments.delays) <= max(arguments.delays) <= longest:
        parser.error(f"--delays: this run's chunks bridge a delay of 0 to {longest} steps, got {arguments.delays}")
    print("| delay, strategy | success | seam jump | largest jump | jerk |\n|---|---|---|---|---|")
    print(row("demonstrations", softflow.Run(arguments.run).demonstrations().episodes, slice(None)))
    with closing(make_environments(config.run, arguments.episodes, deployed.n_action_steps)) as environments:
        for delay in arguments.delays:
            seams = slice(deployed.n_action_steps + delay - 1, None, deployed.n_action_steps)
            for strategy in arguments.strategies:
                label = f"{delay}, {strategy}"
                try:
                    require_strategy(deployed, strategy, delay)
                except ValueError as error:
                    print(f"| {label} | not possible: {error} | | | |", flush=True)
                    continue
                seed_all(arguments.seed)
                policy = Delayed(deployed, delay, strategy, arguments.candidates)
                episodes, lost = run_episodes(environments, policy, arguments.seed)
                print(row(label, episodes, seams, lost), flush=True)


if __name__ == "__main__":
    main()
