"""Use your own environment and demonstrations: any gymnasium environment, and one .npz file.

    python examples/custom_environment.py

records scripted demonstrations into docking.npz and trains on them. The same from the shell:

    PYTHONPATH=examples softflow-train --env custom_environment:Docking-v0 --demos docking.npz

A demonstrator is registered as well, so the commands can also record demonstrations: leave out `--demos`, or run

    PYTHONPATH=examples softflow-demo --env custom_environment:Docking-v0 --out docking.npz
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import tyro
from gymnasium import spaces

import softflow
from softflow.data import Episode, EpisodeBuilder, save_demonstrations
from softflow.envs import make_demonstrator, make_env, register_task
from softflow.training.checked_environment import CheckedEnvironment

ENVIRONMENT = "custom_environment:Docking-v0"  # gymnasium imports the module, which registers the environment
STEP = 0.1


class Docking(gymnasium.Env[np.ndarray, np.ndarray]):
    """A cart must stop at a mark on its rail. A wall is behind the mark, and touching it ends the episode.

    Observation (2,): distance to the mark, and speed. Action (1,): acceleration in [-1, 1].
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.distance, self.speed = self.np_random.uniform(0.5, 1.0), 0.0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.speed += STEP * float(action[0])
        self.distance -= STEP * self.speed
        docked = abs(self.distance) < 0.02 and abs(self.speed) < 0.1
        return self._observe(), float(docked), docked or self.distance < -0.05, False, {"is_success": docked}

    def _observe(self) -> np.ndarray:
        return np.array([self.distance, self.speed], np.float32)


class DockingDemonstrator:
    """A noisy spring and damper, soft in mode 0 and stiff in mode 1."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        self.cart, self.rng, self.mode = env.unwrapped, rng, int(rng.integers(2))

    def act(self) -> np.ndarray:
        stiffness = 4.0 if self.mode else 1.5
        push = stiffness * self.cart.distance - 2 * np.sqrt(stiffness) * self.cart.speed
        return np.clip(push + self.rng.normal(0, 0.1, 1), -1, 1)


if "Docking-v0" not in gymnasium.registry:
    gymnasium.register("Docking-v0", entry_point=Docking, max_episode_steps=60)
    register_task("Docking-v0", demonstrator=DockingDemonstrator)


def demonstrate(env: CheckedEnvironment, rng: np.random.Generator, seed: int) -> Episode:
    """Record one episode in an explicit loop, as you would with a robot or with existing files."""
    observation, _ = env.reset(seed=seed)
    demonstrator = make_demonstrator(env, rng)
    builder = EpisodeBuilder()
    while True:
        action = demonstrator.act()
        following, reward, terminated, truncated, info = env.step(action)
        builder.append(observation, action, reward)
        observation = following
        if terminated or truncated:
            return builder.finish(observation, terminated, truncated, info["is_success"], mode=demonstrator.mode)


def main(updates: int = 300, steps: int = 5_000, episodes: int = 50) -> None:
    """Record 20 demonstrations, imitate them, learn online, and evaluate on held-out episodes.

    Args:
        updates: Number of imitation updates.
        steps: Number of environment steps to learn online.
        episodes: Number of held-out episodes.
    """
    env, rng = CheckedEnvironment(make_env(ENVIRONMENT)), np.random.default_rng(0)  # copies and checks every step
    shown = [demonstrate(env, rng, seed) for seed in range(20)]
    save_demonstrations("docking.npz", shown, softflow.TaskSpec.from_env(env))  # training compares it
    run = softflow.train(
        env=ENVIRONMENT,
        demos="docking.npz",
        num_demos=20,
        horizon=4,
        flow_options={"layers": 4, "width": 64},
        imitation={"updates": updates},
        online={"steps": steps},
        eval_episodes=episodes,
        threads=1,
    )
    print(f"success {run.evaluate(episodes).success_rate:.2f}; run folder {run.path}")


if __name__ == "__main__":
    tyro.cli(main)
