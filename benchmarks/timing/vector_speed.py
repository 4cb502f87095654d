"""Measure control steps per second of wall time: vector environments in several processes against one environment.

    python -m benchmarks.timing.vector_speed --env tape_cut --processes 2

The last line is the limit of the machine: as many independent processes with one environment each. Actions are random
chunks of four. The cases are measured five times in turn, and a ratio is the median over the turns. The machine should
be idle.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count

import numpy as np
from numpy.typing import NDArray

from softflow.envs import make_env
from softflow.training.rollout import Rollout
from softflow.training.vector import closing, vectorize

EXECUTE = 4  # actions per chunk
TURNS = 5


def rate(name: str, steps: int, number: int = 1, processes: int = 1) -> float:
    """Return the control steps per second of `number` environments in `processes`, including this one."""
    with closing(vectorize([partial(make_env, name)] * number, EXECUTE, "async", processes)) as environments:
        rng, rollout = np.random.default_rng(0), Rollout(environments, count())

        def act(observation: NDArray[np.floating], arms: NDArray[np.integer]) -> NDArray[np.floating]:
            return rng.uniform(-1, 1, (len(observation), EXECUTE, environments.single_action_space.shape[-1]))

        rollout.collect(act, 100 * number)  # warm-up, until every process has started
        start = time.perf_counter()
        _, made = rollout.collect(act, steps)
        return made / (time.perf_counter() - start)


def independent_rate(name: str, steps: int, processes: int) -> float:
    """Return the total control steps per second of independent processes with one environment each."""
    with ProcessPoolExecutor(processes) as pool:
        return sum(pool.map(partial(rate, name), [steps] * processes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="tape_cut", help="short name or gymnasium id of the environment")
    parser.add_argument("--processes", type=int, default=2, help="number of processes, including this one")
    parser.add_argument("--steps", type=int, default=5000, help="control steps per measurement")
    arguments = parser.parse_args()
    name, steps, processes = arguments.env, arguments.steps, arguments.processes
    measurements = {
        "one environment in one process": partial(rate, name, steps),
        **{
            f"{number} environments in {processes} processes": partial(rate, name, steps, number, processes)
            for number in (processes, 8 * processes)
        },
        f"{processes} independent processes": partial(independent_rate, name, steps, processes),
    }
    rates = np.array([[measure() for measure in measurements.values()] for _ in range(TURNS)])
    for what, each, ratio in zip(measurements, rates.T, (rates / rates[:, :1]).T, strict=True):
        print(f"{name}, {what}: {np.median(each):.0f} steps per second, {np.median(ratio):.2f} times")


if __name__ == "__main__":
    main()
