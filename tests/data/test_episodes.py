from __future__ import annotations

import numpy as np
import pytest

from softflow.data import Dataset, Episode, EpisodeBuilder, outcome_of


def fields(**changes):
    valid = dict(
        observation=np.arange(8.0).reshape(4, 2),
        action=np.zeros((3, 1)),
        reward=np.array([0.0, 0.0, 1.0]),
        terminated=True,
        truncated=False,
        is_success=True,
    )
    return {**valid, **changes}


def test_converts_to_read_only_float32_copies():
    source = fields()
    episode = Episode(**source)
    assert (len(episode), episode.observation_dim, episode.action_dim, episode.mode) == (3, 2, 1, -1)
    for name in ("observation", "action", "reward"):
        assert getattr(episode, name).dtype == np.float32
        with pytest.raises(ValueError, match="read-only"):
            getattr(episode, name)[0] = 9
    source["observation"][0] = 9
    assert episode.observation[0, 0] == 0


def test_actions_a_rounding_error_outside_are_clipped():
    episode = Episode(**fields(action=np.array([[1 + 5e-7], [-1 - 5e-7], [0.5]])))
    np.testing.assert_array_equal(episode.action, np.float32([[1], [-1], [0.5]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(observation=np.zeros((3, 2))), "observation has 3 rows for 3 actions, expected 4.*final observation"),
        (dict(observation=np.zeros(4)), r"observation must be .* of shape \(T \+ 1, O\), got float64 of shape \(4,\)"),
        (dict(observation=np.zeros((4, 0))), "observation has no columns"),
        (dict(action=np.zeros((0, 1)), observation=np.zeros((1, 2)), reward=np.zeros(0)), "at least one step"),
        (dict(action=np.array([[0], [1.5], [0]])), r"action\[1, 0\] = 1.5 is outside \[-1, 1\]"),
        (dict(action=np.array([[0], [0], [np.nan]])), r"action\[2, 0\] = nan is not a finite"),
        (dict(action=np.full((3, 1), "x")), "action must be an array of numbers"),
        (dict(observation=np.full((4, 2), 1e300)), r"observation\[0, 0\] = 1e\+300 is not a finite float32"),
        (dict(reward=np.zeros(2)), "reward has 2 values for 3 actions"),
        (dict(reward=np.array([0, np.inf, 0])), r"reward\[1\] = inf is not a finite"),
        (dict(terminated=np.zeros(3, bool)), "terminated must be one bool"),
        (dict(is_success=1), "is_success must be one bool"),
        (dict(terminated=False), "terminated and truncated are both False"),
        (dict(mode=-2), "mode must be one integer"),
        (dict(mode=0.5), "mode must be one integer"),
        (dict(decision=np.zeros(3)), r"decision must be an array of numbers of shape \(chunks, K\)"),
        (dict(decision=np.zeros((4, 2))), "decision has 4 rows for 3 actions: give one per chunk"),
        (dict(decision=np.zeros((0, 2))), "decision has 0 rows"),
        (dict(decision=np.full((2, 2), np.nan)), r"decision\[0, 0\] = nan is not a finite"),
    ],
)
def test_invalid_fields_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Episode(**fields(**changes))


def test_builder_copies_reused_buffers_and_empties_itself():
    builder = EpisodeBuilder()
    observation, action = np.zeros(2), np.zeros(1)
    for step in range(3):
        observation[:], action[:] = step, step / 10
        builder.append(observation, action, reward=step)
    assert len(builder) == 3
    observation[:] = 3
    episode = builder.finish(observation, terminated=False, truncated=True, is_success=False, mode=2)
    np.testing.assert_array_equal(episode.observation[:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(episode.action[:, 0], np.float32([0, 0.1, 0.2]))
    np.testing.assert_array_equal(episode.reward, [0, 1, 2])
    assert (episode.terminated, episode.truncated, episode.is_success, episode.mode) == (False, True, False, 2)

    with pytest.raises(ValueError, match="no step to finish"):
        builder.finish(observation, terminated=True, truncated=False, is_success=False)
    builder.append(np.ones(2), np.ones(1), 1.0)
    assert len(builder.finish(np.ones(2), terminated=True, truncated=False, is_success=False)) == 1


def test_records_of_decisions_are_kept_read_only_and_not_handed_on():
    builder, record = EpisodeBuilder(), np.zeros(2)
    for step in range(3):
        if step % 2 == 0:
            record[:] = step
            builder.decide(record)
        builder.append(np.zeros(2), np.zeros(1), 0.0)
    record[:] = 9
    episode = builder.finish(np.zeros(2), terminated=True, truncated=False, is_success=False)
    np.testing.assert_array_equal(episode.decision, np.float32([[0, 0], [2, 2]]))
    with pytest.raises(ValueError, match="read-only"):
        episode.decision[0] = 9
    builder.append(np.zeros(2), np.zeros(1), 0.0)
    assert builder.finish(np.zeros(2), terminated=True, truncated=False, is_success=False).decision is None


def test_an_outcome_is_every_single_number_in_an_info() -> None:
    info = {"is_success": True, "turns": np.float32(1.5), "steps": 3, "dropped": np.bool_(False), "late": True}
    said = info | {"name": "cube", "stages": {"cut": True}, "place": np.zeros(2), "nothing": None}
    assert outcome_of(said) == {"turns": 1.5, "steps": 3.0, "dropped": 0.0, "late": 1.0}


def test_an_episode_and_a_dataset_are_shown_in_one_line():
    episode = Episode(**fields())
    assert repr(episode) == "Episode(3 steps, observation of 2, action of 1, return 1, success, terminated)"
    failure = Episode(**fields(is_success=False, terminated=False, truncated=True))
    assert repr(Dataset([episode, failure], None)) == "Dataset(2 episodes with 6 steps, 1 successes, no task)"
