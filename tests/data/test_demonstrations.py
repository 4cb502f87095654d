from __future__ import annotations

import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softflow.data import DemonstrationError, Episode, check_compatible, load_demonstrations, save_demonstrations
from softflow.data.readers import read_dataset, readers
from softflow.errors import UserError


def make_episode(steps: int, seed: int, terminated: bool = True, mode: int = -1) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        observation=rng.normal(size=(steps + 1, 3)),
        action=rng.uniform(-1, 1, (steps, 2)),
        reward=rng.normal(size=steps),
        terminated=terminated,
        truncated=not terminated,
        is_success=seed % 2 == 0,
        mode=mode,
    )


EPISODES = [make_episode(4, 0, mode=1), make_episode(1, 1, terminated=False), make_episode(3, 2)]


def arrays(**changes) -> dict[str, np.ndarray]:
    """The eight steps of `EPISODES` as written to a file, with some arrays changed (None: left out)."""
    buffer = {
        "observation": np.zeros((8, 3)),
        "action": np.zeros((8, 2)),
        "reward": np.zeros(8),
        "terminated": np.array([0, 0, 0, 1, 0, 0, 0, 1], bool),
        "truncated": np.array([0, 0, 0, 0, 1, 0, 0, 0], bool),
        "episode_start": np.array([1, 0, 0, 0, 1, 1, 0, 0], bool),
        "final_observation": np.zeros((3, 3)),
        "is_success": np.array([True, False, True]),
        "mode": np.array([1, -1, -1]),
        "schema_version": np.array(1),
    }
    return {name: array for name, array in {**buffer, **changes}.items() if array is not None}


def at(shape: tuple[int, ...], index: tuple[int, ...], value: float) -> np.ndarray:
    array = np.zeros(shape)
    array[index] = value
    return array


