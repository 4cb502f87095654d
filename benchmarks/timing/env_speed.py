"""Measure control steps per second of CPU time, and the share of the time spent outside MuJoCo.

    python -m benchmarks.timing.env_speed --env cube_rotate --steps 5000

Actions are a random walk, and those of the demonstrator if there is one. The speed includes `reset`, the share does
not; the demonstrator's own time is excluded from both. Times are CPU time of this process, so other load on the machine
matters less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from softflow.envs import make_demonstrator, make_env
from softflow.errors import UserError

Act = Callable[[], NDArray[np.floating]]


@dataclass
class PhysicsClock:
    """Replacement for `mujoco.mj_step` that adds up the CPU seconds spent in it."""

    mj_step: Callable[..., None]
    seconds: float = 0.0

    def __call__(self, *arguments: Any) -> None:
        start = time.process_time()
        self.mj_step(*arguments)
        self.seconds += time.process_time() - start


def random_walk(env: gymnasium.Env[Any, Any], rng: np.random.Generator) -> Act:
    """Return a function that gives time-correlated random actions (A,) within the bounds."""
    action = np.zeros(env.action_space.shape, np.float32)

    def act() -> NDArray[np.floating]:
        action[:] = np.clip(0.8 * action + 0.6 * rng.normal(size=action.shape), -1, 1)
        return action

    return act


def measure(env: gymnasium.Env[Any, Any], make_act: Callable[[], Act], steps: int, clock: PhysicsClock) -> str:
    """Describe the steps per CPU second of `reset` and `step`, and the share of `step` outside `mj_step`."""
    resetting, stepping, physics, taken, episode = 0.0, 0.0, 0.0, 0, 0
    while taken < steps:
        start = time.process_time()
        env.reset(seed=episode)
        resetting += time.process_time() - start
        act, done = make_act(), False
        while not done:
            action = act()
            clock.seconds, start = 0.0, time.process_time()
            _, _, terminated, truncated, _ = env.step(action)
            stepping += time.process_time() - start
            physics += clock.seconds
            done, taken = terminated or truncated, taken + 1
        episode += 1
    return f"{taken / (resetting + stepping):.0f} steps per CPU-second, {1 - physics / stepping:.0%} outside mj_step"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="tape_cut", help="short name or gymnasium id of the environment")
    parser.add_argument("--steps", type=int, default=5000, help="control steps per measurement")
    arguments = parser.parse_args()
    env, rng = make_env(arguments.env), np.random.default_rng(0)
    clock = mujoco.mj_step = PhysicsClock(mujoco.mj_step)
    result = measure(env, lambda: random_walk(env, rng), arguments.steps, clock)
    print(f"{arguments.env}, random walk: {result}")
    try:
        result = measure(env, lambda: make_demonstrator(env, rng).act, arguments.steps, clock)
        print(f"{arguments.env}, demonstrator: {result}")
    except UserError as error:
        print(error)
    env.close()


if __name__ == "__main__":
    main()
