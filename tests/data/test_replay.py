from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow.data import Episode, Replay, Windows, concatenate, sample_mixed, to_torch
from softflow.errors import UserError
from tests.pictures import LAYOUT, lamp_episodes

FIELDS = (
    "observation chunk mask reward length next_observation terminated success return_to_go row"  # of Windows, in order
).split()


def make_episode(
    steps: int, number: int = 0, terminated: bool = True, success: bool = True, paid: int | None = None
) -> Episode:
    """Observations (number, step), so that every one tells where it comes from.

    Rewards 1, 2, 3, ..., none beyond the first `paid` steps.
    """
    step = np.arange(steps + 1)
    reward = np.where(step[1:] <= (steps if paid is None else paid), step[1:], 0)
    return Episode(
        observation=np.stack([np.full(steps + 1, number), step], axis=1),
        action=((number * 7 + step[:-1]) % 20 + 1)[:, None] / 20,
        reward=reward,
        terminated=terminated,
        truncated=not terminated,
        is_success=success,
    )


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_same(first: Windows, second: Windows) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


@pytest.mark.parametrize("terminated", [True, False])
def test_windows_by_hand(terminated):
    """Episode of 3 steps at rows 0..3, its final observation at row 3; then one of 5 steps at rows 4..9."""
    replay = Replay(20, 2, 1)
    replay.add_episode(make_episode(3, 0, terminated=terminated))
    replay.add_episode(make_episode(5, 1, terminated=not terminated, success=False))
    windows = replay.gather(np.array([0, 1, 2, 4]), horizon=2)

    np.testing.assert_array_equal(windows.observation, [[0, 0], [0, 1], [0, 2], [1, 0]])
    np.testing.assert_array_equal(windows.length, [2, 2, 1, 2])
    np.testing.assert_array_equal(windows.mask, [[True, True], [True, True], [True, False], [True, True]])
    np.testing.assert_array_equal(windows.reward, [[1, 2], [2, 3], [3, 0], [1, 2]])
    # Actions (number * 7 + step + 1) / 20; beyond the end the last is held, it is not the next episode's first.
    np.testing.assert_allclose(windows.chunk[..., 0] * 20, [[1, 2], [2, 3], [3, 3], [8, 9]], rtol=1e-6)
    # Row 1 ends exactly at the end of the episode, row 2 is cut short by it: both see the true final observation.
    np.testing.assert_array_equal(windows.next_observation, [[0, 2], [0, 3], [0, 3], [1, 2]])
    np.testing.assert_array_equal(windows.terminated, [False, terminated, terminated, False])
    np.testing.assert_array_equal(windows.success, [True, True, True, False])
    np.testing.assert_array_equal(windows.return_to_go, [6, 5, 3, 15])
    np.testing.assert_array_equal(windows.row, [0, 1, 2, 4])


def test_dtypes_and_shapes():
    replay = Replay(20, 2, 1)
    replay.add_episode(make_episode(3))
    windows = replay.sample(5, 4, rng())
    expected = dict(mask="bool", length="int64", terminated="bool", success="bool", row="int64")
    for name in FIELDS:
        assert getattr(windows, name).dtype == expected.get(name, "float32"), name
    assert windows.chunk.shape == (5, 4, 1)
    assert windows.observation.shape == windows.next_observation.shape == (5, 2)


