"""How long own success would dip by chance, if the policy of each run never changed.

    python -m benchmarks.studies.chance_dips runs/suite

A dip is the number of steps for which the success of the latest own episodes stays more than 0.10 below its value on
held-out episodes when the policy starts to act (`longest_dip`). Both are shares of few episodes. Here they are
drawn anew for a policy with one true success: uniform before the held-out episodes, whose result is then known. So the
table says which dips of a run are more than chance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.dips import DEPTH, before_acting, longest_dip
from softflow.report.history import HeldOutResult, History, read_history
from softflow.training.own_episodes import RECENT_EPISODES

DRAWS = 2_000
LIMIT = 5_000
"""Steps of a dip that count as harm."""


def chance_dips(before: HeldOutResult, episodes: int, steps: float, rng: np.random.Generator) -> NDArray[np.floating]:
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
    is_low = recent < before.successes / before.episodes - DEPTH - 1e-9
    longest, current = np.zeros(DRAWS), np.zeros(DRAWS)
    for low in is_low.T:
        current = np.where(low, current + 1, 0)
        longest = np.maximum(longest, current)
    return np.maximum(longest - 1, 0) * steps


def line_of(task: str, run: History, rng: np.random.Generator) -> str | None:
    """Return the line of a run in the table, None if it has not acted."""
    before = before_acting(run)
    if before is None or not len(run.own_success):
        return None
    steps = float(np.mean([metric.value for metric in run.scalars["rollout/ep_len_mean"]]))
    episodes = round(run.own_success[-1, 0] / steps)
    dips = chance_dips(before, episodes, steps, rng)
    p50, p95 = np.percentile(dips, [50, 95])
    return (
        f"| {task} | {run.settings['algo']} | {run.seed} | {episodes} | {longest_dip(run):,.0f} | {p50:,.0f} | "
        f"{p95:,.0f} | {np.mean(dips > LIMIT):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of benchmarks.studies.suite")
    rng = np.random.default_rng(0)
    print(f"| task | method | seed | own episodes | dip | by chance, p50 | p95 | beyond {LIMIT:,} by chance |")
    print("|---|---|---|---|---|---|---|---|")
    for config in sorted(parser.parse_args().folder.glob("*/*/config.yaml")):
        if (line := line_of(config.parents[1].name, read_history(str(config.parent)), rng)) is not None:
            print(line)


if __name__ == "__main__":
    main()
