"""A task is handed to a reader in the names of the dataset, and what was read gets the names of the task again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.data import Dataset, DemonstrationError, Episode, Proposals, read_dataset, save_demonstrations
from softflow.data.part_names import RecordedParts, in_names_of_dataset, in_names_of_task, left_out
from softflow.task import ActionPart, ObservationPart, TaskSpec
from tests.formats.lerobot_datasets import CAMERA, GENUINE, write_numbers
from tests.task.specs import IMAGES, SEEN

A, B, C = (ObservationPart(name, (size,)) for name, size in (("a", 1), ("b", 2), ("c", 3)))
X, Y = ActionPart("x", (-1.0,), (1.0,)), ActionPart("y", (-2.0, 0.5), (2.0, 0.5))
"""The second number of `y` has one possible value."""
RECORDED = TaskSpec((A, B, C), (X, Y))
OBSERVED = {"a": [1.0], "b": [2.0, 3.0], "c": [4.0, 5.0, 6.0]}
EPISODE = Episode.from_native(
    RECORDED, [OBSERVED] * 2, [[0.25, 1.0, 0.5]], [1], terminated=True, truncated=False, is_success=True
)
DATASET = Dataset([EPISODE], RECORDED)


@given(st.permutations("abc"), st.permutations("abc"), st.integers(1, 3))
def test_parts_are_chosen_renamed_and_ordered(sources: list[str], wanted: list[str], number: int) -> None:
    names = dict(zip(wanted[:number], sources[:number], strict=True))
    by_name = {part.name: part for part in RECORDED.observation}
    task = replace(RECORDED, observation=tuple(replace(by_name[old], name=new) for new, old in names.items()))
    asked = in_names_of_dataset(task, names, RecordedParts.of(RECORDED))
    assert asked is not None and [part.name for part in asked.observation] == list(names.values())
    for dataset in (in_names_of_task(DATASET, task, names), in_names_of_task(DATASET, None, names)):
        assert dataset.task == task and dataset.episodes[0].task == task
        expected = np.concatenate([OBSERVED[old] for old in names.values()])
        np.testing.assert_array_equal(dataset.episodes[0].observation, [expected] * 2)


def test_parts_of_actions_are_chosen_as_well() -> None:
    """A part with a number that is not learnt takes one column less."""
    task = replace(RECORDED, action=(replace(Y, name="lift"), X))
    dataset = in_names_of_task(DATASET, task, {"lift": "y"})
    assert dataset.task == task
    np.testing.assert_array_equal(dataset.episodes[0].action, [[0.5, 0.25]])
    box = replace(RECORDED, action=(ActionPart("action", (-1.0, -1.0), (1.0, 1.0)),))
    numbers = replace(RECORDED, action=(X, replace(X, name="z")))
    episode = replace(EPISODE, task=numbers)
    names = {"action[0]": "z", "action[1]": "x"}
    swapped = in_names_of_task(Dataset([episode], numbers), box, names)
    assert swapped.task == box
    np.testing.assert_array_equal(swapped.episodes[0].action, [[0.5, 0.25]])


def test_proposed_chunks_are_put_in_order_with_the_actions() -> None:
    proposals = Proposals(np.array([0]), np.array([[[0.25, 0.5], [1.5, -0.5]]]), np.array([True]))
    dataset = Dataset([replace(EPISODE, proposals=proposals)], RECORDED)
    task = replace(RECORDED, action=(replace(Y, name="lift"), X))
    [episode] = in_names_of_task(dataset, task, {"lift": "y"}).episodes
    assert episode.proposals is not None and episode.proposals.own.tolist() == [True]
    np.testing.assert_array_equal(episode.proposals.chunk, [[[0.5, 0.25], [-0.5, 1.5]]])


@pytest.mark.parametrize(
    ("names", "others"),
    [
        ({"a": "a", "b": "b", "c": "c"}, []),
        ({"arm": "b"}, ["a", "c"]),
        ({"tip": "c[1]", "a": "a"}, ["b", "c[0]", "c[2]"]),
    ],
)
def test_what_is_not_named_is_listed(
    names: dict[str, str], others: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert left_out(names, RecordedParts.of(RECORDED)) == others
    save_demonstrations(path := tmp_path / "d.npz", *DATASET)
    read_dataset(path, names=names)
    listed = f"{', '.join(others)}; to keep a part, name it too, such as {others[0]}={others[0]}\n" if others else ""
    assert capsys.readouterr().err == (f"{path}: left out of the dataset: {listed}" if others else "")
    read_dataset(path, wanted=replace(RECORDED, observation=(A,)), names={"a": "a"})
    assert capsys.readouterr().err == ""  # the task says what is observed


NUMBERED = st.permutations([("a", 0), ("b", 0), ("b", 1), ("c", 0), ("c", 1), ("c", 2)])


@given(NUMBERED, st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_parts_are_assembled_from_single_numbers(sources: list[tuple[str, int]], sizes: list[int]) -> None:
    names, expected, parts = {}, [], []
    for part, size in zip("uvw", sizes, strict=False):
        parts.append(ObservationPart(part, (size,)))
        for index in range(min(size, len(sources))):
            source, number = sources.pop()
            names[f"{part}[{index}]" if size > 1 or number else part] = f"{source}[{number}]"
            expected.append(OBSERVED[source][number])
    if len(expected) < sum(sizes):
        return
    task = replace(RECORDED, observation=tuple(parts))
    asked = in_names_of_dataset(task, names, RecordedParts.of(RECORDED))
    assert asked is not None and set(asked.observation) <= set(RECORDED.observation)
    for dataset in (in_names_of_task(DATASET, task, names), in_names_of_task(DATASET, None, names)):
        assert dataset.task == task
        np.testing.assert_array_equal(dataset.episodes[0].observation, [expected] * 2)


def test_numbers_of_actions_are_put_in_order() -> None:
    """The reader is asked for the action as it is recorded, with the bounds of the task."""
    box = ActionPart("action", (0.5, -1.0, -2.0), (0.5, 1.0, 2.0))
    names = {"action[0]": "y[1]", "action[1]": "x", "action[2]": "y[0]"}
    task = replace(RECORDED, action=(box,))
    asked = in_names_of_dataset(task, names, RecordedParts.of(RECORDED))
    assert asked is not None and asked.action == RECORDED.action
    dataset = in_names_of_task(DATASET, task, names)
    assert dataset.task == task
    np.testing.assert_array_equal(dataset.task.native_actions(dataset.episodes[0].action), [[0.5, 0.25, 1.0]])
    unnamed = in_names_of_dataset(task, {f"action[{i}]": f"action[{2 - i}]" for i in range(3)}, RecordedParts(()))
    assert unnamed is not None and unnamed.action == (ActionPart("action", box.low[::-1], box.high[::-1]),)


def test_images_are_chosen_among_numbers() -> None:
    episode = Episode.from_native(IMAGES, [SEEN] * 2, [[0.5]], [1], terminated=True, truncated=False, is_success=True)
    dataset = Dataset([episode], IMAGES)
    [image, *_] = [part for part in IMAGES.observation if part.is_image]
    [number, *_] = [part for part in IMAGES.observation if not part.is_image]
    alone = in_names_of_task(dataset, None, {"eye": image.name})
    assert alone.task is not None and alone.task.layout is not None and IMAGES.layout is not None
    row = IMAGES.layout.unpack(episode.observation)
    np.testing.assert_array_equal(alone.task.layout.unpack(alone.episodes[0].observation)["eye"], row[image.name])
    alone = in_names_of_task(dataset, None, {"n": number.name})
    assert alone.episodes[0].observation.dtype == np.float32 and alone.episodes[0].layout is None
    np.testing.assert_array_equal(alone.episodes[0].observation, row[number.name].reshape(2, -1))
    both = in_names_of_task(dataset, None, {"eye": image.name, "n": f"{number.name}[1]"})
    assert both.task is not None and both.task.layout is not None
    got = both.task.layout.unpack(both.episodes[0].observation)
    np.testing.assert_array_equal(got["eye"], row[image.name])
    np.testing.assert_array_equal(got["n"], row[number.name][:, 1:2])
    with pytest.raises(ValueError, match=rf"no number '{image.name}\[0\]': '{image.name}' is named as a whole, as are"):
        in_names_of_task(dataset, None, {"eye": f"{image.name}[0]"})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": "b"}, "'b' is given for 'a', but the task has a part 'b': name it as well"),
        ({"a": "d"}, "the dataset has no observation 'd': it has a, b, c, and single numbers such as b[0]"),
        ({"d": "a"}, "the task has no part 'd': it has a, b, c, x, y, and single numbers such as b[0]"),
        ({"x": "y"}, "'y' is given for 'x', but the task has a part 'y': name it as well"),
        ({"x": "a"}, "the dataset has no action 'a': it has x, y, and single numbers such as y[0]"),
        ({"a": "b[0]"}, "'b[0]' is given for 'a', but the task has a part 'b': name it as well"),
        ({"a": "b[2]"}, "there is no number 'b[2]': 'b' has b[0] to b[1]"),
        ({"b": "c[0]"}, "'c[0]' is one number, 'b' is not: 'b' has b[0] to b[1]"),
        ({"b[0]": "a", "b": "c"}, "'b' is named as a whole and by its numbers: name it in one way"),
        ({"b[0]": "a"}, "b[1] of the task is not named: name all numbers of 'b', or none"),
        ({"b[0]": "a", "b[1]": "c"}, "'b[1]' is one number, 'c' is not: 'c' has c[0] to c[2]"),
        ({"a": "b[0]", "b": "b"}, "'b[0]' is a number of 'b', which is given too: a part can be used once"),
        ({"y": "x", "x": "y[0]"}, "'y' has the size 2, 'x' of the dataset 1: name numbers"),
        ({"x": "y"}, "'y' is given for 'x', but the task has a part 'y': name it as well"),
        ({"a": "b", "b": "b"}, "'b' is given for 'a' and 'b': a part can be used once"),
    ],
)
def test_names_that_do_not_fit(names: dict[str, str], message: str, tmp_path: Path) -> None:
    save_demonstrations(tmp_path / "d.npz", *DATASET)
    with pytest.raises(DemonstrationError) as caught:
        read_dataset(tmp_path / "d.npz", wanted=RECORDED, names=names)
    assert str(caught.value) == f"{tmp_path / 'd.npz'}: {message}"


def test_a_name_of_two_kinds_is_refused() -> None:
    task = replace(RECORDED, action=(replace(X, name="a"), Y))
    with pytest.raises(ValueError, match="'a' is a part of the observation and of the action: rename one of them"):
        in_names_of_dataset(task, {"a": "b"}, RecordedParts.of(RECORDED))


def test_a_file_without_names_is_refused(tmp_path: Path) -> None:
    save_demonstrations(tmp_path / "d.npz", [replace(EPISODE, task=None)])
    with pytest.raises(DemonstrationError, match=r"d\.npz: it does not contain its task, so its parts have no names"):
        read_dataset(tmp_path / "d.npz", names={"a": "b"})


def test_lerobot_takes_a_part_by_its_name_and_no_other(tmp_path: Path) -> None:
    wanted = TaskSpec(
        (ObservationPart("left", (64, 64, 3), "uint8", axes="HWC"), ObservationPart("joints", (4,))),
        (ActionPart("action", (-1.0, -1.0), (1.0, 1.0)),),
    )
    names = {"left": CAMERA, "joints": "observation.state", "action[0]": "y", "action[1]": "x"}
    dataset, plain = (
        read_dataset(GENUINE / "v061_image", wanted=wanted, names=names),
        read_dataset(GENUINE / "v061_image"),
    )
    assert dataset.task == replace(wanted, rate=10.0) and plain.task is not None and plain.task.layout is not None
    for episode, other in zip(dataset.episodes, plain.episodes, strict=True):
        rows, others = (one.layout.unpack(one.observation) for one in (episode, other) if one.layout is not None)
        np.testing.assert_array_equal(rows["left"], others[CAMERA])
        np.testing.assert_array_equal(rows["joints"], others["observation.state"])
        native = wanted.native_actions(episode.action)
        np.testing.assert_allclose(native[:, ::-1], plain.task.native_actions(other.action), atol=1e-6)
    with pytest.raises(DemonstrationError, match=r"has no observation 'observation\.images\.wirst': it has ob"):
        read_dataset(GENUINE / "v061_image", wanted=wanted, names={"left": "observation.images.wirst"})


def test_two_parts_are_not_read_from_one_column(tmp_path: Path) -> None:
    columns = {"observation.state": np.zeros((2, 3), np.float32), "action": np.zeros((2, 1), np.float32)}
    root = write_numbers(tmp_path / "one", [columns])
    parts = tuple(ObservationPart(name, (3,)) for name in ("state", "joints"))
    wanted = TaskSpec(parts, (ActionPart("action", (-1.0,), (1.0,)),))
    with pytest.raises(DemonstrationError, match=r"observation\.state would be two parts of the task, 'state' and 'ob"):
        read_dataset(root, wanted=wanted, names={"joints": "observation.state"})
