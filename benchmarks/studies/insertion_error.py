"""Success on tape_cut by the lateral error of the blades when they are inserted at the ribbon.

    python -m benchmarks.studies.insertion_error runs/study/tape_cut/softflow_s2 --episodes 200

Prints the number of episodes and their success rate by insertion error, for the run's demonstrations and for held-out
episodes of its policy. Insertion is the first step at which the seam is within REACH of the pivot along the blades,
with the scissors lifted and square to the ribbon.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

import softflow
from softflow.data import Episode
from softflow.envs.tape_cut.observation import FINE_BLOCKS, OBSERVATION_SLICES
from softflow.training.evaluation import HELD_OUT_SEEDS

REACH, ASIDE, SQUARE = 0.085, 0.05, 0.3  # m, m, and cosine between blades and ribbon
EDGES = (0, 5, 10, 15, 50)  # mm


def insertion_error(episode: Episode) -> float:
    """Return the distance in mm from the blades' middle to the ribbon, perpendicular to its face, at insertion.

    It is NaN if the blades are never inserted.
    """
    block = {name: episode.observation[:, part] for name, part in OBSERVATION_SLICES.items()}
    [scale] = [scale for name, _, scale in FINE_BLOCKS if name == "seam_in_fixture_coarse"]
    aside, along = scale * np.arctanh(block["seam_in_fixture_coarse"].astype(float).clip(-0.9999, 0.9999)).T
    square = np.abs(block["yaw_from_fixture"][:, 1]) < SQUARE
    inside = square & (block["lifted"][:, 0] > 0) & (np.abs(along) < REACH) & (np.abs(aside) < ASIDE)
    return 1000 * abs(float(aside[inside.argmax()])) if inside.any() else float("nan")


def row(label: str, episodes: Sequence[Episode]) -> str:
    error = np.array([insertion_error(episode) for episode in episodes])
    success = np.array([episode.is_success for episode in episodes])
    groups = [(error >= low) & (error < high) for low, high in pairwise(EDGES)]
    groups += [np.isnan(error), np.ones(len(error), bool)]
    cells = [f"{success[group].mean():.2f} of {group.sum()}" if group.any() else "none" for group in groups]
    return f"| {label} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--episodes", type=int, default=200, help="number of held-out episodes of the policy")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEEDS, help="seed of the first held-out episode")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = softflow.Run(arguments.run)
    _, episodes = run.evaluate_episodes(arguments.episodes, seed=arguments.seed)
    columns = [f"{low} to {high} mm" for low, high in pairwise(EDGES)]
    print(f"| success of | {' | '.join([*columns, 'never in', 'all'])} |")
    print("|---" * (len(columns) + 3) + "|")
    print(row("demonstrations", run.demonstrations().episodes))
    print(row("policy", episodes))


if __name__ == "__main__":
    main()
