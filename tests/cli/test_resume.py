"""Stopped and resumed, in any stage and as often as one likes, a run is the same to the bit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.data import Corrections, save_corrections
from softflow.runs.config import config_class
from softflow.settings.fields import dotted_fields
from softflow.settings.presets import Selection, available_presets
from softflow.training.loop import Trainer
from tests.cli.training_runs import assert_same_run, stages_of

SMALL = {"updates": 6, "steps": 240, "updates_per_step": 0.05, "batch_size": 8, "critic_width": 8}
"""Values of a setting, wherever an algorithm has one of this name."""
SIZES = "--num-envs 3 --num-demos 6 --eval-episodes 2 --collect-steps 40 --eval-every 110 --log-every 2 --threads 1"
NETWORKS = "--horizon 4 --n-action-steps 2 --flow-options.width 8"


def train(algo: str, env: str = "two_routes", more: str = "") -> str:
    fields = dotted_fields(config_class(Selection(algo=algo)))
    keys = {key: key.rpartition(".")[2] for key, _ in fields}
    small = " ".join(f"--{key} {SMALL[name]}" for key, name in keys.items() if name in SMALL)
    required = "--base base --corrections corrections.npz" if "corrections" in keys else ""
    networks = NETWORKS if algo != "sac_prior_data" else "--flow-options.width 8 --imitation.updates 0"
    return f"softflow-train --algo {algo} --env {env} {SIZES} {small} {networks} {required} {more}"


class Calls:
    """Counts the decisions and updates that runs make, and sends a signal in some of them."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.signals: dict[int, int] = {}

    def note(self, trainer: Trainer) -> None:
        number = self.signals.get(len(self.stages))
        self.stages.append(trainer.algorithm.schedule()[trainer.progress.stage].name)
        if number is not None:
            signal.raise_signal(number)

    def in_each_stage(self, *shares: float) -> list[int]:
        """Calls after these shares of every stage."""
        ranges = {name: [i for i, n in enumerate(self.stages) if n == name] for name in dict.fromkeys(self.stages)}
        return sorted({calls[int(share * len(calls))] for calls in ranges.values() for share in shares})


@contextmanager
def counted() -> Iterator[Calls]:
    calls, update, experience = Calls(), Trainer._update, Trainer._new_experience

    def new_experience(trainer: Trainer) -> Any:
        source: Any = experience(trainer)
        explore = source._explore
        source._explore = lambda *args: (calls.note(trainer), explore(*args))[1]
        return source

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_update", lambda self, *args: (calls.note(self), update(self, *args))[1])
        patch.setattr(Trainer, "_new_experience", new_experience)
        yield calls


def assert_resumed_to_the_bit(command: Any, line: str, *shares: float) -> None:
    """Run `line` as a whole, and again with stops after these shares of every stage."""
    with counted() as whole:
        assert command(f"{line} --run-dir whole").status == 0
    stops = whole.in_each_stage(*shares)
    with counted() as parts:
        parts.signals = {stop: (signal.SIGINT, signal.SIGTERM)[i % 2] for i, stop in enumerate(stops)}
        statuses = [command(f"{line} --run-dir parted").status]
        while statuses[-1]:
            assert statuses[-1] in (130, 143)
            result = command("softflow-train --resume parted")
            assert "restarted" not in result.out
            statuses.append(result.status)
    assert len(statuses) == len(stops) + 1 > len(dict.fromkeys(whole.stages))
    assert parts.stages == whole.stages  # nothing was left out, nothing was done twice
    assert_same_run("whole", "parted")


@pytest.fixture
def corrected(command: Any, tmp_path: Path) -> None:
    """`base`, a run, and `corrections.npz` of its policy."""
    line = train("imitation").replace(f"updates {SMALL['updates']}", "updates 2")
    assert command(f"{line} --flow-options.components 2 --run-dir base").status == 0
    rng = np.random.default_rng(0)
    chunk, observation = rng.uniform(-0.9, 0.9, (2, 12, 4, 2)), rng.normal(size=(12, 2))
    corrections = Corrections(observation, *chunk, np.repeat([0, 1, 2], 4), np.array([True, False, True]))
    save_corrections(tmp_path / "corrections.npz", corrections)


def test_of_the_method(command: Any) -> None:
    line = train("softflow")
    assert_resumed_to_the_bit(command, line, 0.6)
    assert stages_of("whole") == ["imitation", "critic_warmup", "offline", "online"]


def test_with_environments_in_processes(command: Any) -> None:
    line = train("rfs_ppo", more="--vectorization-mode async --imitation.updates 2 --num-envs 2")
    assert_resumed_to_the_bit(command, line, 0.6)


def test_with_a_replay_on_disk(command: Any) -> None:
    """One so small that the ring goes round, and the same to the bit as in memory."""
    small = "--replay-capacity 90 --replay-storage"
    assert_resumed_to_the_bit(command, train("filtered_imitation", more=f"{small} disk"), 0.3, 0.8)
    assert command(f"{train('filtered_imitation', more=f'{small} memory')} --run-dir memory").status == 0
    assert Path("memory/metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()
    assert not Path("memory/replay").exists()


@pytest.mark.slow
@pytest.mark.parametrize("algo", [algo for algo in available_presets("algos") if algo != "softflow"])
def test_of_every_algorithm(algo: str, command: Any, request: pytest.FixtureRequest) -> None:
    if "correction" in algo:
        request.getfixturevalue("corrected")
    assert_resumed_to_the_bit(command, train(algo), 0, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("env", ["tape_cut", "cube_rotate"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_in_the_simulator(env: str, mode: str, command: Any) -> None:
    """Episodes of up to 200 steps: most stops are in the middle of some."""
    more = f"--vectorization-mode {mode} --online.steps 900 --collect-steps 150 --eval-every 500 --num-demos 2"
    assert_resumed_to_the_bit(command, train("softflow", env, more), 0.3, 0.7)
