"""Conversion of OGBench's datasets to episodes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from softflow.data.episodes import Episode
from softflow.task import TaskSpec

KEYS = ("observations", "actions", "next_observations", "terminals", "masks")


def ogbench_episodes(dataset: Mapping[str, np.ndarray], task: TaskSpec | None = None) -> list[Episode]:
    """Convert a single-task dataset of `ogbench.make_env_and_datasets` to episodes.

    OGBench's recordings continue after the task is solved. Their transitions were labelled later with a `mask`, which
    is 0 for a transition that starts in a solved state. Here an episode ends with the first such transition, which is
    terminal and has reward 1. All other rewards are 0, as in the environment with the option `sparse_success`. The
    next episode starts where the task is no longer solved. The rest of a recording becomes a truncated episode.

    Args:
        dataset: `observations` and `next_observations` (N, O), `actions` (N, A) in [-1, 1], `terminals` (N,), 1 on the
            last transition of a recording, and `masks` (N,).
        task: The task of the episodes, if it is known. The observations are then rows of this task.

    Raises:
        ValueError: An array is missing, or the arrays have different numbers of transitions.
    """
    missing = [key for key in KEYS if key not in dataset]
    if missing:
        raise ValueError(
            f"the dataset has no {', '.join(missing)}: load it with ogbench.make_env_and_datasets, under the name of a "
            "singletask environment and without compact_dataset"
        )
    observations, actions, following, terminals, masks = (np.asarray(dataset[key]) for key in KEYS)
    lengths = {key: len(dataset[key]) for key in KEYS}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the arrays hold different numbers of transitions: {lengths}")
    solved, last = masks == 0, terminals != 0
    last[-1:] = True
    kept = ~solved
    kept[1:] |= ~solved[:-1] & ~last[:-1]  # the first solved one, in the same recording
    ends = np.flatnonzero(kept & (solved | last))
    begins = np.flatnonzero(kept & np.insert(~kept[:-1] | solved[:-1] | last[:-1], 0, True))
    return [
        Episode(
            observation=np.vstack([observations[begin : end + 1], following[end]]),
            action=actions[begin : end + 1],
            reward=solved[begin : end + 1].astype(np.float32),
            terminated=bool(solved[end]),
            truncated=not solved[end],
            is_success=bool(solved[end]),
            layout=None if task is None else task.layout,
            task=task,
        )
        for begin, end in zip(begins, ends, strict=True)
    ]
