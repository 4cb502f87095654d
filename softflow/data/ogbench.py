"""From OGBench's datasets to episodes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from softflow.data.episodes import Episode

KEYS = ("observations", "actions", "next_observations", "terminals", "masks")


def ogbench_episodes(dataset: Mapping[str, np.ndarray]) -> list[Episode]:
    """The episodes of a single-task dataset, as `ogbench.make_env_and_datasets` gives it.

    OGBench's recordings go on when the task is solved and know nothing of it; afterwards each transition gets a
    `mask`, 0 where it starts in a solved state. An episode here ends with the first such transition, terminal and with
    reward 1, all others are worth 0: what the environment gives with the option `sparse_success`. The next one begins
    where the task is no longer solved. What is left of a recording at its end is a truncated episode.

    Args:
        dataset: `observations` and `next_observations` (N, O), `actions` (N, A) in [-1, 1], `terminals` (N,), 1 on the
            last transition of a recording, `masks` (N,).

    Raises:
        ValueError: an array is missing, or they hold different numbers of transitions.
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
        )
        for begin, end in zip(begins, ends, strict=True)
    ]
