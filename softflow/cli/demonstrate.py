"""`softflow-demo`: have an environment's demonstrator record demonstrations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from softflow.cli.command_line import parse_command_line, run_main
from softflow.data import Episode, EpisodeBuilder, save_demonstrations
from softflow.envs import make_demonstrator, make_env
from softflow.envs.registry import Env
from softflow.errors import UserError
from softflow.training.progress import StageProgress


@dataclass
class DemoConfig:
    """Settings of `softflow-demo`."""

    env: str = "tape_cut"
    """Environment: a short name or a gymnasium id."""
    episodes: int = 200
    """Episodes to record, failures included."""
    seed: int = 0
    """Of the demonstrator and of the episodes."""
    out: str = "demonstrations.npz"
    """File to write; it must not exist."""
    env_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Arguments of the environment."""
    json: bool = False
    """Print one JSON object instead of a sentence."""


@run_main
def main(argv: Sequence[str]) -> None:
    config = parse_command_line(
        DemoConfig, argv, prog="softflow-demo", description="Record demonstrations of an environment's demonstrator."
    )
    path = Path(config.out)
    if path.exists():
        raise UserError(f"{path} exists; choose another --out")
    if config.episodes < 1:
        raise UserError(f"--episodes must be at least 1, got {config.episodes}")
    episodes = record_demonstrations(make_env(config.env, **config.env_options), config.episodes, config.seed)
    save_demonstrations(path, episodes)
    steps, successes = sum(map(len, episodes)), float(np.mean([episode.is_success for episode in episodes]))
    if config.json:
        print(json.dumps({"file": str(path), "episodes": len(episodes), "steps": steps, "success_rate": successes}))
    else:
        print(f"{path}: {len(episodes)} episodes, {steps:,} steps, success {successes:.2f}")


def record_demonstrations(environment: Env, episodes: int, seed: int) -> list[Episode]:
    """Record `episodes` of the environment's demonstrator.

    Raises:
        UserError: the environment has no demonstrator.
    """
    environment.reset(seed=seed * DEMONSTRATION_SEEDS)
    make_demonstrator(environment, np.random.default_rng(seed))  # if there is none, say so before anything is shown
    rng = np.random.default_rng(seed)
    recorded = []
    with StageProgress("demonstrations", episodes) as bar:
        for index in range(episodes):
            recorded.append(_record(environment, rng, seed * DEMONSTRATION_SEEDS + index))
            bar.update(1, success=float(np.mean([episode.is_success for episode in recorded])))
    return recorded


DEMONSTRATION_SEEDS = 10_000
"""Environment seeds set apart for the demonstrations of each run."""


def _record(environment: Env, rng: np.random.Generator, seed: int) -> Episode:
    observation, _ = environment.reset(seed=seed)
    demonstrator, builder = make_demonstrator(environment, rng), EpisodeBuilder()
    while True:
        action = demonstrator.act()
        following, reward, terminated, truncated, info = environment.step(action)
        builder.append(observation, action, float(reward))
        observation = following
        if terminated or truncated:
            success = bool(info.get("is_success", False))
            return builder.finish(observation, bool(terminated), bool(truncated), success, demonstrator.mode)