def assert_same(first: list[Episode], second: list[Episode]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for name in ("observation", "action", "reward", "terminated", "truncated", "is_success", "mode"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "new" / "demonstrations.npz"
    save_demonstrations(path, EPISODES)
    assert_same(load_demonstrations(path), EPISODES)
    assert [file.name for file in path.parent.iterdir()] == ["demonstrations.npz"]


def test_file_has_the_documented_arrays(tmp_path):
    save_demonstrations(tmp_path / "d.npz", EPISODES)
    with np.load(tmp_path / "d.npz") as file:
        expected = arrays()
        assert set(file.files) == set(expected)
        for name in file.files:
            assert file[name].shape == expected[name].shape
            if file[name].dtype == bool or name in ("mode", "schema_version"):
                np.testing.assert_array_equal(file[name], expected[name], err_msg=name)


def test_seeds_are_kept_and_a_file_without_them_has_none(tmp_path):
    path, seeds = tmp_path / "d.npz", [7, None, 2**63 - 1]
    save_demonstrations(path, [replace(one, seed=seed) for one, seed in zip(EPISODES, seeds, strict=True)])
    assert [episode.seed for episode in load_demonstrations(path)] == seeds
    with np.load(path) as file:
        assert file["seed"].tolist() == [7, -1, 2**63 - 1]
    np.savez(path, **arrays())
    assert [episode.seed for episode in load_demonstrations(path)] == [None] * 3
    np.savez(path, **arrays(seed=np.array([7, -2, 0])))
    with pytest.raises(DemonstrationError, match=r"episode 1, .*: seed must be one integer in 0 .* got -2"):
        load_demonstrations(path)


def test_a_file_says_whether_rewards_were_replaced(tmp_path):
    path, kinds = tmp_path / "d.npz", ["steps", "dataset", "sparse"]
    save_demonstrations(path, [replace(one, reward_kind=kind) for one, kind in zip(EPISODES, kinds, strict=True)])
    assert [episode.reward_kind for episode in load_demonstrations(path)] == kinds
    np.savez(path, **arrays())
    assert [episode.reward_kind for episode in load_demonstrations(path)] == ["dataset"] * 3
    np.savez(path, **arrays(reward_kind=np.array(["steps", "sprase", "sparse"])))
    with pytest.raises(DemonstrationError, match=r"episode 1, .*: reward_kind must be one of .*, got 'sprase'"):
        load_demonstrations(path)


def test_a_file_says_who_acted_at_each_step(tmp_path):
    path, first = tmp_path / "d.npz", np.arange(len(EPISODES[0])) == 1
    save_demonstrations(path, [replace(EPISODES[0], human=first), *EPISODES[1:]])
    loaded = load_demonstrations(path)
    np.testing.assert_array_equal(loaded[0].human, first)
    assert [one.human for one in loaded[1:]] == [None] * 2  # otherwise they would no longer be imitated
    np.savez(path, **arrays(human_known=np.ones(3, np.bool_)))
    with pytest.raises(DemonstrationError, match="human_known is given without human"):
        load_demonstrations(path)
    save_demonstrations(path, EPISODES)
    assert [one.human for one in load_demonstrations(path)] == [None] * 3
    with pytest.raises(ValueError, match="human must be one bool for each of the"):
        replace(EPISODES[0], human=np.zeros(len(EPISODES[0]) + 1, np.bool_))


def test_the_documented_examples_run(tmp_path, monkeypatch):
    document = (Path(__file__).parents[2] / "docs" / "how-to" / "demonstrations.md").read_text()
    schema = document[: document.index("## Writing one")]
    optional = ["observation_layout", "task", "seed", "solved_at", "reward_kind", "human", "human_known"]
    optional += ["proposal_step", "proposal", "proposal_own"]
    assert re.findall(r"^\| `(\w+)`", schema, re.MULTILINE) == [*arrays(), *optional]
    task, write, reader, _, read = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    seen = {"wrist": np.full((64, 64, 3), 7, np.uint8), "robot": {"joints": [0.5, -1]}, "gear": 2}
    log = SimpleNamespace(observations=[seen] * 4, actions=[[0, 0.5, 0.02]] * 3, rewards=np.ones(3), solved=True)
    monkeypatch.chdir(tmp_path)
    names = {"recordings": [log, log]}
    for example in (task, write, read):
        exec(example, names)
    first, second = names["episodes"]
    assert (len(first), len(second), first.terminated, first.truncated) == (3, 3, True, False)
    np.testing.assert_allclose(first.action, [[0, 0, -0.5]] * 3, atol=1e-7)
    np.testing.assert_array_equal(first.layout.numbers(first.observation), [[0.5, -1, 0, 0, 1]] * 4)
    assert names["task"].rate == 20 and [part.name for part in names["task"].action] == ["torque", "gripper"]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "0.csv").write_text("1,2,-2,0\n3,4,1,1\n")
    try:
        exec(reader, names)
        [episode] = read_dataset("logs").episodes
    finally:
        readers()._things.pop("csv_logs", None)
    np.testing.assert_array_equal(episode.action, [[-1], [0.5]])


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "d.npz"
    save_demonstrations(path, EPISODES)

    def full_disk(member, array, **_):
        member.write(b"PK")
        raise OSError("no space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_demonstrations(path, EPISODES[:1])
    assert_same(load_demonstrations(path), EPISODES)
    assert len(list(tmp_path.iterdir())) == 1


def test_save_refuses_what_is_not_one_data_set(tmp_path):
    other = Episode(np.zeros((2, 4)), np.zeros((1, 2)), np.zeros(1), True, False, False)
    with pytest.raises(UserError, match="no episodes"):  # which the commands turn into one line
        save_demonstrations(tmp_path / "d.npz", [])
    with pytest.raises(DemonstrationError, match="observation of demonstration 1 has 4 dimensions, expected 3"):
        save_demonstrations(tmp_path / "d.npz", [EPISODES[0], other])
    assert not list(tmp_path.iterdir())


def test_check_compatible():
    check_compatible(EPISODES, observation_dim=3, action_dim=2)
    with pytest.raises(DemonstrationError, match="observation of demonstration 0 has 3 dimensions, expected 97"):
        check_compatible(EPISODES, observation_dim=97, action_dim=2)
    with pytest.raises(DemonstrationError, match="action of demonstration 0 has 2 dimensions, expected 15"):
        check_compatible(EPISODES, observation_dim=3, action_dim=15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(reward=None, mode=None), "missing reward, mode"),
        (dict(rewards=np.zeros(8)), "unknown array 'rewards': did you mean 'reward'"),
        (dict(schema_version=np.array(2)), "schema_version is 2, this version of softflow reads 1"),
        (dict(observation=np.zeros(8)), r"observation must be numbers of shape (N, O), got float64 of shape (8,)"),
        (dict(terminated=np.zeros(8)), r"terminated must be bools of shape (N,), got float64 of shape (8,)"),
        (dict(mode=np.zeros(3)), r"mode must be integers of shape (E,), got float64"),
        (dict(action=np.full((8, 2), "a")), "action must be numbers"),
        (dict(action=np.full((8, 2), None)), "action cannot be read (Object arrays"),
        (dict(action=np.zeros((7, 2))), "action has N = 7, but observation has N = 8"),
        (dict(final_observation=np.zeros((3, 4))), "final_observation has O = 4, but observation has O = 3"),
        (dict(mode=np.array([0, 1])), "mode has E = 2, but final_observation has E = 3"),
        (dict(observation=np.zeros((0, 3))), "observation is empty, of shape (0, 3)"),
        (dict(episode_start=np.arange(8) > 0), "episode_start[0] is False"),
        (dict(episode_start=np.arange(8) == 0), "episode_start marks 1 episodes, but is_success has 3"),
        (dict(truncated=np.arange(8) == 2), "truncated[2] is True inside an episode"),
        (dict(terminated=np.arange(8) == 3), "episode 2, which starts at step 5: terminated and truncated are both F"),
        (dict(observation=at((8, 3), (6, 1), np.nan)), "starts at step 5: observation[1, 1] = nan is not a finite"),
        (dict(final_observation=at((3, 3), (1, 2), np.inf)), "starts at step 4: observation[1, 2] = inf is not a f"),
        (dict(reward=at((8,), (0,), -np.inf)), "episode 0, which starts at step 0: reward[0] = -inf is not a finite"),
        (
            dict(action=at((8, 2), (4, 1), 1.1)),
            "starts at step 4: action[0, 1] = 1.1 is outside [-1, 1]: rescale actions to [-1, 1], as Episode.",
        ),
        (dict(mode=np.array([0, -3, 0])), "episode 1, which starts at step 4: mode must be"),
    ],
)
def test_malformed_arrays_are_one_clear_line(tmp_path, changes, message):
    path = tmp_path / "d.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(DemonstrationError, match=re.escape(message)) as error:
        load_demonstrations(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    dtype=st.sampled_from(["f2", "f4", "f8", ">f4", "i1", "i8", "?"]),
    seed=st.integers(0, 9),
)
def test_any_lengths_sizes_and_types_come_back(tmp_path, lengths, sizes, dtype, seed):
    rng = np.random.default_rng(seed)
    episodes = [
        Episode(
            observation=rng.integers(0, 2, (steps + 1, sizes[0])).astype(dtype),
            action=rng.integers(0, 2, (steps, sizes[1])).astype(dtype),
            reward=rng.integers(0, 2, steps).astype(dtype),
            terminated=bool(rng.integers(2)),
            truncated=True,
            is_success=bool(rng.integers(2)),
            mode=int(rng.integers(-1, 3)),
        )
        for steps in lengths
    ]
    save_demonstrations(tmp_path / "d.npz", episodes)
    assert_same(load_demonstrations(tmp_path / "d.npz"), episodes)


