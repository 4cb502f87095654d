"""The folder by which robots and a learner exchange episodes and networks."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from softflow.algos import Acting
from softflow.data.recording import Recording
from softflow.errors import UserError
from softflow.training import robots
from softflow.training.robots import ARMS, RobotExperience
from softflow.training.spool import Spool
from tests.robot.scripted import TASK

LENGTH = 3


def record(spool, name, success=True, task=TASK, arm=0):
    """Bring an episode of three steps as a robot does."""
    path = spool.path / "episodes" / name
    recording = Recording(path.with_suffix(".part"), task, arm)
    row = np.zeros(task.row_size, np.float32)
    for _ in range(LENGTH):
        recording.step(row, np.zeros(task.action_dim, np.float32))
    recording.end(row, success, success)
    recording.close()
    path.with_suffix(".part").replace(path)


class Learner:
    """The learner's side, with ten updates after each call of `collect`."""

    def __init__(self, spool, publish_every=1):
        self.updates, self.interrupted, self.arms_version, self.assign = 0, False, 0, count(7).__next__
        self.experience = RobotExperience(
            spool,
            TASK,
            "steps",
            count(50),
            self,
            lambda: self.updates,
            publish_every,
            self.check,
        )

    def acting(self):
        return Acting({"policy": {"weight": torch.full((2,), float(self.updates))}}, 3)

    def require_arm(self, arm, what):
        if arm == 5:
            raise UserError(what)

    def check(self):
        if self.interrupted:
            raise KeyboardInterrupt

    def collect(self, steps):
        result = self.experience.collect(steps)
        self.updates += 10
        return result


@pytest.fixture
def spool(tmp_path, monkeypatch):
    monkeypatch.setattr(robots, "POLL", 0.001)
    return Spool(tmp_path / "spool")


def test_episodes_are_taken_as_they_come_and_moved_once_a_checkpoint_has_them(spool):
    learner = Learner(spool)
    record(spool, "a-1.rec")
    record(spool, "a-2.rec", success=False)
    episodes, steps = learner.collect(4)
    assert steps == 6 and [one.seed for one in episodes] == [50, 51]
    assert [one.reward.tolist() for one in episodes] == [[-1, -1, 0], [-1, -1, -1]]
    assert spool.episodes() == ["a-1.rec", "a-2.rec"], "a learner that dies now loses nothing"
    threading.Timer(0.05, record, (spool, "b-1.rec")).start()
    assert [one.seed for one in learner.collect(1)[0]] == [52]
    assert learner.experience.state_dict() == {"taken": ["a-1.rec", "a-2.rec", "b-1.rec"]}
    learner.experience.checkpoint_saved()
    assert spool.episodes() == []
    assert sorted(file.name for file in (spool.path / "learnt").iterdir()) == ["a-1.rec", "a-2.rec", "b-1.rec"]
    record(spool, "a-1.rec")
    assert spool.episodes() == [], "it is brought again, and was learnt from"


def test_a_learner_that_died_after_its_checkpoint_learns_no_episode_twice(spool):
    learner = Learner(spool)
    record(spool, "a-1.rec")
    learner.collect(1)
    state = learner.experience.state_dict()
    record(spool, "a-2.rec")
    resumed = Learner(spool)
    assert resumed.experience.load_state_dict(state) == 0
    assert len(resumed.collect(1)[0]) == 1
    assert spool.episodes() == ["a-2.rec"]


def test_an_interrupted_learner_leaves_what_it_has_not_returned(spool):
    learner = Learner(spool)
    record(spool, "a-1.rec")
    learner.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        learner.collect(100)
    learner.experience.checkpoint_saved()
    assert spool.episodes() == ["a-1.rec"]


def test_robots_get_the_networks_and_the_arms_that_were_published_last(spool):
    learner = Learner(spool, publish_every=20)
    with pytest.raises(UserError, match="no such file: start softflow-train --robots"):
        spool.published()
    for updates, first_arm in ((0, 7), (0, 7), (20, 7 + ARMS)):
        record(spool, f"{learner.updates}.rec")
        learner.collect(1)
        learner.experience.checkpoint_saved()
        published = spool.published()
        assert published.updates == updates and published.acting.candidates == 3
        assert published.arms == list(range(first_arm, first_arm + ARMS))
        torch.testing.assert_close(published.acting.networks, {"policy": {"weight": torch.full((2,), float(updates))}})


def test_robots_get_other_networks_as_soon_as_arms_mean_them(spool):
    learner = Learner(spool, publish_every=1_000)
    published = []
    for arms_version in (1, 1, 2):
        learner.arms_version = arms_version
        record(spool, f"{learner.updates}.rec")
        learner.collect(1)
        learner.experience.checkpoint_saved()
        published.append(spool.published().updates)
    assert published == [0, 0, 20]


def test_what_is_damaged_or_of_another_task_or_run_is_left_where_it_is_and_said_once(spool, capsys):
    learner = Learner(spool)
    other = replace(TASK, action=tuple(replace(part, name=f"{part.name}_2") for part in TASK.action))
    record(spool, "a.rec", task=other)
    (spool.path / "episodes" / "b.rec").write_bytes(b"softflow recording\n{")
    record(spool, "c.rec")
    assert len(learner.collect(1)[0]) == 1
    record(spool, "d.rec", arm=5)
    record(spool, "e.rec")
    learner.collect(1)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "a.rec is of another task" in said[0] and "b.rec" in said[1]
    assert said[2].endswith("an episode of a robot is left out: d.rec is of another run")
    learner.experience.checkpoint_saved()
    assert spool.episodes() == ["a.rec", "b.rec", "d.rec"]


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, b'\x08\0\0\0\0\0\0\0{"a": 1}'])
def test_damaged_networks_are_refused(spool, content):
    (spool.path / "acting.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"acting\.safetensors: damaged"):
        spool.published()


def test_the_settings_and_the_task_are_kept(spool):
    spool.describe({"env": "none"}, TASK)
    assert spool.described() == ({"env": "none"}, TASK)
    (spool.path / "run.json").write_text(json.dumps({"settings": {}}))
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        spool.described()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be the folder of robots"):
        Spool(tmp_path / "file")
