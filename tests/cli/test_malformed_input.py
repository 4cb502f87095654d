"""Whatever is given to a command, it ends in one clear line and exit status 2, and nothing has been written."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from softflow.data import EpisodeBuilder, load_dataset
from softflow.data.recording import Recording
from softflow.envs import make_env
from softflow.policies import ChunkGuard
from softflow.robot import ControlLoop
from softflow.runs import evaluator, exporting, recorder, training
from softflow.task import TaskSpec
from softflow.teleop import display
from softflow.training.loop import Trainer
from tests.cli.conftest import MAINS, contents, pendulum_demonstrations
from tests.cli.malformed import DATASETS, Attempt, attempt
from tests.damage import EXECUTED
from tests.formats.hdf5_datasets import columns
from tests.formats.lerobot_datasets import GENUINE

ROOT = Path(__file__).parents[2]
FORMATS = ROOT / "tests" / "data" / "formats"
CPU_SECONDS = 10
"""After which an attempt hangs."""
MEMORY = 8 * 2**30
"""Bytes that attempts may ask for, beyond what the tests have: a size that no machine has must not be tried."""


class Accepted(BaseException):
    """The input was in order, and the work itself would begin."""


class Hanging(BaseException):
    """It took too long. No exception that an environment might have raised."""


def accept(*_: Any, **__: Any) -> Any:
    raise Accepted


class ResumingTrainer(Trainer):
    """Resumes, but does not train."""

    run = accept


class ShowingOne(EpisodeBuilder):
    """Lets a demonstrator show one episode, but no more."""

    def finish(self, *arguments: Any, **options: Any) -> Any:
        super().finish(*arguments, **options)
        raise Accepted


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is accepted stops before it costs anything; what asks for too much is stopped."""
    monkeypatch.setattr(training, "Trainer", ResumingTrainer)
    monkeypatch.setattr(recorder, "EpisodeBuilder", ShowingOne)
    monkeypatch.setattr(evaluator, "evaluate", accept)
    monkeypatch.setattr(exporting, "export_greedy", accept)
    monkeypatch.setattr(ChunkGuard, "save", accept)
    monkeypatch.setattr(ControlLoop, "run_episode", accept)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(display, "UNSEEN", ())
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))

    def hang(*_: Any) -> None:
        raise Hanging(f"still at it after {CPU_SECONDS} s")

    before = signal.signal(signal.SIGVTALRM, hang)
    yield
    signal.signal(signal.SIGVTALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(tried: Attempt) -> str:
    """ "refused", "accepted", or what is wrong with how the command took it. Runs in the present folder."""
    here = Path()
    tried.inflict(here)
    before, out, err = contents(here), io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
            status = MAINS[tried.argv[0]](tried.argv[1:])
    except Accepted:
        return "accepted"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if status == 0:
        return "accepted"
    after = contents(here)
    return complaint(status, err.getvalue()) or ("refused" if after == before else "wrote or removed a file")


def complaint(status: int, stderr: str) -> str | None:
    """What is wrong with how a command refused; None if all is well. Progress may stand before the one line."""
    *before, last = stderr.rstrip("\n").split("\n")
    fine = status == 2 and last.startswith("error: ") and len(last) < 1_500 and not any("rror" in x for x in before)
    return None if fine else f"status {status}, {stderr[-300:]!r}"


@pytest.fixture
def guard(command: Any, small_run: Path, tmp_path: Path) -> None:
    """`guard`, of `run`, and the `held_out.npz` that it was calibrated on."""
    pendulum_demonstrations(tmp_path / "held_out.npz", reward=1.0, seed=1)
    assert command("softflow-guard run --demos held_out.npz --out guard").status == 0


@pytest.fixture
def datasets(tmp_path: Path) -> None:
    """A dataset of each format of other projects, all but that of D4RL genuine, and a recording."""
    shutil.copytree(GENUINE / "v061_image", tmp_path / "lerobot")
    shutil.copytree(FORMATS / "minari" / "toy-hdf5-v0", tmp_path / "minari")
    shutil.copy(FORMATS / "robomimic" / "lift.hdf5", tmp_path / "robomimic.hdf5")
    shutil.copy(FORMATS / "ogbench" / "cube_task2.npz", tmp_path / "ogbench.npz")
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        file.update(columns(load_dataset(GENUINE / "two_routes.npz").episodes))
    with closing(Recording(tmp_path / "hour.rec", TaskSpec.from_env(make_env("Pendulum-v1")))) as recording:
        for step in range(6):
            proposed = (step, np.zeros((4, 1))) if step in (0, 4) else None
            recording.step(np.float32([step, 1, 2]), np.float32([0.5]), step == 2, step != 2, proposed)
        recording.end(np.float32([6, 1, 2]), False, True)


@pytest.fixture
def refuse(
    finished: Path,
    corrections: Path,
    demonstrations: Path,
    datasets: None,
    guard: None,
    tmp_path: Path,
    cut_short: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Iterable[int]], int]:
    """Tries the input of each seed, in a folder with everything that the commands take; how many were refused."""
    template = tmp_path / "template"
    template.mkdir()
    for name in ("small.yaml", "pendulum.npz", "c.npz", "run", "held_out.npz", "guard", *DATASETS):
        (tmp_path / name).rename(template / name)

    def tried(seeds: Iterable[int]) -> int:
        refused, wrong = 0, {}
        for seed in seeds:
            shutil.rmtree(tmp_path / "here", ignore_errors=True)
            shutil.copytree(template, tmp_path / "here")
            monkeypatch.chdir(tmp_path / "here")
            input = attempt(seed)
            result = outcome(input)
            refused += result == "refused"
            if result not in ("refused", "accepted"):
                wrong[seed] = f"{input}: {result}"
        again = " ".join(map(str, wrong))
        assert not wrong, f"MALFORMED_SEEDS='{again}' tries them again: " + "\n".join(wrong.values())
        assert not EXECUTED
        return refused

    return tried


