"""softflow-eval: what it prints and writes, that seeds decide it, and what it refuses."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from softflow.files import SIZE_LIMITS, TEXT_LIMIT
from softflow.runs import video
from softflow.training.run_folder import RunFolder
from tests.cli.conftest import SAYS_BEST

KEYS = ["success_rate", "success_ci95", "mean_return", "mean_length", "episodes", "errors", "lost", "outcome", "guard"]


def test_json(small_run: Path, command: Any) -> None:
    result = command("softflow-eval run --episodes 3 --json")
    assert result.status == 0 and result.err == SAYS_BEST
    figures = json.loads(result.out)
    assert list(figures) == KEYS
    assert figures["episodes"] == 3 and figures["mean_length"] == 200 and figures["success_rate"] == 0
    assert -2000 < figures["mean_return"] < 0
    assert figures["success_ci95"] == [0.0, pytest.approx(0.5615, abs=1e-3)]  # Wilson: z^2 / (3 + z^2)


def test_the_seed_decides(small_run: Path, command: Any) -> None:
    first, again, other = (command(f"softflow-eval run --episodes 2 --json --seed {seed}").out for seed in (1, 1, 2))
    assert first == again != other


def test_no_episode_by_default_chose_the_best_policy(small_run: Path, command: Any) -> None:
    assert command("softflow-eval run --episodes 2 --csv default.csv").status == 0
    evaluated = {int(row["seed"]) for row in csv.DictReader(Path("default.csv").read_text().splitlines())}
    chose = {int(row["seed"]) for row in csv.DictReader(Path("run/episodes.csv").read_text().splitlines())}
    assert len(evaluated) == 2 and chose and not evaluated & chose


def test_text_and_rows(small_run: Path, command: Any) -> None:
    result = command("softflow-eval run --episodes 2 --csv episodes.csv")
    assert result.out.startswith("success 0.00 [0.00, 0.66] on 2 held-out episodes\nmean return -")
    with open("episodes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    shown = [(row["seed"], row["success"], row["length"], row["terminated"]) for row in rows]
    assert sorted(shown) == [(seed, "0", "200", "0") for seed in ("2000000", "2000001")]
    figures = json.loads(command("softflow-eval run --episodes 2 --json").out)
    assert sum(float(row["return"]) for row in rows) / 2 == pytest.approx(figures["mean_return"])


def test_a_checkpoint_may_be_named(small_run: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, checkpoint = command("softflow-eval run --episodes 2 --json").out, RunFolder.open("run").last_checkpoint()
    assert command(f"softflow-eval {checkpoint} --episodes 2 --json").out == expected
    monkeypatch.chdir(checkpoint)
    assert command("softflow-eval . --episodes 2 --json").out == expected


def test_the_environment_may_have_other_options(small_run: Path, command: Any) -> None:
    result = command("softflow-eval run --episodes 2 --env-options.max-episode-steps 30 --json")
    assert json.loads(result.out)["mean_length"] == 30
    refused = command("softflow-eval run --episodes 2 --env-options.gravity 3")
    assert "unexpected keyword argument 'gravity'" in refused.error()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere", "nowhere: no such run folder"),
        ("run --episodes 0", "episodes must be at least 1, got 0"),
        ("run --epsodes 3", "unknown flag --epsodes: did you mean '--episodes'?"),
        ("run --device abacus", "device 'abacus' cannot be used"),
        ("run --num-envs 0", "num_envs must be at least 1, got 0"),
        ("run --seed -1", "seed must be in 0 ... 2^63 - 1, got -1"),
        ("run --csv small.yaml", "small.yaml exists; choose another --csv"),
        ("run --video nowhere/film.mp4", "nowhere is no folder; choose another --video"),
        ("run --video film.avi", "video must end in .mp4 or .gif, got 'film.avi'"),
        ("run --video-episodes 4", "video_episodes, video_beside and video_shows say what a video shows: give video"),
        ("run --video film.gif --video-beside imitaton", "run has no stage 'imitaton' that has ended: did you mean"),
        ("", "Run folder, whose best policy is evaluated, or the folder of one of its checkpoints"),
    ],
)
def test_bad_input_is_refused(
    arguments: str, message: str, small_run: Path, command: Any, snapshot: Callable[[], dict]
) -> None:
    before = snapshot()
    assert message in command(f"softflow-eval {arguments}").error()
    assert snapshot() == before


def test_the_policy_of_a_stage_is_filmed_above_the_best(
    small_run: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pendulum-v1 renders without OpenGL, 500 x 500 pixels, 30 of them a second, and has 200 steps."""
    monkeypatch.setattr(video, "GIF_RATE", 1)  # few pictures are written faster
    result = command("softflow-eval run --episodes 1 --video film.gif --video-episodes 2 --video-beside imitation")
    assert result.status == 0, result.err
    with Image.open("film.gif") as film:
        assert film.size == (800, 800) and getattr(film, "n_frames", 0) == -(-(201 + 30) // 30)
    ends = [
        f"{what}, seed {seed}: failure after 200 steps"
        for what in ("after imitation", "best")
        for seed in (2000000, 2000001)
    ]
    assert f"film: film.gif; {', '.join(ends)}\n" in result.err


def test_a_policy_of_another_environment_is_refused(small_run: Path, command: Any) -> None:
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("env: Pendulum-v1", "env: two_routes"))
    error = command("softflow-eval run").error()
    assert "run: its policy has observations of 3 dimensions, the environment 2: is the checkpoint another" in error


def test_damaged_checkpoints_are_refused(small_run: Path, command: Any) -> None:
    weights = RunFolder.open("run").best_checkpoint() / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert "the policy cannot be loaded" in command("softflow-eval run").error()
    weights.unlink()
    assert "policy.safetensors: no such file" in command("softflow-eval run").error()
    Path("run/checkpoints/best").unlink()
    Path("run/checkpoints/last").unlink()
    assert "checkpoints/last is missing" in command("softflow-eval run").error()


def test_a_video_needs_its_extra(small_run: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    checkpoint = RunFolder.open("run").best_checkpoint()
    result = command(f"softflow-eval {checkpoint} --episodes 1 --video film.mp4")
    assert "pip install 'softflow[video]'" in result.error()
    assert not Path("film.mp4").exists()


def test_a_runs_configuration_that_is_too_large_is_refused(small_run: Path, command: Any) -> None:
    config = small_run / "config.yaml"
    config.write_text(config.read_text() + "#" * TEXT_LIMIT)
    for line in ("softflow-eval run", "softflow-train --resume run"):
        error = command(line).error()
        assert "config.yaml: it takes 10" in error and f"the environment variable {SIZE_LIMITS}=2" in error