@settings(max_examples=200)
@given(
    capacity=st.integers(2, 40),
    episodes=st.lists(
        st.tuples(st.integers(1, 39), st.booleans(), st.booleans(), st.integers(0, 39)), min_size=1, max_size=25
    ),
    horizon=st.integers(1, 12),
)
def test_every_window_is_a_slice_of_an_episode_that_was_added(capacity, episodes, horizon):
    replay, added, newest_rows = Replay(capacity, 2, 1), [], deque(maxlen=capacity)
    for number, (steps, terminated, success, paid) in enumerate(episodes):
        added.append(make_episode(min(steps, capacity - 1), number, terminated, success, paid))
        replay.add_episode(added[-1])
        newest_rows.extend((number, step) for step in range(len(added[-1]) + 1))

        # Stored are exactly the newest `capacity` rows: nothing older survives, nothing newer is lost.
        stored = {(n, step) for n, step in newest_rows if step < len(added[n])}
        rows = np.flatnonzero(replay.used_rows()["remaining"])
        windows = replay.gather(rows, horizon)
        assert {(int(n), int(step)) for n, step in windows.observation} == stored
        assert replay.steps == len(stored) == len(rows)

        imitable = {(n, step) for n, step in stored if added[n].reward[step:].sum() > 0}
        assert replay.imitable_steps == len(imitable)
        if imitable:
            drawn = replay.sample(50, horizon, rng(number), imitable=True)
            assert {(int(n), int(step)) for n, step in drawn.observation} <= imitable

        for i, (n, step) in enumerate(windows.observation.astype(int)):
            episode = added[n]
            length = min(horizon, len(episode) - step)
            assert windows.length[i] == length
            np.testing.assert_array_equal(windows.mask[i], np.arange(horizon) < length)
            held = np.minimum(step + np.arange(horizon), len(episode) - 1)  # the last action, beyond the end
            np.testing.assert_array_equal(windows.chunk[i], episode.action[held])
            np.testing.assert_array_equal(windows.reward[i, :length], episode.reward[step : step + length])
            np.testing.assert_array_equal(windows.reward[i, length:], 0)
            np.testing.assert_array_equal(windows.next_observation[i], episode.observation[step + length])
            assert windows.terminated[i] == (episode.terminated and step + length == len(episode))
            assert windows.success[i] == episode.is_success
            assert windows.return_to_go[i] == episode.reward[step:].sum()


@pytest.mark.parametrize("imitable", [False, True])
def test_sampling_is_uniform_over_the_eligible_steps(imitable):
    replay = Replay(30, 2, 1)
    for number, steps in enumerate([12, 1, 1, 6, 1, 9, 1]):  # 40 rows: the ring wraps
        replay.add_episode(make_episode(steps, number, paid=4 if number == 5 else None))
    state = replay.used_rows()
    eligible = np.flatnonzero(state["remaining"])
    if imitable:  # of episode 5 reward follows only the first four steps
        unpaid = (state["observation"][:, 0] == 5) & (state["observation"][:, 1] >= 4)
        eligible = np.setdiff1d(eligible, np.flatnonzero(unpaid))
        assert replay.imitable_steps == len(eligible) == replay.steps - 5
    draws = 2000 * len(eligible)
    row = replay.sample(draws, 3, rng(), imitable).row
    counts = np.bincount(row, minlength=30)
    assert counts.sum() == counts[eligible].sum() == draws
    # Binomial with mean 2000: six standard deviations are 268.
    assert np.abs(counts[eligible] - 2000).max() < 268


def test_imitable_steps_by_hand():
    replay = Replay(40, 2, 1)
    assert replay.imitable_steps == 0
    replay.add_episode(make_episode(8, 0, success=False, paid=5))  # rows 0..8
    replay.add_episode(make_episode(9, 1, success=True, paid=0))  # never paid, whatever it is called
    loss = make_episode(6, 2)
    replay.add_episode(Episode(loss.observation, loss.action, -loss.reward, True, False, False))
    assert replay.imitable_steps == 5
    windows = replay.sample(200, 6, rng(), imitable=True)
    assert set(windows.row) == set(range(5))
    assert (windows.return_to_go > 0).all()
    # The windows of the last of these steps leave the paid part, and are cut short by the end of the episode.
    assert set(windows.length) == {4, 5, 6}


def test_imitable_steps_follow_what_is_overwritten():
    replay = Replay(10, 2, 1)
    replay.add_episode(make_episode(4, 0))
    assert set(replay.sample(64, 1, rng(), imitable=True).row) == {0, 1, 2, 3}
    replay.add_episode(make_episode(4, 1, success=False, paid=0))
    replay.add_episode(make_episode(2, 2, success=False, paid=0))  # over the first three rows of the first
    assert set(replay.sample(64, 1, rng(), imitable=True).row) == {3}
    replay.add_episode(make_episode(3, 3, success=False, paid=0))
    assert replay.imitable_steps == 0
    with pytest.raises(UserError, match="nothing is worth imitating: give demonstrations with a positive reward"):
        replay.sample(1, 1, rng(), imitable=True)


def test_bad_input():
    replay = Replay(5, 2, 1)
    with pytest.raises(ValueError, match="empty replay"):
        replay.sample(4, 2, rng())
    with pytest.raises(UserError, match=r"5 steps does not fit into a replay of 5 rows: .*--replay-capacity 6"):
        replay.add_episode(make_episode(5))
    with pytest.raises(ValueError, match="observation has 2 dimensions, the replay's has 3"):
        Replay(5, 3, 1).add_episode(make_episode(2))
    with pytest.raises(ValueError, match="action has 1 dimensions, the replay's has 4"):
        Replay(5, 2, 4).add_episode(make_episode(2))
    with pytest.raises(ValueError, match="capacity must be at least 1"):
        Replay(0, 2, 1)
    assert replay.steps == 0

    replay.add_episode(make_episode(3))
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        replay.sample(4, 0, rng())
    for row in (3, 4, -1):  # the final observation, a row not written, no row
        with pytest.raises(ValueError, match="rows must be"):
            replay.gather(np.array([0, row]), 2)


