"""Play data of OGBench's scenes: reproducible, labelled as the environment rewards, and read by the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.tasks import ogbench_play
from softflow.data import load_demonstrations
from softflow.envs import make_env

pytest.importorskip("ogbench")


@pytest.mark.parametrize("task", ogbench_play.TASKS)
def test_a_file_of_play_data_fits_its_environment(task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ogbench_play, "STEPS", 40)
    ogbench_play.make.cache_clear()
    ogbench_play.write(task, tmp_path, recordings=2, seed=0, jobs=1)
    episodes = load_demonstrations(tmp_path / f"{task}.npz")
    env = make_env(task, sparse_success=True)
    assert [len(episode) for episode in episodes] == [40, 40]
    assert episodes[0].observation_dim == env.observation_space.shape[0]
    assert not np.array_equal(episodes[0].action, episodes[1].action)
    assert not any(episode.is_success for episode in episodes)
    again = ogbench_play.record(ogbench_play.TASKS[task], 0, 1)  # without the recording before
    np.testing.assert_array_equal(np.float32(again["actions"]), episodes[1].action)


def test_what_ogbench_calls_solved_becomes_the_end_of_a_success() -> None:
    """The cube of task 2 is put where the task wants it, in the middle of a recording."""
    env = make_env("ogbench_cube", sparse_success=True)
    env.reset(seed=0)
    qpos = np.tile(env.unwrapped.data.qpos, (6, 1))
    qpos[3, 14:17] = env.unwrapped.cur_task_info["goal_xyzs"][0]
    recording = {
        "observations": np.zeros((6, 28)), "next_observations": np.zeros((6, 28)), "actions": np.zeros((6, 5)),
        "qpos": qpos, "button_states": np.zeros((6, 0)), "terminals": np.arange(6) == 5,
    }  # fmt: skip
    assert ogbench_play.label(recording, env, "cube-single")["masks"].tolist() == [1, 1, 1, 0, 1, 1]