def npz_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays())
    return buffer.getvalue()


NPZ = npz_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"observation,action\n", "not an .npz file"),
        (NPZ[:2], "truncated or corrupt"),
        (NPZ[:-100], "truncated or corrupt"),
        (NPZ[:300] + b"?" + NPZ[301:], "truncated or corrupt"),
    ],
)
def test_malformed_files_are_one_clear_line(tmp_path, content, message):
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    with pytest.raises(DemonstrationError, match=message):
        load_demonstrations(path)


def test_missing_file_folder_and_plain_npy(tmp_path):
    with pytest.raises(DemonstrationError, match="no such file"):
        load_demonstrations(tmp_path / "d.npz")
    with pytest.raises(DemonstrationError, match="cannot be read"):
        load_demonstrations(tmp_path)
    np.save(tmp_path / "d.npy", np.zeros(3))
    with pytest.raises(DemonstrationError, match=r"not an \.npz file"):
        load_demonstrations(tmp_path / "d.npy")


def test_an_archive_of_something_else(tmp_path):
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in arrays():
            archive.writestr(name, "text")
    with pytest.raises(DemonstrationError, match="missing schema_version"):
        load_demonstrations(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(start=st.integers(0, len(NPZ) - 1), noise=st.binary(min_size=1, max_size=8))
def test_damaged_bytes_never_raise_anything_else(tmp_path, start, noise):
    path = tmp_path / "d.npz"
    path.write_bytes(NPZ[:start] + noise + NPZ[start + len(noise) :])
    try:
        load_demonstrations(path)
    except DemonstrationError:
        pass
