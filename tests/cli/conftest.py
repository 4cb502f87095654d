"""The commands, run in this process from an empty folder, and what they need to learn something small."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from softflow.cli import data, demonstrate, evaluate, export, guard, plot, report, robot, train
from softflow.data import Corrections, Episode, save_corrections, save_demonstrations
from tests.cli.server import Server

MAINS = {
    "softflow-train": train.main,
    "softflow-eval": evaluate.main,
    "softflow-demo": demonstrate.main,
    "softflow-export": export.main,
    "softflow-guard": guard.main,
    "softflow-data": data.main,
    "softflow-robot": robot.main,
    "softflow-report": report.main,
    "softflow-plot": plot.main,
}

SMALL = """\
num_envs: 2
num_demos: 4
eval_episodes: 2
eval_every: 200
collect_steps: 100
threads: 1
horizon: 4
n_action_steps: 2
batch_size: 16
critic_width: 8
flow_options: {layers: 2, width: 8, components: 2}
imitation: {updates: 4}
warmup: {updates: 2}
offline: {updates: 2}
online: {steps: 420, updates_per_step: 0.01}
"""


SAYS_BEST = """\
best checkpoint: 420 steps of online, success 0.00 [0.00, 0.66] on 2 held-out episodes; it is the last one evaluated
"""
"""What commands say about the policy of the finished run."""


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    def error(self) -> str:
        """The one line of a refusal."""
        assert self.status == 2, self
        assert self.err.startswith("error: ") and self.err.endswith("\n") and self.err.count("\n") == 1, self.err
        return self.err


Command = Callable[..., Result]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, to see that nothing was written."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def pendulum_demonstrations(path: Path, reward: float, seed: int = 0) -> Path:
    """Four episodes of the sizes of Pendulum-v1, with `reward` at every step."""
    rng = np.random.default_rng(seed)
    episodes = [
        Episode(rng.normal(size=(31, 3)), rng.uniform(-1, 1, (30, 1)), np.full(30, reward), False, True, False)
        for _ in range(4)
    ]
    save_demonstrations(path, episodes)
    return path


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`command("softflow-train --seed 3")`, in an empty folder; more words, which may have spaces, follow the line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)

    def run(line: str, *words: str) -> Result:
        name, *argv = [*line.split(), *words]
        capsys.readouterr()
        status = MAINS[name](argv)
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture
def snapshot(tmp_path: Path) -> Callable[[], dict[str, bytes | None]]:
    return lambda: contents(tmp_path)


@pytest.fixture
def demonstrations(tmp_path: Path) -> Path:
    return pendulum_demonstrations(tmp_path / "pendulum.npz", reward=1.0)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on Pendulum-v1."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SMALL)
    demos = pendulum_demonstrations(folder / "pendulum.npz", reward=1.0)
    options = f"--demos {demos} --config {folder / 'small.yaml'} --run-dir {folder / 'run'}"
    assert train.main(["--env", "Pendulum-v1", *options.split()]) == 0
    return folder / "run"


@pytest.fixture
def small_run(command: Command, finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be used as `run`."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def corrections(small_run: Path) -> Path:
    """`c.npz`, of the policy of `run`, as a human would have made it."""
    rng = np.random.default_rng(0)
    chunk, observation = rng.uniform(-1, 1, (2, 12, 4, 1)), rng.normal(size=(12, 3))
    path = small_run.parent / "c.npz"
    save_corrections(path, Corrections(observation, *chunk, np.repeat([0, 1, 2], 4), np.array([True, False, True])))
    return path


@pytest.fixture
def takeovers(tmp_path: Path) -> Path:
    """`t.npz`: two successes and a failure, in each of which a human takes over at the tenth of 30 steps."""
    rng, human = np.random.default_rng(1), np.arange(30) >= 10
    episodes = [
        Episode(rng.normal(size=(31, 3)), rng.uniform(-1, 1, (30, 1)), np.zeros(30), False, True, success, human=human)
        for success in (True, False, True)
    ]
    save_demonstrations(tmp_path / "t.npz", episodes)
    return tmp_path / "t.npz"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()
