"""What trials deploy, in a simulation with policies whose success is known.

    python -m benchmarks.studies.simulated_trials --num-envs 25 10 5 1 --episodes 200 --repetitions 200

The success of the policy in training changes linearly from the first own episode to the last. With `--reach`, it
differs from that of the champion by at most so much, because the KL keeps it near. The rules are those of
`softflow.algos.trial`; the critic's choice among chunks is left out. Episodes have different lengths, and a new one
starts where one has ended. The table has the mean true success of what trials deploy at the end, of what deploys after
held-out episodes have compared it with the policy in training, and of all own episodes, each with its standard error.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any

import numpy as np
import torch

from softflow.algos.trial import Arm, Trial, TrialConfig
from softflow.data import Episode
from softflow.training.evaluated import CONFIDENCE
from softflow.training.intervals import difference_interval

CURVES = {
    "0.40 -> 0.98": (0.40, 0.98),
    "0.54 -> 0.77": (0.54, 0.77),
    "0.70 -> 0.97": (0.70, 0.97),
    "0.54 -> 0.30": (0.54, 0.30),
}
"""The success of the policy in training at the first and the last own episode."""
SHORTEST, LONGEST = 0.5, 1.4
"""Lengths of episodes relative to their mean, drawn uniformly."""
HELD_OUT = 50
"""Number of held-out episodes of each policy."""


class KnownPolicy(torch.nn.Module):
    """A policy of which nothing matters but its success."""

    success: torch.Tensor

    def __init__(self, success: float) -> None:
        super().__init__()
        self.register_buffer("success", torch.tensor(success))

    @property
    def learnt(self) -> KnownPolicy:
        return self

    def twin(self) -> KnownPolicy:
        return KnownPolicy(self.success.item())


@dataclass(frozen=True)
class Simulated:
    """The end of a simulated run."""

    deployed: float
    """The true success of what trials deploy."""
    compared: float
    """The same after `HELD_OUT` episodes of this and of the last policy in training have been compared."""
    own: float
    """The mean true success of own episodes when they started."""


def simulate(
    first: float, last: float, episodes: int, num_envs: int, config: TrialConfig, seed: int, reach: float = 1.0
) -> Simulated:
    """Simulate a run.

    Args:
        first: The success of the policy in training before the first own episode. It acts first.
        last: The same after the last one.
        episodes: The number of own episodes.
        num_envs: The number of episodes that run at a time.
        config: The settings of the trials.
        seed: The seed of all draws.
        reach: The largest difference between the policy in training and the champion.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    trial: Trial[Any] = Trial(KnownPolicy(first), 1, config)  # type: ignore[type-var]
    trial.begin(KnownPolicy(first))
    running: list[tuple[float, int, int, float]] = []  # when it ends, its number, its arm, its success
    numbers, own = count(), 0.0
    ended: dict[int, Episode] = {}
    expected = 0

    def start(now: float) -> None:
        arm = trial.assign()
        policy = trial.challenger if Arm.decode(arm).challenger else trial.champion
        heappush(running, (now + rng.uniform(SHORTEST, LONGEST), next(numbers), arm, policy.success.item()))

    def in_training(done: int) -> float:
        """Return the success of the policy in training after so many own episodes."""
        champion = trial.champion.success.item()
        return float(np.clip(first + (last - first) * done / episodes, champion - reach, champion + reach))

    def in_order() -> Iterator[Episode]:
        nonlocal expected
        while expected in ended:
            yield ended.pop(expected)
            expected += 1

    for _ in range(num_envs):
        start(0.0)
    for done in range(1, episodes + 1):
        now, number, arm, success = heappop(running)
        own += success / episodes
        ended[number] = _episode(arm, rng.random() < success)
        trial.receive(in_order())
        if trial.judge():
            trial.begin(KnownPolicy(in_training(done)))
        start(now)
    best = trial.challenger if trial.best().challenger else trial.champion
    deployed = best.success.item()
    latest = in_training(episodes)
    (kept, its) = ((rng.binomial(HELD_OUT, rate), HELD_OUT) for rate in (deployed, latest))
    worse = difference_interval(its, kept, 2 * CONFIDENCE - 1)[0] > 0  # as `Evaluated.is_worse_than`
    return Simulated(deployed, latest if worse else deployed, own)


def _episode(arm: int, is_success: bool) -> Episode:
    reward = np.array([float(is_success)])
    return Episode(np.zeros((2, 1)), np.zeros((1, 1)), reward, True, False, bool(is_success), arm=arm)


def _shown(values: list[float]) -> str:
    return f"{np.mean(values):.3f} +- {np.std(values) / np.sqrt(len(values)):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, nargs="+", default=[25, 10, 5, 1], help="episodes at a time")
    parser.add_argument("--episodes", type=int, default=200, help="own episodes of a run")
    parser.add_argument("--repetitions", type=int, default=200, help="simulated runs")
    parser.add_argument("--reach", type=float, default=1.0, help="most that training differs from the champion")
    for name, value in (("fewest", TrialConfig.fewest), ("most", TrialConfig.most), ("window", TrialConfig.window)):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"trials.{name}")
    arguments = parser.parse_args()
    config = TrialConfig(fewest=arguments.fewest, most=arguments.most, window=arguments.window)
    torch.set_num_threads(1)
    print("| policy in training | environments | deployed by trials | after comparison | own episodes |")
    print("|---|---|---|---|---|")
    for name, (first, last) in CURVES.items():
        for number in arguments.num_envs:
            runs = [
                simulate(first, last, arguments.episodes, number, config, seed, arguments.reach)
                for seed in range(arguments.repetitions)
            ]
            columns = ([getattr(run, name) for run in runs] for name in ("deployed", "compared", "own"))
            print(f"| {name} | {number} |", " | ".join(map(_shown, columns)), "|", flush=True)


if __name__ == "__main__":
    main()
