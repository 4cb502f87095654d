"""Recordings are whole up to the last step, whatever ended the process."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from softflow.data import DemonstrationError, read_dataset, save_demonstrations
from softflow.data.damage import leaving_out_damaged
from softflow.data.recording import Recording
from softflow.task import ActionPart, ObservationPart, TaskSpec
from tests.robot.scripted import TASK, ScriptedRobot, make_loop

KILLED = """
import json, os, signal, sys
import numpy as np
from softflow.data.recording import Recording
from softflow.task import TaskSpec

recording = Recording(sys.argv[1], TaskSpec.build(json.loads(sys.argv[2])))
for step in range(7):
    recording.step(np.float32([step]), np.float32([0, 0]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_episodes_are_read_as_they_were(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "hour.rec", TASK)
    loop = make_loop(ScriptedRobot(steps=5), recording=recording, synchronous=True, n_action_steps=1)
    for _ in range(2):
        loop.run_episode()
    recording.close()
    episodes, task = read_dataset(tmp_path / "hour.rec")
    assert task == TASK and len(episodes) == 2
    for episode in episodes:
        np.testing.assert_array_equal(episode.observation, np.arange(6.0)[:, None])
        np.testing.assert_array_equal(episode.action, TASK.unit_actions([[step, 0.5] for step in range(5)]))
        assert episode.reward.tolist() == [0, 0, 0, 0, 1]
        assert episode.terminated and not episode.truncated and episode.is_success
    save_demonstrations(tmp_path / "hour.npz", episodes, task)
    assert read_dataset(tmp_path / "hour.npz").task == TASK


def test_a_killed_process_loses_no_step(tmp_path: Path) -> None:
    path = tmp_path / "killed.rec"
    line = [sys.executable, "-c", KILLED, str(path), json.dumps(TASK.describe())]
    process = subprocess.run(line, cwd=Path(__file__).parents[2])
    assert process.returncode == -signal.SIGKILL
    [episode] = read_dataset(path).episodes
    np.testing.assert_array_equal(episode.observation[:, 0], [0, 1, 2, 3, 4, 5, 6, 6])
    assert len(episode) == 7 and episode.truncated and not episode.is_success


def test_who_acted_and_what_was_proposed(tmp_path: Path) -> None:
    """Three chunks of two actions: a person takes over in the second, and the third begins one step late."""
    recording, chunks = Recording(tmp_path / "shared.rec", TASK), np.float32(np.random.default_rng(0).random((3, 4, 2)))
    seen, did = np.float32([0]), np.float32([0, 0])
    for step, (human, as_proposed, proposed) in enumerate(
        [
            (0, 1, (0, chunks[0])),
            (0, 1, None),
            (0, 1, (2, chunks[1])),
            (1, 0, None),
            (0, 0, None),
            (0, 1, (4, chunks[2])),
        ]
    ):
        recording.step(np.float32([step]), did, bool(human), bool(as_proposed), proposed)
    recording.end(seen, False, True)
    recording.step(seen, did, as_proposed=True, proposed=(0, chunks[0]))
    recording.close()
    [first, second], _ = read_dataset(tmp_path / "shared.rec")
    assert first.human is not None and first.human.tolist() == [False, False, False, True, False, False]
    assert first.proposals is not None and second.proposals is not None
    assert first.proposals.step.tolist() == [0, 2, 4] and first.proposals.own.tolist() == [True, False, False]
    np.testing.assert_array_equal(first.proposals.chunk, chunks)
    assert second.human is None and second.proposals.own.tolist() == [True]

    content = (tmp_path / "shared.rec").read_bytes()
    (tmp_path / "cut.rec").write_bytes(content[:-1])  # the chunk is there, the step that begins it is not
    assert len(read_dataset(tmp_path / "cut.rec").episodes) == 1


def test_the_first_version_is_read(tmp_path: Path) -> None:
    """It has records of one size, and does not say who acted."""
    header = json.dumps({"version": 1, "task": TASK.describe()}).encode()
    rows = [(0, 1.0, 0.5, -0.5, 0, 0), (0, 2.0, 0.25, -0.25, 0, 0), (1, 3.0, 0, 0, 1, 1), (0, 4.0, 0, 0, 0, 0)]
    records = b"".join(struct.pack("<B3fBB", *row) for row in rows)
    (tmp_path / "old.rec").write_bytes(b"softflow recording\n" + header + b"\n" + records)
    [first, second], task = read_dataset(tmp_path / "old.rec")
    assert task == TASK and first.human is None and first.proposals is None
    np.testing.assert_array_equal(first.observation[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(first.action, [[0.5, -0.5], [0.25, -0.25]])
    assert first.is_success and first.terminated and first.reward.tolist() == [0, 1]
    assert len(second) == 1 and second.truncated


def write(path: Path) -> bytes:
    recording = Recording(path, TASK)
    for _ in range(3):
        recording.step(np.float32([1]), np.float32([0.5, -0.5]))
    recording.close()
    return path.read_bytes()


def test_a_step_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "cut.rec"
    whole = write(path)
    path.write_bytes(whole[:-1])
    assert len(read_dataset(path).episodes[0]) == 2


def test_an_episode_with_a_wrong_number_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "nan.rec", TASK)
    for episode, last in enumerate([1.0, np.nan, 3.0]):
        recording.step(np.float32([episode]), np.float32([0.5, -0.5]))
        recording.end(np.float32([last]), True, True)
    recording.close()
    with pytest.raises(DemonstrationError, match=r"episode 1: observation\[1, 0\] = nan .*--drop-damaged"):
        read_dataset(tmp_path / "nan.rec")
    with leaving_out_damaged() as left_out:
        kept = read_dataset(tmp_path / "nan.rec").episodes
    assert [episode.observation[-1, 0] for episode in kept] == [1, 3]
    assert len(left_out) == 1 and left_out[0].startswith("episode 1: ")


def test_images_are_recorded(tmp_path: Path) -> None:
    camera = ObservationPart("camera", (2, 2, 3), "uint8", axes="HWC")
    task = TaskSpec((camera, ObservationPart("joint", (1,))), (ActionPart("arm", (-1.0,), (1.0,)),))
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    row = task.rows({"camera": image, "joint": [0.25]})[0][0]
    recording = Recording(tmp_path / "seen.rec", task)
    recording.step(row, np.float32([1]))
    recording.end(row, False, False)
    recording.close()
    [episode] = read_dataset(tmp_path / "seen.rec").episodes
    np.testing.assert_array_equal(task.split(episode.observation)["camera"], [image, image])
    assert episode.truncated and not episode.is_success


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"version": 2', b'"version": 3', "version is 3, this version of softflow reads 2"),
        (b'"version": 2', b'"vision": 2', "its header is damaged"),
        (b'{"version"', b'{"ver', "its header is damaged"),
        (b'"rate": 200.0', b'"rate": -1', "control rate must be a positive number"),
        (b"\x00", b"\x07", "its records are damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path = tmp_path / "damaged.rec"
    path.write_bytes(write(path).replace(old, new))
    with pytest.raises(DemonstrationError, match=message):
        read_dataset(path)


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    before = write(tmp_path / "hour.rec")
    with pytest.raises(FileExistsError):
        Recording(tmp_path / "hour.rec", TASK)
    assert (tmp_path / "hour.rec").read_bytes() == before
