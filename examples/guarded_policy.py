"""Run a policy with a guard, inject faults, and see which ones the guard flags by the actions or the observations.

    python examples/guarded_policy.py            # a few minutes
    python examples/guarded_policy.py --quick    # half a minute; the numbers mean nothing

A normalizing flow imitates demonstrations of tape_cut, and held-out demonstrations calibrate the guard. The table has a
row for each fault: success and shares of flagged chunks if the guard only monitors, and success if it also replaces
flagged chunks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.vector import VectorEnv
from torch import Tensor

import softflow
from softflow.data import Episode, whole_chunks
from softflow.envs.tape_cut.observation import OBSERVATION_BLOCKS
from softflow.policies import BestOfN, ChunkGuard, GuardedPolicy
from softflow.runs.assembly import make_environment
from softflow.training.config import RunConfig
from softflow.training.evaluation import evaluate_guarded, guard_shares
from softflow.training.vector import closing, vectorize

Choose = Callable[[Tensor], Tensor]


def experiment(runs: Path = Path("runs/guarded"), episodes: int = 30, seed: int = 0, quick: bool = False) -> None:
    """Imitate, calibrate the guard, and run held-out episodes with each fault, monitored and guarded.

    Args:
        runs: Folder for the run and the guard.
        episodes: Number of held-out episodes per fault.
        seed: Seed of everything random.
        quick: Use the smallest budgets.
    """
    base = softflow.train(
        "imitation",
        run_dir=runs / "base",
        num_demos=8 if quick else 100,
        imitation={"updates": 20 if quick else 2_000},
        eval_episodes=2,
        seed=seed,
        threads=1,
    )
    held_out = softflow.record_demonstrations("tape_cut", 8 if quick else 60, seed=seed + 1).episodes
    judge = base.make_guard(held_out, rate_factor=1.5)
    judge.save(runs / "guard")  # for softflow-eval, or for ChunkGuard.load on the robot

    policy, config = base.policy().deployed, base.config.run
    check_calibration(judge, held_out, base.demonstrations().episodes)
    report_latency(policy, judge)
    print(f"\n{'fault':<32}success  flagged  unfamiliar   if replaced: success  unlikely")
    for name, (chooses, sees) in faults(policy.choose, judge).items():
        results = []
        for attempts in (0, 8):
            torch.manual_seed(seed)
            guarded = GuardedPolicy(chooses, judge, policy.n_action_steps, attempts, policy.temperature)
            with side_by_side(config, sees, policy.n_action_steps, min(episodes, 10)) as environments:
                results.append(evaluate_guarded(environments, guarded, episodes))
        (watched, done), (replaced, _) = results
        success, unlikely = replaced.success_rate, replaced.guard["unlikely"]
        print(f"{name:<32}{watched.success_rate:7.2f}{shares(done)}{success:23.2f}{unlikely:10.3f}", flush=True)
        if name == "none":
            for success in (True, False):
                if chosen := [episode for episode in done if episode.is_success == success]:
                    ending = f"  {len(chosen)} that {'succeed' if success else 'fail'}"
                    print(f"{ending:<39}{shares(chosen)}")


def shares(episodes: Sequence[Episode]) -> str:
    """Return the mean shares of flagged and of unfamiliar chunks in two columns."""
    each = [guard_shares(episode) for episode in episodes]
    flagged, unfamiliar = (np.mean([share[name] for share in each]) for name in ("flagged", "unfamiliar"))
    return f"{flagged:9.3f}{unfamiliar:12.3f}"


def check_calibration(judge: ChunkGuard, held_out: Sequence[Episode], learned: Sequence[Episode]) -> None:
    """Print how much of one held-out half is flagged after calibration on the other half or on the training data."""
    half, horizon = len(held_out) // 2, judge.density.horizon
    observation, chunk = map(torch.as_tensor, whole_chunks(held_out[half:], horizon))
    seen = torch.as_tensor(whole_chunks(learned, 1)[0])
    for name, episodes in (("the other half", held_out[:half]), ("what the policy learnt from", learned)):
        guard = ChunkGuard(judge.density)
        guard.calibrate(seen, *map(torch.as_tensor, whole_chunks(episodes, horizon)), judge.quantile)
        flagged = (guard.log_prob(observation, chunk) < guard.threshold).float().mean()
        unfamiliar = (guard.distance(observation) > guard.distance_threshold).float().mean()
        print(f"half of the held-out chunks, by {name}: {flagged:.3f} flagged, {unfamiliar:.3f} unfamiliar")


def faults(choose: Choose, judge: ChunkGuard) -> dict[str, tuple[Choose, Callable | None]]:
    """Return the faults by name: of the policy's chunks, or of the observation that both policy and guard receive."""
    mean, std = judge.density.normalizer.mean, judge.density.normalizer.std
    names = [name for name, size, _ in OBSERVATION_BLOCKS for _ in range(size)]
    scissors = np.array([names.index("pivot"), names.index("opening")])  # range of the scissors' pose and velocity

    def noisy(share: float) -> Choose:
        def act(observation: Tensor) -> Tensor:
            chunk = choose(observation)
            struck = torch.rand(len(chunk), 1, 1) < share
            return (chunk + struck * 0.3 * torch.randn_like(chunk)).clamp(-1, 1)

        return act

    def stuck(observation: Tensor) -> Tensor:
        chunk = choose(observation).clone()
        chunk[..., 0] = 1.0
        return chunk

    def blind(observation: Tensor) -> Tensor:
        return choose(mean.expand_as(observation))

    def frozen(observation: np.ndarray, first: np.ndarray) -> np.ndarray:
        observation[slice(*scissors)] = first[slice(*scissors)]
        return observation

    def offset(observation: np.ndarray, first: np.ndarray) -> np.ndarray:
        observation[::5] += 2 * std[::5].numpy()
        return observation

    return {
        "none": (choose, None),
        "noise on every chunk": (noisy(1.0), None),
        "noise on one chunk in five": (noisy(0.2), None),
        "one action stuck": (stuck, None),
        "the policy alone sees nothing": (blind, None),
        "both: scissors' pose frozen": (choose, frozen),
        "both: one in five offset": (choose, offset),
    }


