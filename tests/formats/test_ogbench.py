"""OGBench's play and single-task datasets, as ogbench reads them, and damaged ones."""

from __future__ import annotations

import random
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.data import Dataset, DemonstrationError, read_dataset, save_demonstrations
from softflow.envs import make_env
from softflow.files import SIZE_LIMITS
from softflow.formats.ogbench import OGBenchReader
from softflow.runs.record_demonstrations import record_demonstrations
from softflow.task import ActionPart, ObservationPart, TaskMismatch, TaskSpec
from tests.damage import EXECUTED, Attack, flip

GENUINE = Path(__file__).resolve().parents[1] / "data" / "formats" / "ogbench"
"""Two recordings of OGBench's oracle in `cube-single`, of 40 and 20 steps, in the layout of OGBench's own files, and
the arrays that this returned for them, written by `np.savez_compressed(path, **dataset)`:

    ogbench.make_env_and_datasets("cube-single-play-singletask-task2-v0", dataset_path="cube.npz")
"""
PLAY, SINGLE_TASK = GENUINE / "cube.npz", GENUINE / "cube_task2.npz"

# ogbench.utils.load_dataset("cube.npz") of ogbench 1.2.2, at the steps 0, 39 and 59: numbers 0 and 19 of the
# observation, the action, and the same numbers of the next observation
FIRST = (
    [-2.1331706047058105, -0.10387901216745377],
    [0.30688852071762085, 0.036869898438453674, 1.0, 0.3020726442337036, 0.4401445984840393],
    [-2.123054027557373, -0.07353553920984268],
)
LAST_OF_FIRST = (
    [-1.8897143602371216, 0.7630219459533691],
    [0.12217989563941956, 0.09118430316448212, 0.8763601183891296, 0.15403589606285095, -0.08802767843008041],
    [-1.8843330144882202, 0.7630219459533691],
)
LAST = (
    [-1.6128915548324585, -0.6190490126609802],
    [-0.09524263441562653, 0.020727600902318954, -0.6074685454368591, -0.3216172158718109, -0.057517632842063904],
    [-1.6117440462112427, -0.6190490126609802],
)
SPEC = TaskSpec((ObservationPart("observation", (28,)),), (ActionPart("action", (-1.0,) * 5, (1.0,) * 5),))
SMALL = {
    "observations": np.arange(10, dtype=np.float32).reshape(5, 2),
    "actions": np.array([[0.1], [0.2], [0.3], [0.4], [0.5]], np.float32),
    "terminals": np.array([0, 0, 1, 0, 1], np.bool_),
}


def require_step(dataset: Dataset, episode: int, step: int, expected: tuple[list[float], ...]) -> None:
    observation, action, following = (np.array(numbers, np.float32) for numbers in expected)
    got = dataset.episodes[episode]
    np.testing.assert_array_equal(got.observation[step][[0, 19]], observation)
    np.testing.assert_array_equal(got.action[step], action)
    np.testing.assert_array_equal(got.observation[step + 1 :][0, [0, 19]], following)


def write(path: Path, **changes: Any) -> Path:
    """Write the small dataset with changed arrays; None leaves one out."""
    np.savez(path, **{name: array for name, array in (SMALL | changes).items() if array is not None})
    return path


