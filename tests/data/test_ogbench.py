"""OGBench's datasets become episodes that end where the task is solved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.data import Episode, load_demonstrations, ogbench_episodes, save_demonstrations


def dataset(masks: list[list[int]]) -> dict[str, np.ndarray]:
    """Recordings of as many transitions as each list is long; observations and actions count the transitions."""
    flat = np.concatenate(masks)
    number = np.arange(len(flat), dtype=np.float32)
    terminals = np.zeros(len(flat))
    terminals[np.cumsum([len(one) for one in masks]) - 1] = 1
    return {
        "observations": number[:, None],
        "actions": number[:, None] / 100,
        "next_observations": number[:, None] + 0.5,  # told apart from the next transition's own observation
        "terminals": terminals,
        "masks": flat.astype(np.float32),
    }


def summary(episode: Episode) -> tuple[list[float], list[float], bool]:
    assert episode.terminated == episode.is_success != episode.truncated
    np.testing.assert_array_equal(episode.action[:, 0], (episode.observation[:-1, 0] / 100).astype(np.float32))
    return episode.observation[:, 0].tolist(), episode.reward.tolist(), episode.is_success


def test_an_episode_ends_with_the_first_solved_state() -> None:
    # Solved twice, the second time for one transition only; then a recording that is never solved.
    episodes = ogbench_episodes(dataset([[1, 1, 0, 0, 1, 0, 1, 1], [1, 1]]))
    assert [summary(episode) for episode in episodes] == [
        ([0, 1, 2, 2.5], [0, 0, 1], True),
        ([4, 5, 5.5], [0, 1], True),
        ([6, 7, 7.5], [0, 0], False),
        ([8, 9, 9.5], [0, 0], False),
    ]


def test_nothing_crosses_from_one_recording_to_the_next() -> None:
    # The second starts solved, which is the end of nothing; the third is solved at its last transition.
    episodes = ogbench_episodes(dataset([[1], [0, 0, 1], [1, 0], [0]]))
    assert [summary(episode) for episode in episodes] == [
        ([0, 0.5], [0], False),
        ([3, 3.5], [0], False),
        ([4, 5, 5.5], [0, 1], True),
    ]


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=8), min_size=1, max_size=5))
def test_it_is_what_going_through_step_by_step_gives(masks: list[list[int]]) -> None:
    expected, number = [], 0
    for recording in masks:
        running: list[int] = []
        for step, mask in enumerate(recording):
            if mask or running:
                running.append(number)
            if running and (not mask or step == len(recording) - 1):
                expected.append(([*running, number + 0.5], [0] * (len(running) - 1) + [1 - mask], not mask))
                running = []
            number += 1
    assert [summary(episode) for episode in ogbench_episodes(dataset(masks))] == expected


def test_a_file_of_them_is_read_back(tmp_path: Path) -> None:
    episodes = ogbench_episodes(dataset([[1, 0], [1, 1]]))
    save_demonstrations(tmp_path / "cube.npz", episodes)
    assert [summary(one) for one in load_demonstrations(tmp_path / "cube.npz")] == [summary(one) for one in episodes]


def test_what_is_no_single_task_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no masks: load it with ogbench\.make_env_and_datasets"):
        ogbench_episodes({key: value for key, value in dataset([[1]]).items() if key != "masks"})
    with pytest.raises(ValueError, match=r"different numbers of transitions: .*'masks': 1"):
        ogbench_episodes({**dataset([[1, 1]]), "masks": np.ones(1)})