class Sensors(gymnasium.ObservationWrapper):
    """Wrapper that changes observations; `change` also receives the first observation of the episode."""

    def __init__(self, env: gymnasium.Env, change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        super().__init__(env)
        self.change = change

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.first = None
        return super().reset(**options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        self.first = observation.copy() if self.first is None else self.first
        return self.change(observation.copy(), self.first)


def side_by_side(
    config: RunConfig, change: Callable | None, n_action_steps: int, number: int
) -> AbstractContextManager[VectorEnv[Any, Any, Any]]:
    """Make vectorized environments of a run, with faulty sensors if there is a change."""

    def make() -> gymnasium.Env:
        environment = make_environment(config)
        return environment if change is None else Sensors(environment, change)

    return closing(vectorize([make] * number, n_action_steps))


def report_latency(policy: BestOfN, judge: ChunkGuard, calls: int = 200) -> None:
    """Print the shortest time of one decision, alone and with a guard that replaces nothing."""
    guarded = GuardedPolicy(policy.choose, judge, policy.n_action_steps, attempts=0)
    observation = judge.density.normalizer.mean[None]

    def times(decide: Callable[[Tensor], Any]) -> Iterator[float]:
        for _ in range(calls):
            start = time.perf_counter()
            decide(observation)
            yield 1e3 * (time.perf_counter() - start)

    alone, behind = (min(times(decide)) for decide in (policy.act, guarded.act))
    print(f"one decision: {alone:.1f} ms alone, {behind:.1f} ms behind the guard")


if __name__ == "__main__":
    tyro.cli(experiment)