def test_an_observation_is_stored_once():
    """Beside observation, action, reward and two flags little is kept, of tape_cut's million steps as of pictures."""
    assert Replay(10**6, 153, 15).nbytes <= 1.03 * 10**6 * (4 * 153 + 4 * 15 + 4 + 2)
    assert Replay(1000, 24_796, 15, np.uint8).nbytes <= 1.001 * 1000 * (24_796 + 4 * 15 + 4 + 2)


def test_observation_dtype():
    [packed] = lamp_episodes(1)
    replay = Replay(50, LAYOUT.size, 1, packed.observation.dtype)
    replay.add_episode(packed)
    windows = replay.gather(np.array([0, 3]), 2)
    assert windows.observation.dtype == windows.next_observation.dtype == np.uint8
    np.testing.assert_array_equal(windows.observation, packed.observation[[0, 3]])
    np.testing.assert_array_equal(windows.next_observation, packed.observation[[2, 4]])
    assert to_torch(concatenate([windows, windows])).observation.dtype == torch.uint8
    with pytest.raises(ValueError, match="observations are float32, the replay's uint8: only packed ones"):
        Replay(50, 2, 1, np.uint8).add_episode(make_episode(4))
    with pytest.raises(ValueError, match="observations are uint8, the replay's float32"):
        Replay(50, LAYOUT.size, 1).add_episode(packed)
    half = Replay(50, 2, 1, observation_dtype=np.float16)
    half.add_episode(make_episode(4, 0.3))
    np.testing.assert_allclose(half.gather(np.array([0]), 2).observation[0, 0], 0.3, rtol=1e-3)
    with pytest.raises(ValueError, match="do not fit the replay's float16"):
        half.add_episode(make_episode(4, 1e5))
    with pytest.raises(ValueError, match="do not fit the replay's float16"):
        half.add_episode(Episode(np.full((3, 2), 1e-7), np.zeros((2, 1)), np.zeros(2), True, False, False))


def test_sample_mixed():
    offline, online = Replay(20, 2, 1), Replay(20, 2, 1)
    offline.add_episode(make_episode(6, 1))
    assert set(sample_mixed(offline, online, 10, 3, rng()).observation[:, 0]) == {1}  # nothing online yet
    online.add_episode(make_episode(6, 2))
    np.testing.assert_array_equal(sample_mixed(offline, online, 10, 3, rng()).observation[:, 0], [1] * 5 + [2] * 5)
    quarter = sample_mixed(offline, online, 8, 3, rng(), offline_share=0.25)
    np.testing.assert_array_equal(quarter.observation[:, 0], [1] * 2 + [2] * 6)
    assert set(sample_mixed(Replay(20, 2, 1), online, 4, 3, rng(), offline_share=0).observation[:, 0]) == {2}
    poor = Replay(20, 2, 1)
    poor.add_episode(make_episode(6, 3, paid=0))
    assert set(sample_mixed(offline, poor, 10, 3, rng(), imitable=True).observation[:, 0]) == {1}
    assert set(sample_mixed(offline, poor, 10, 3, rng()).observation[:, 0]) == {1, 3}
    with pytest.raises(ValueError, match="empty replay"):
        sample_mixed(Replay(20, 2, 1), online, 4, 3, rng())
    with pytest.raises(ValueError, match="offline_share must be in"):
        sample_mixed(offline, online, 4, 3, rng(), offline_share=50)


def test_concatenate_and_to_torch_keep_order_values_and_dtypes():
    replay = Replay(20, 2, 1)
    replay.add_episode(make_episode(6))
    rows = np.array([5, 0, 3])
    whole = replay.gather(rows, 3)
    assert_same(concatenate([replay.gather(rows[:1], 3), replay.gather(rows[1:], 3)]), whole)
    tensors = to_torch(whole)
    for name in FIELDS:
        tensor = getattr(tensors, name)
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(tensor.numpy(), getattr(whole, name))
        assert tensor.numpy().dtype == getattr(whole, name).dtype
