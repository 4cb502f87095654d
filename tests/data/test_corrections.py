"""Files of corrections: what comes back, what is refused, and that nothing else is raised whatever the file holds."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow.data import CorrectionError, Corrections, chunks_from, load_corrections, load_dataset, save_corrections
from softflow.errors import UserError
from softflow.task import ActionPart, ObservationPart, TaskSpec


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    """Five decisions with two observations, chunks of three steps and two actions, in three episodes; some changed
    (None: left out)."""
    rng = np.random.default_rng(0)
    given = {
        "observation": rng.normal(size=(5, 2)).astype(np.float32),
        "base_chunk": rng.uniform(-1, 1, (5, 3, 2)).astype(np.float32),
        "human_chunk": rng.uniform(-1, 1, (5, 3, 2)).astype(np.float32),
        "episode": np.array([0, 0, 1, 2, 2]),
        "is_success": np.array([True, False, True]),
        "schema_version": np.array(1),
    }
    return {name: array for name, array in {**given, **changes}.items() if array is not None}


def make_corrections(**changes: Any) -> Corrections:
    fields = arrays(**changes)
    del fields["schema_version"]
    return Corrections(**fields)


def at(shape: tuple[int, ...], index: tuple[int, ...], value: float) -> np.ndarray:
    array = np.zeros(shape)
    array[index] = value
    return array


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path, given = tmp_path / "new" / "corrections.npz", make_corrections()
    save_corrections(path, given)
    read = load_corrections(path)
    for name, array in arrays().items():
        if name != "schema_version":
            np.testing.assert_array_equal(getattr(read, name), array, err_msg=name)
            assert not getattr(read, name).flags.writeable
    assert len(read) == 5 and read.shape == (2, 3, 2)
    assert [file.name for file in path.parent.iterdir()] == ["corrections.npz"]


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3)),
    dtype=st.sampled_from(["f2", "f4", "f8", ">f4"]),
)
def test_any_shape_comes_back(tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], dtype: str) -> None:
    """N, O, H and A, one step and one decision included."""
    n, o, h, a = shape
    chunks = np.random.default_rng(0).uniform(-1, 1, (2, n, h, a)).astype(dtype)
    given = Corrections(np.ones((n, o), dtype), *chunks, np.zeros(n, np.int16), np.array([True]))
    path = tmp_path_factory.getbasetemp() / "any.npz"
    save_corrections(path, given)
    read = load_corrections(path)
    assert read.shape == (o, h, a) and len(read) == n
    np.testing.assert_array_equal(read.human_chunk, chunks[1].astype(np.float32))
    np.testing.assert_array_equal(read.base_chunk, given.base_chunk)


def test_the_documented_arrays_are_the_files(tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "how-to" / "corrections.md").read_text()
    section = document.partition("\n## Labelled decisions\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == [*arrays(), "task"]
    save_corrections(tmp_path / "c.npz", make_corrections())
    with np.load(tmp_path / "c.npz") as file:
        assert set(file.files) == set(arrays())


def test_the_documented_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = (Path(__file__).parents[2] / "docs" / "how-to" / "corrections.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    task = TaskSpec((ObservationPart("joints", (2,)),), (ActionPart("torque", (-1.0,), (1.0,)),))
    human = np.arange(4) >= 2
    recorded = {"observations": np.ones((5, 2)), "actions": np.full((4, 1), 0.5), "rewards": np.zeros(4)}
    log = SimpleNamespace(**recorded, solved=True, human=human)
    monkeypatch.chdir(tmp_path)
    exec(example, {"recordings": [log, log], "task": task})
    episodes, read = load_dataset("round1.npz")
    assert read == task and len(episodes) == 2
    for episode in episodes:
        np.testing.assert_array_equal(episode.human, human)
        assert episode.is_success and episode.terminated


def test_failed_corrections_are_not_worth_learning_from() -> None:
    assert make_corrections().successful.tolist() == [0, 1, 3, 4]


def test_the_last_action_of_an_episode_is_held() -> None:
    chunks = chunks_from(np.array([[1.0], [2.0], [3.0]]), 3)
    np.testing.assert_array_equal(chunks[..., 0], [[1, 2, 3], [2, 3, 3], [3, 3, 3]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(human_chunk=None), "missing human_chunk: docs/how-to/corrections.md lists the arrays of the file"),
        (dict(humanchunk=np.zeros(5)), "unknown array 'humanchunk': did you mean 'human_chunk'"),
        (dict(schema_version=np.array(2)), "schema_version is 2, this version of softflow reads 1"),
        (dict(observation=np.zeros(5)), "observation must be numbers of shape (N, O), got float64 of shape (5,)"),
        (dict(is_success=np.ones(3)), "is_success must be bools of shape (E,), got float64"),
        (dict(episode=np.zeros(5)), "episode must be integers of shape (N,), got float64"),
        (dict(base_chunk=np.zeros((5, 4, 2))), "human_chunk has H = 3, but base_chunk has H = 4"),
        (dict(human_chunk=np.zeros((4, 3, 2))), "human_chunk has N = 4, but observation has N = 5"),
        (dict(base_chunk=np.full((5, 3, 2), None)), "base_chunk cannot be read (Object arrays"),
        (dict(observation=np.zeros((0, 2))), "observation is empty"),
        (dict(is_success=np.array([True])), "episode[2] = 1, but is_success has 1 episodes"),
        (dict(episode=np.array([0, 0, -1, 1, 2])), "episode[2] = -1, but is_success has 3 episodes"),
        (dict(observation=at((5, 2), (3, 1), np.nan)), "observation[3, 1] = nan is not a finite float32"),
        (dict(base_chunk=at((5, 3, 2), (1, 2, 0), np.inf)), "base_chunk[1, 2, 0] = inf is not a finite float32"),
        (dict(human_chunk=at((5, 3, 2), (4, 0, 1), -1.1)), "human_chunk[4, 0, 1] = -1.1 is outside [-1, 1]"),
    ],
)
def test_malformed_files_are_one_clear_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "c.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(CorrectionError, match=re.escape(message)) as error:
        load_corrections(path)
    assert isinstance(error.value, UserError) and str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"text", b"PK", b"PK\x03\x04" + bytes(60)])
def test_damaged_files_raise_nothing_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(CorrectionError):
        load_corrections(tmp_path / "c.npz")
    with pytest.raises(CorrectionError, match="no such file"):
        load_corrections(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(human_chunk=np.zeros((5, 4, 2))), "base_chunk has shape (5, 3, 2), but human_chunk has (5, 4, 2)"),
        (dict(episode=np.zeros(4, int)), "one row for each decision"),
        (dict(episode=np.zeros((5, 1), int)), "episode must be one-dimensional integers"),
        (dict(is_success=np.ones(3)), "is_success must be one-dimensional bools"),
    ],
)
def test_corrections_that_do_not_fit_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_corrections(**changes)