def test_play_data_is_read_as_whole_recordings(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = read_dataset(PLAY)
    assert dataset.task == SPEC
    assert [len(episode) for episode in dataset.episodes] == [40, 20]
    require_step(dataset, 0, 0, FIRST)
    require_step(dataset, 0, 39, LAST_OF_FIRST)
    require_step(dataset, 1, 19, LAST)
    for episode in dataset.episodes:
        assert (episode.terminated, episode.truncated, episode.is_success) == (False, True, False)
        assert episode.task == SPEC and not episode.reward.any()
    assert capsys.readouterr().err == (
        f"{PLAY}: there are no masks of a task, so 2 recordings are read without reward\n"
    )


def test_single_task_data_end_where_the_task_is_solved(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = read_dataset(SINGLE_TASK)
    assert dataset.task == SPEC
    assert [len(episode) for episode in dataset.episodes] == [30, 20]  # masks are 0 at steps 29 ... 39
    require_step(dataset, 0, 0, FIRST)
    require_step(dataset, 1, 19, LAST)
    solved, other = dataset.episodes
    assert (solved.terminated, solved.truncated, solved.is_success) == (True, False, True)
    assert (other.terminated, other.truncated, other.is_success) == (False, True, False)
    assert solved.reward.tolist() == [0] * 29 + [1] and not other.reward.any()
    assert capsys.readouterr().err == (
        f"{SINGLE_TASK}: 1 of 2 episodes end where masks is 0, with reward 1; all else is 0\n"
    )


def test_loaded_arrays_without_masks_are_the_same_recordings(tmp_path: Path) -> None:
    with np.load(SINGLE_TASK) as arrays:
        np.savez(tmp_path / "loaded.npz", **{name: arrays[name] for name in arrays if name != "masks"})
    loaded, own = read_dataset(tmp_path / "loaded.npz"), read_dataset(PLAY)
    for got, expected in zip(loaded.episodes, own.episodes, strict=True):
        np.testing.assert_array_equal(got.observation, expected.observation)
        np.testing.assert_array_equal(got.action, expected.action)


def test_masks_beside_whole_recordings(tmp_path: Path) -> None:
    path = write(tmp_path / "masked.npz", masks=np.array([1, 0, 1, 1, 1]))
    first, second = read_dataset(path).episodes
    assert first.observation.tolist() == [[0, 1], [2, 3], [4, 5]] and first.reward.tolist() == [0, 1]
    assert second.observation.tolist() == [[6, 7], [8, 9]] and not second.is_success
    np.testing.assert_array_equal(second.action, np.array([[0.4]], np.float32))  # 0.5 was never executed


def test_images_are_packed_and_bounds_of_a_task_are_used(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    path = write(tmp_path / "visual.npz", observations=pixels, masks=np.array([1, 0, 1, 1, 1]))
    wanted = TaskSpec(
        (ObservationPart("camera", (16, 16, 3), "uint8", axes="HWC"),), (ActionPart("force", (-2,), (2,)),), rate=10.0
    )
    for task in (None, wanted):
        dataset = read_dataset(path, wanted=task)
        assert dataset.task is not None and dataset.task.layout is not None
        [image] = dataset.task.layout.unpack(dataset.episodes[0].observation).values()
        np.testing.assert_array_equal(image, pixels[:3])
    assert dataset.task == wanted  # with its rate, which the file does not say
    np.testing.assert_allclose(dataset.episodes[0].action, [[0.05], [0.1]])
    with pytest.raises(DemonstrationError, match=r"are uint8 of shape \(3, 16, 16\), and it is not known which axes"):
        read_dataset(write(tmp_path / "visual.npz", observations=pixels.transpose(0, 3, 1, 2)))


def test_another_task_is_one_clear_line() -> None:
    other = replace(SPEC, observation=(ObservationPart("observation", (27,)),))
    with pytest.raises(TaskMismatch, match=r"'observation' has shape \(28,\), expected \(27,\)") as caught:
        read_dataset(PLAY, wanted=other)
    assert str(caught.value).startswith(str(PLAY))
    with pytest.raises(DemonstrationError, match="actions has 5 numbers per step, the task has 1"):
        read_dataset(PLAY, wanted=replace(SPEC, action=(ActionPart("action", (-1,), (1,)),)))


def test_demonstrations_of_an_environment_come_back_to_the_bit(tmp_path: Path) -> None:
    recorded = record_demonstrations(lambda: make_env("two_routes"), 60, 0).episodes
    last = [np.arange(len(episode)) == len(episode) - 1 for episode in recorded]
    np.savez(
        tmp_path / "two_routes.npz",
        observations=np.concatenate([episode.observation[:-1] for episode in recorded]),
        actions=np.concatenate([episode.action for episode in recorded]),
        next_observations=np.concatenate([episode.observation[1:] for episode in recorded]),
        terminals=np.concatenate(last).astype(np.float32),
        masks=np.concatenate([~(one & episode.is_success) for one, episode in zip(last, recorded, strict=True)]),
        rewards=np.zeros(sum(map(len, recorded))) - 1,
    )
    task = TaskSpec.from_env(make_env("two_routes"))
    dataset = read_dataset(tmp_path / "two_routes.npz", wanted=task)
    assert dataset.task == task
    for got, expected in zip(dataset.episodes, recorded, strict=True):
        for name in ("observation", "action", "reward", "terminated", "truncated", "is_success"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    save_demonstrations(tmp_path / "own.npz", read_dataset(PLAY).episodes)
    np.savez(tmp_path / "other.npz", observations=np.zeros(3), actions=np.zeros(3))
    for path in (tmp_path / "own.npz", tmp_path / "other.npz", tmp_path):
        assert not OGBenchReader().recognizes(path)
    assert OGBenchReader().recognizes(PLAY) and OGBenchReader().recognizes(SINGLE_TASK)


# --------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(actions=None), "there is no actions: OGBench's datasets have observations, actions, terminals"),
        (dict(valids=np.ones(5)), "it was loaded with compact_dataset: load it without, and save it again"),
        (dict(actions=np.zeros((4, 1))), "different numbers of steps: .*'actions': 4"),
        (dict(actions=np.zeros(5)), r"actions has the shape \(5,\), expected one row of numbers per step"),
        (dict(actions=np.full((5, 1), 1.5)), "actions reach 1.5, beyond the bounds -1 ... 1 that are assumed without"),
        (dict(actions=np.array([["a"]] * 5)), "actions is <U1 of shape .*, expected numbers"),
        (dict(observations=np.float32(1)), "different numbers of steps: .*'observations': None"),
        (dict(observations=np.where(np.eye(5, 2), np.nan, 0)), r"observations\[0, 0\] is nan: repair or drop"),
        (dict(terminals=np.array([0, 0, 2, 0, 1])), "terminals has the value 2, expected 0 and 1 alone"),
        (dict(terminals=np.zeros((5, 2))), r"terminals has the shape \(5, 2\), expected one number per step"),
        (dict(terminals=np.zeros(5)), "terminals is 0 in the last row, so the last recording is not complete"),
        (dict(terminals=np.array([1, 0, 0, 0, 1])), "the recording that starts at row 0 has no step"),
        (dict(terminals=np.array([0, 1, 1, 0, 1])), "the recording that starts at row 2 has no step"),
        (dict(rewards=np.ones(5)), "it has rewards but no masks, so it is not a dataset of OGBench: .* those of D4RL"),
        (
            dict(timeouts=np.zeros(5), next_observations=SMALL["observations"]),
            "it has timeouts but no masks, so it is not a dataset of OGBench",
        ),
        (dict(next_observations=np.zeros((5, 3))), r"next_observations has the shape \(5, 3\), observations has"),
        (dict(masks=np.full(5, 0.5)), "masks has the value 0.5, expected 0 and 1 alone"),
        (dict(masks=np.array([Attack()] * 5, dtype=object)), "masks cannot be read .*save a plain array of numbers"),
        (
            {name: array[:0] for name, array in SMALL.items()},
            "the arrays are empty: record at least one step",
        ),
    ],
)
def test_damage_is_one_clear_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.npz", **changes)
    with pytest.raises(DemonstrationError, match=message) as caught:
        read_dataset(path, format="ogbench")
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert "OGBenchReader fails" not in str(caught.value)
    assert not EXECUTED


def test_what_expands_beyond_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in SMALL:
            with archive.open(f"{name}.npy", "w") as member:
                shape = (40_000_000, 1) if name == "observations" else (5, 1)
                np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
                member.write(bytes(shape[0]))
    assert path.stat().st_size < 100_000
    monkeypatch.setenv(SIZE_LIMITS, "0.1")  # so that the test itself needs little
    with pytest.raises(DemonstrationError, match=r"its content takes 40 MB, more than the .* allowed"):
        read_dataset(path)


def test_a_flipped_bit_or_a_missing_end_is_noticed(tmp_path: Path) -> None:
    content, rng, path = PLAY.read_bytes(), random.Random(0), tmp_path / "d.npz"
    damaged = [flip(content, rng) for _ in range(30)]
    damaged += [content[: rng.randrange(len(content))] for _ in range(10)]
    refused = 0
    for one in damaged:
        path.write_bytes(one)
        try:
            read_dataset(path)
        except DemonstrationError as error:
            assert "\n" not in str(error) and "OGBenchReader fails" not in str(error), error
            refused += 1
    assert refused >= 30  # a few bits, such as those of dates, mean nothing
