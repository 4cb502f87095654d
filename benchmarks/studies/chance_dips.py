"""How long own success would dip by chance, if the policy of each run never changed.

    python -m benchmarks.studies.chance_dips runs/suite

A dip is the number of steps for which the success of the latest own episodes stays more than 0.10 below its value on
held-out episodes when the policy starts to act (`Run.longest_dip`). Both are shares of few episodes. Here they are
drawn anew for a policy with one true success: uniform before the held-out episodes, whose result is then known. So the
table says which dips of a run are more than chance.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softflow.studies.run_results import Evaluation, Run, read_run
from softflow.training.own_episodes import RECENT_EPISODES
from softflow.training.run_folder import RunFolder

DRAWS = 2_000
LIMIT = 5_000
"""Steps of a dip that count as harm."""


def chance_dips(before: Evaluation, episodes: int, steps: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """Return the longest dips (DRAWS,), in steps, of a policy that never changes.

    Args:
        before: The evaluation before the policy starts to act.
        episodes: Number of own episodes.
        steps: The mean number of steps of an own episode.
        rng: The random generator.
    """
    success = rng.beta(before.successes + 1, before.episodes - before.successes + 1, DRAWS)
    outcomes = rng.random((DRAWS, episodes)) < success[:, None]
    total = np.concatenate([np.zeros((DRAWS, 1)), outcomes.cumsum(1)], 1)
    ends = np.arange(1, episodes + 1)
    begins = np.maximum(ends - RECENT_EPISODES, 0)
    recent = (total[:, ends] - total[:, begins]) / (ends - begins)
    is_low = recent < before.successes / before.episodes - 0.1 - 1e-9
    longest, current = np.zeros(DRAWS), np.zeros(DRAWS)
    for low in is_low.T:
        current = np.where(low, current + 1, 0)
        longest = np.maximum(longest, current)
    return np.maximum(longest - 1, 0) * steps


def mean_length(folder: Path) -> float:
    """Return the mean number of steps of own episodes, over the rows of the log."""
    with RunFolder.open(folder).metrics_path.open(newline="", encoding="utf-8") as file:
        rows = [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "rollout/ep_len_mean"]
    return float(np.mean(rows))


def line_of(folder: Path, run: Run, rng: np.random.Generator) -> str | None:
    """Return the line of a run in the table, None if it has not acted."""
    before = [evaluation for evaluation in run.evaluations if evaluation.steps == 0][-1:]
    if not before or not len(run.own_episodes):
        return None
    steps = mean_length(folder)
    episodes = round(run.own_episodes[-1, 0] / steps)
    dips = chance_dips(before[0], episodes, steps, rng)
    p50, p95 = np.percentile(dips, [50, 95])
    return (
        f"| {folder.parent.name} | {run.algo} | {run.seed} | {episodes} | {run.longest_dip():,.0f} | {p50:,.0f} | "
        f"{p95:,.0f} | {np.mean(dips > LIMIT):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of benchmarks.studies.suite")
    rng = np.random.default_rng(0)
    print(f"| task | method | seed | own episodes | dip | by chance, p50 | p95 | beyond {LIMIT:,} by chance |")
    print("|---|---|---|---|---|---|---|---|")
    for config in sorted(parser.parse_args().folder.glob("*/*/config.yaml")):
        if (line := line_of(config.parent, read_run(config.parent), rng)) is not None:
            print(line)


if __name__ == "__main__":
    main()