def test_a_hundred(refuse: Callable[[Iterable[int]], int]) -> None:
    chosen = os.environ.get("MALFORMED_SEEDS")
    if chosen is not None:
        refuse(map(int, chosen.split()))
        return
    assert refuse(range(120)) >= 100


@pytest.mark.slow
def test_a_thousand(refuse: Callable[[Iterable[int]], int]) -> None:
    assert refuse(range(120, 1_600)) >= 1_000


PROCESSES = [
    "softflow-train --imitation.updates x",
    "softflow-eval run --episodes 0",
    "softflow-eval run --seed \udcff",
    "softflow-demo --env two_routes --demonstrator-options.noise x",
    "softflow-export run --format onnx --out small.yaml",
    "softflow-train --env Pendulum-v1 --demos run/config.yaml --run-dir new",
    "softflow-train --env Pendulum-v1 --demos pendulum.npz --run-dir small.yaml/new",
    "softflow-eval nowhere\x1b[31m",
]


@pytest.mark.parametrize(
    "line", [PROCESSES[0], *(pytest.param(line, marks=pytest.mark.slow) for line in PROCESSES[1:])], ids=ascii
)
def test_a_process_refuses_too(line: str, small_run: Path, demonstrations: Path, tmp_path: Path) -> None:
    name, *argv = line.split()
    module = MAINS[name].__module__
    code = f"import sys; from {module} import main; sys.exit(main())"
    before = contents(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code, *argv], cwd=tmp_path, env=environment, capture_output=True)
    assert complaint(run.returncode, run.stderr.decode()) is None
    assert contents(tmp_path) == before


@pytest.mark.parametrize("setting", ["critic_width", "  width"])
def test_a_resumed_configuration_takes_no_more_memory_than_its_checkpoint_explains(
    setting: str, small_run: Path, command: Any
) -> None:
    path = small_run / "config.yaml"
    text = path.read_text()
    assert f"\n{setting}: 8\n" in text
    path.write_text(text.replace(f"\n{setting}: 8\n", f"\n{setting}: 20000\n"))
    error = command("softflow-train --resume run").error()
    assert "the configuration takes" in error and "SOFTFLOW_SIZE_LIMITS" in error
