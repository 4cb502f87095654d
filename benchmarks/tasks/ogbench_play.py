"""Record play data for OGBench's manipulation tasks, and write them as demonstrations.

    python -m benchmarks.tasks.ogbench_play data --jobs 2

OGBench's own plan oracles (arXiv 2410.20092) pursue random targets in recordings of 1,000 steps, with the noise of its
published `play` datasets. Afterwards OGBench labels the states in which the task is solved, and
`softflow.data.ogbench_episodes` cuts the recordings there. FOLDER/<task>.npz is the file for `--demos`. The same seed
gives the same files, whatever the number of processes. A recording takes 2.3 s of one core, so 150 of each of the four
tasks take 25 minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from softflow.data import ogbench_episodes, save_demonstrations
from softflow.envs import make_env
from softflow.task import TaskSpec

TASKS = {
    "ogbench_cube": "cube-single",
    "ogbench_cube_double": "cube-double",
    "ogbench_puzzle": "puzzle-3x3",
    "ogbench_scene": "scene",
}
"""OGBench's scene of each task; the task is always its second one."""
STEPS = 1_000
"""Number of steps in a recording."""
NOISE = {"noise": 0.1, "noise_smoothing": 0.5}

Recording = dict[str, np.ndarray]


def record(scene: str, seed: int, index: int) -> Recording:
    """Record one sequence of random targets; ``index`` and ``seed`` decide it.

    Returns:
        OGBench's arrays of transitions, each (STEPS, ...): what is observed, done and observed next, the end of the
        recording, and the simulator's positions and states of buttons that labelling needs.
    """
    own_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
    np.random.seed(own_seed)  # the oracles draw from the global generator
    env, oracles = make(scene)
    stacking = np.random.uniform(0, 0.25) if scene == "cube-double" else 0.5
    rows: dict[str, list[Any]] = {
        name: [] for name in ("observations", "actions", "next_observations", "qpos", "button_states")
    }
    observation, info = env.reset(seed=own_seed)
    oracle = oracles[info["privileged/target_task"]]
    oracle.reset(observation, info)
    truncated = False
    while not truncated:
        action = np.clip(oracle.select_action(observation, info), -1, 1)
        before = observation
        observation, _, _, truncated, info = env.step(action)
        buttons = info.get("prev_button_states", np.zeros(0))
        for name, value in zip(rows, (before, action, observation, info["prev_qpos"], buttons), strict=True):
            rows[name].append(value)
        if oracle.done:
            target = env.unwrapped.set_new_target(p_stack=stacking)
            oracle = oracles[target[1]["privileged/target_task"]]
            oracle.reset(*target)
    arrays = {name: np.array(values) for name, values in rows.items()}
    return {**arrays, "terminals": np.arange(1, STEPS + 1) == STEPS}


@cache  # because each environment that is made keeps memory
def make(scene: str) -> tuple[Any, Mapping[str, Any]]:
    """Return the scene without a task, and OGBench's oracle for each kind of target in it."""
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

    env = gymnasium.make(
        f"ogbench:{scene}-v0", terminate_at_goal=False, mode="data_collection", max_episode_steps=STEPS
    )
    kinds = {"cube": CubePlanOracle, "button": ButtonPlanOracle, "drawer": DrawerPlanOracle, "window": WindowPlanOracle}
    closed = {"gripper_always_closed": True} if scene.startswith("puzzle") else {}
    return env, {
        kind: oracle(env=env, **NOISE, **(closed if kind == "button" else {})) for kind, oracle in kinds.items()
    }


def label(recording: Recording, env: Any, scene: str) -> Recording:
    """Return the recording with OGBench's ``masks``, 0 where the single task of ``env`` is solved."""
    from ogbench.relabel_utils import relabel_dataset

    labelled = dict(recording)
    relabel_dataset(scene, env, labelled)
    return labelled


def write(task: str, folder: Path, recordings: int, seed: int, jobs: int) -> str:
    """Record play data for a task, and describe the file."""
    env, scene = make_env(task, sparse_success=True), TASKS[task]
    with ProcessPoolExecutor(jobs) as pool:
        made = list(pool.map(partial(record, scene, seed), range(recordings)))
    dataset = {name: np.concatenate([recording[name] for recording in made]) for name in made[0]}
    episodes = ogbench_episodes(label(dataset, env, scene))
    save_demonstrations(folder / f"{task}.npz", episodes, TaskSpec.from_env(env))
    env.close()
    solved = sum(episode.is_success for episode in episodes)
    return f"{folder / task}.npz: {len(episodes)} episodes from {recordings} recordings, {solved} successes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the files")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="tasks (default: all)")
    parser.add_argument("--recordings", type=int, default=150, help="number of recordings of 1,000 steps per task")
    parser.add_argument("--seed", type=int, default=0, help="seed of the recordings")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for task in arguments.tasks:
        print(write(task, arguments.folder, arguments.recordings, arguments.seed, arguments.jobs), flush=True)


if __name__ == "__main__":
    main()
