"""Writes datasets of minari and robomimic by h5py, as the original packages do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from softflow.data import Episode


def columns(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """The arrays that both formats have."""
    last = [np.arange(len(episode)) == len(episode) - 1 for episode in episodes]
    ended = np.concatenate([one & episode.terminated for one, episode in zip(last, episodes, strict=True)])
    return {
        "observations": np.concatenate([episode.observation[:-1] for episode in episodes]),
        "actions": np.concatenate([episode.action for episode in episodes]),
        "next_observations": np.concatenate([episode.observation[1:] for episode in episodes]),
        "rewards": np.concatenate([episode.reward for episode in episodes]),
        "terminals": ended,
        "timeouts": np.concatenate(last) & ~ended,
    }


def write_minari(root: Path, episodes: Sequence[Episode], limit: float = 1.0) -> None:
    """Write episodes with observations of one array as minari does, with the action bounds -limit and limit."""
    (root / "data").mkdir(parents=True)
    bounds = {
        "observation_space": (episodes[0].observation_dim, np.inf),
        "action_space": (episodes[0].action_dim, limit),
    }
    spaces = {
        name: json.dumps({"type": "Box", "dtype": "float32", "shape": [n], "low": [-bound] * n, "high": [bound] * n})
        for name, (n, bound) in bounds.items()
    }
    (root / "data/metadata.json").write_text(json.dumps({"total_episodes": len(episodes), **spaces}))
    with h5py.File(root / "data/main_data.hdf5", "w") as file:
        for index, episode in enumerate(episodes):
            arrays = columns([episode])
            file[f"episode_{index}/observations"] = episode.observation
            for name, column in dict(terminations="terminals", truncations="timeouts").items():
                file[f"episode_{index}/{name}"] = arrays[column]
            for name in ("actions", "rewards"):
                file[f"episode_{index}/{name}"] = arrays[name]


def write_robomimic(path: Path, episodes: Sequence[Episode]) -> None:
    """Write episodes with observations of one array as robomimic does with `--done_mode 0`."""
    with h5py.File(path, "w") as file:
        for index, episode in enumerate(episodes):
            arrays = columns([episode])
            names = {"obs/observation": "observations", "next_obs/observation": "next_observations"}
            for name, column in (names | dict(actions="actions", rewards="rewards", dones="terminals")).items():
                file[f"data/demo_{index}/{name}"] = arrays[column]
