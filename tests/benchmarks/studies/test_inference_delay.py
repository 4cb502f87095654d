"""The study of inference delays: which actions are executed when, what is measured of them, and a small run."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.studies import inference_delay
from benchmarks.studies.inference_delay import Delayed, jerk, jumps, run_episodes
from softflow.cli.train import main as train
from softflow.runs.assembly import load_run, make_environments
from softflow.training.evaluation import evaluate
from softflow.training.random_state import seed_all
from softflow.training.vector import closing


class Counting:
    """A policy of chunks of 8, of which 4 are executed. Chunk k at step j is (10 k + j) / 100."""

    n_action_steps, critic, policy = 4, None, SimpleNamespace(horizon=8, action_dim=1)

    def __init__(self) -> None:
        self.chunks = 0

    def choose(self, observation: torch.Tensor) -> torch.Tensor:
        chunk = (10 * self.chunks + torch.arange(8.0)) / 100
        self.chunks += 1
        return chunk[None, :, None].expand(len(observation), -1, -1)


@pytest.mark.parametrize(
    ("delay", "executed"),
    [
        (0, [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]),
        (1, [0, 1, 2, 3, 4, 11, 12, 13, 14, 21, 22, 23]),
        (4, [0, 1, 2, 3, 4, 5, 6, 7, 14, 15, 16, 17]),
    ],
)
def test_a_chunk_takes_over_when_its_delay_has_passed(delay: int, executed: list[int]) -> None:
    policy: Any = Counting()
    delayed = Delayed(policy, delay, "naive", candidates=1)
    chunks = [delayed.act(torch.zeros(2, 3), [7, 8]) for _ in range(3)]
    actions = torch.cat([chunk[:, :4] for chunk in chunks], 1)[..., 0]
    assert torch.equal(actions, (torch.tensor([executed] * 2) / 100))


def test_each_episode_continues_its_own_chunk() -> None:
    policy: Any = Counting()
    delayed = Delayed(policy, 4, "naive", candidates=1)
    first = delayed.act(torch.zeros(2, 3), [7, 8])
    first[1, 4:] += 0.5
    assert torch.equal(delayed.act(torch.zeros(1, 3), [8])[0, :4], first[1, 4:])  # the other episode has ended


def test_jumps_and_jerk_are_in_units_of_the_action_range() -> None:
    action = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.5], [0.0, 0.5]])
    assert jumps(action).tolist() == [1.0, 0.5, 0.0]
    third = np.array([0 - 3 * 0 + 3 * 1 - (-1), 0.5 - 3 * 0.5 + 3 * 0 - 0])
    assert jerk(action) == pytest.approx(math.sqrt((third**2).mean()) / 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has hardly learnt anything."""
    path = tmp_path_factory.mktemp("runs") / "run"
    few = ["--num-demos", "4", "--imitation.updates", "5", "--eval-episodes", "2", "--threads", "1"]
    train(["--algo", "imitation", "--env", "peg_insertion", "--run-dir", str(path), *few])
    return path


def test_without_a_delay_the_episodes_are_those_of_an_evaluation(run: Path) -> None:
    loaded, config = load_run(str(run))
    deployed = loaded.policy
    with closing(make_environments(config.run, 3, deployed.n_action_steps)) as environments:
        seed_all(5)
        delayed, lost = run_episodes(environments, Delayed(deployed, 0, "naive", 4), seed=5)
        seed_all(5)
        _, today = evaluate(environments, lambda seen: deployed.act(torch.as_tensor(seen)).numpy(), 3, seed=5)
    assert lost == 0 and len(today) == 3
    for one, other in zip(delayed, today, strict=True):
        assert one.action.tobytes() == other.action.tobytes()


def test_the_study_prints_a_row_for_each_delay_and_strategy(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--delays", "0", "2", "--strategies", "naive", "likeliest", "critic", "--episodes", "2"]
    monkeypatch.setattr("sys.argv", ["study", str(run), *given])
    inference_delay.main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    labels = [row.split(" | ")[0] for row in rows]
    assert labels == ["| demonstrations"] + [f"| {d}, {s}" for d in (0, 2) for s in ("naive", "likeliest", "critic")]
    assert "not possible: critic needs a policy with a critic" in rows[-1]
    assert rows[1].split(" | ")[1:] == rows[2].split(" | ")[1:]  # nothing is committed without a delay


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--delays", "0", "5"], "--delays: this run's chunks bridge a delay of 0 to 4 steps, got [0, 5]"),
        (["--delays", "-1"], "got [-1]"),
        (["--episodes", "0"], "--episodes and --candidates must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(
    run: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["study", str(run), *given])
    with pytest.raises(SystemExit) as ended:
        inference_delay.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
