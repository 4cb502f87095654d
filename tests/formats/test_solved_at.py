"""The step that first solved the task, in each format that says it, and what rewards of a success make of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from softflow.data import SUCCESS_REWARDS, Dataset, Episode, read_dataset, save_demonstrations
from softflow.formats.lerobot.writer import write_lerobot
from softflow.task import ActionPart, ObservationPart, TaskSpec
from tests.formats import test_d4rl as d4rl
from tests.formats import test_minari as minari
from tests.formats import test_robomimic as robomimic

STATE = TaskSpec((ObservationPart("observation.state", (2,)),), (ActionPart("action", (-1.0,), (1.0,)),), rate=20.0)


def recorded(steps: int, is_success: bool, solved_at: int | None) -> Episode:
    """An episode with rewards of its own, cut off by a time limit."""
    rng = np.random.default_rng(steps)
    rows = rng.normal(size=(steps + 1, 2)), rng.uniform(-1, 1, (steps, 1)), np.full(steps, 0.5)
    return Episode(*rows, False, True, is_success, task=STATE, solved_at=solved_at)


EPISODES = [recorded(5, True, 3), recorded(4, False, None), recorded(6, False, 2), recorded(2, True, 2)]


def solved_at(path: Path, task: TaskSpec | None = None) -> list[int | None]:
    return [episode.solved_at for episode in read_dataset(path, wanted=task).episodes]


def test_files_of_softflow_and_lerobot_keep_it(tmp_path: Path) -> None:
    save_demonstrations(tmp_path / "d.npz", EPISODES)
    write_lerobot(tmp_path / "lerobot", Dataset(EPISODES, STATE))
    for path in (tmp_path / "d.npz", tmp_path / "lerobot"):
        assert solved_at(path) == [3, None, 2, 2]
        assert [episode.is_success for episode in read_dataset(path).episodes] == [True, False, False, True]


def test_d4rl_says_it_at_each_step(tmp_path: Path) -> None:
    path = d4rl.write(tmp_path / "d.hdf5", **{"infos/success": np.array([0, 0, 1, 1, 0, 0, 0])})
    assert solved_at(path, d4rl.SPEC) == [3, 1, None]


def test_minari_says_it_after_each_step(tmp_path: Path) -> None:
    root = minari.copy_of("toy-hdf5-v0", tmp_path)
    minari.change_columns(root, infos__success=lambda n: np.arange(n + 1) == 2)
    assert set(solved_at(root, minari.SPEC)) == {2}


def test_robomimic_says_it_by_the_reward(tmp_path: Path) -> None:
    path = robomimic.change(robomimic.copy_to(tmp_path), rewards=lambda _: robomimic.EARLY | robomimic.END)
    assert set(solved_at(path, robomimic.SPEC)) == {31}
    dense = robomimic.change(path, rewards=lambda _: robomimic.DENSE)
    assert set(solved_at(dense, robomimic.SPEC)) == {None}


@pytest.mark.parametrize("kind", ["sparse", "steps"])
def test_a_success_ends_where_the_task_was_first_solved(kind: str) -> None:
    values = SUCCESS_REWARDS[kind]
    first, *others = map(values.of, EPISODES)
    assert (len(first), first.terminated, first.solved_at) == (3, True, 3)
    np.testing.assert_array_equal(first.observation, EPISODES[0].observation[:4])
    np.testing.assert_array_equal(first.action, EPISODES[0].action[:3])
    assert first.reward.tolist() == [values.otherwise] * 2 + [values.at_success]
    assert [len(one) for one in others] == [4, 6, 2]  # failures stay whole, even if the task was solved for a moment
    assert not any(one.reward.any() for one in others[:2]) or kind == "steps"
    again = values.of(first)
    assert len(again) == 3 and again.reward.tolist() == first.reward.tolist()


def test_who_acted_is_cut_as_well() -> None:
    human = np.array([False, True, True, True, False])
    cut = replace(EPISODES[0], human=human).until(2)
    assert cut.human is not None and cut.human.tolist() == [False, True] and cut.solved_at is None


@pytest.mark.parametrize("wrong", [0, 6, 2.0, True])
def test_a_step_that_is_none_of_the_episode_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"solved_at must be one integer in 1 \.\.\. 5, or None"):
        replace(EPISODES[0], solved_at=wrong)
