"""Control steps per second of CPU time: under a random walk of actions, and under the demonstrator where there is one.

    python benchmarks/env_speed.py --env tape_cut --steps 5000

The demonstrator's own time is not counted.  Times are CPU time of this process, so a busy machine matters less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.envs import make_demonstrator, make_env
from softflow.errors import UserError

Act = Callable[[], NDArray[np.floating]]


def random_walk(env: gymnasium.Env[Any, Any], rng: np.random.Generator) -> Act:
    """Actions of (A,) that wander between the bounds, correlated in time."""
    action = np.zeros(env.action_space.shape, np.float32)

    def act() -> NDArray[np.floating]:
        action[:] = np.clip(0.8 * action + 0.6 * rng.normal(size=action.shape), -1, 1)
        return action

    return act


def steps_per_second(env: gymnasium.Env[Any, Any], make_act: Callable[[], Act], steps: int) -> float:
    """Steps over the CPU time spent in ``reset`` and ``step``."""
    spent, taken, episode = 0.0, 0, 0
    while taken < steps:
        start = time.process_time()
        env.reset(seed=episode)
        spent += time.process_time() - start
        act, done = make_act(), False
        while not done:
            action = act()
            start = time.process_time()
            _, _, terminated, truncated, _ = env.step(action)
            spent += time.process_time() - start
            done, taken = terminated or truncated, taken + 1
        episode += 1
    return taken / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="tape_cut", help="short name or gymnasium id")
    parser.add_argument("--steps", type=int, default=5000, help="control steps per measurement")
    arguments = parser.parse_args()
    env, rng = make_env(arguments.env), np.random.default_rng(0)
    speed = steps_per_second(env, lambda: random_walk(env, rng), arguments.steps)
    print(f"{arguments.env}, random walk: {speed:.0f} steps per CPU-second")
    try:
        speed = steps_per_second(env, lambda: make_demonstrator(env, rng).act, arguments.steps)
        print(f"{arguments.env}, demonstrator: {speed:.0f} steps per CPU-second")
    except UserError as error:
        print(error)
    env.close()


if __name__ == "__main__":
    main()
