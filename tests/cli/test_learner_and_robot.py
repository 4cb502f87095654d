"""A learner and a robot in two processes, which meet in a folder."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from softflow import Run
from softflow.data import read_dataset
from tests.cli.conftest import Command

SMALL = "--imitation.updates 5 --flow-options.width 8 --flow-options.layers 2 --num-envs 2 --threads 1"
LEARN = (
    "--algo softflow --base first --robots spool --run-dir online --warmup.updates 2 --offline.updates 2 "
    f"--candidates 2 --critic-width 8 --collect-steps 1 --save-minutes 0 --online.updates-per-step 0.01 {SMALL}"
)
ROBOT = "softflow-robot run spool --robot two_routes --clock simulated --rate 50 --out kept"


@pytest.fixture
def imitated(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that was imitated without an environment."""
    monkeypatch.chdir(tmp_path)
    assert command("softflow-demo --env two_routes --episodes 3 --out d.npz").status == 0
    flags = f"--algo imitation --env none --demos d.npz --reward sparse --run-dir first {SMALL}"
    assert command(f"softflow-train {flags}").status == 0


def start(*flags: str) -> subprocess.Popen[bytes]:
    with Path("learner.log").open("ab") as log:
        line = [sys.executable, "-m", "softflow", "train", *" ".join(flags).split()]
        return subprocess.Popen(line, stdout=log, stderr=log)


def wait_for(is_there: object, learner: subprocess.Popen[bytes]) -> None:
    while not is_there():  # type: ignore[operator]
        assert learner.poll() is None, Path("learner.log").read_text()
        time.sleep(0.05)


def names(folder: str) -> set[str]:
    return {path.name for path in Path(folder).glob("*.rec")}


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_nothing_is_lost_when_the_learner_is_killed(command: Command) -> None:
    learner = start(LEARN, "--online.steps 100000")
    wait_for(Path("spool/acting.safetensors").is_file, learner)
    assert command(f"{ROBOT} --episodes 3").status == 0
    wait_for(lambda: len(names("spool/learnt")) == 3, learner)
    learner.kill()
    learner.wait()
    said = Path("learner.log").read_text()
    assert "waiting for robots: softflow-robot run spool" in said and said.count(" steps, at ") == 3
    assert command(f"{ROBOT} --episodes 2").status == 0, "the robot goes on"
    assert names("spool/episodes") == names("kept") - names("spool/learnt")
    learner = start("--resume online")
    wait_for(lambda: len(names("spool/learnt")) == 5, learner)
    learner.terminate()
    learner.wait()
    assert names("spool/learnt") == names("kept") and not names("spool/episodes")
    episodes = [read_dataset(path).episodes[0] for path in Path("kept").glob("*.rec")]
    assert all(episode.proposals.own.all() for episode in episodes)  # type: ignore[union-attr]
    steps = [metric.step for metric in Run("online").metrics()["train/n_updates"] if metric.stage == "online"]
    assert max(steps) == sum(map(len, episodes)), "each is learnt from once"


@pytest.mark.usefixtures("imitated")
def test_what_does_not_fit_is_refused_in_one_line(command: Command) -> None:
    refused = command(f"softflow-train {LEARN} --reward dataset").error()
    assert "robots know whether an episode succeeded, and no other reward" in refused
    Path("spool").mkdir()
    Path("spool/run.json").write_text("{}")
    assert "run.json: damaged" in command(f"{ROBOT}").error()
