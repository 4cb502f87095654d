"""Films of evaluations in TensorBoard: they change nothing else, and an environment must render."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from softflow.runs import video
from tests.cli.test_resume import train
from tests.cli.training_runs import assert_same_run

PENDULUM = (
    "softflow-train --algo imitation --env Pendulum-v1 --num-envs 2 --eval-episodes 2 --horizon 4 --n-action-steps 2 "
    "--flow-options.width 8 --batch-size 8 --imitation.updates 4"
)


def test_an_evaluation_is_filmed_and_nothing_else_changes(
    demonstrations: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "GIF_RATE", 1)  # few pictures are written faster
    assert command(f"{PENDULUM} --demos {demonstrations} --run-dir seen --eval-films 1").status == 0
    assert command(f"{PENDULUM} --demos {demonstrations} --run-dir unseen").status == 0
    assert_same_run("seen", "unseen")
    assert not EventAccumulator("unseen/tb/imitation").Reload().Tags()["images"]
    [film] = EventAccumulator("seen/tb/imitation").Reload().Images("eval/films")
    picture: Any = Image.open(BytesIO(film.encoded_image_string))
    assert (film.step, film.width, film.height) == (4, 500, 500) and picture.size == (500, 500)
    assert picture.n_frames == -(-(201 + 30) // 30)  # an episode at 30 pictures a second, its last one held for one


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ("--eval-films -1", "eval_films must be at least 0, got -1"),
        ("--eval-films 1 --eval-episodes 0", "eval_films are made at evaluations, and eval_episodes is 0"),
        ("--eval-films 1", "environment 'peg_insertion' cannot be made with render_mode='rgb_array'"),
    ],
)
def test_what_cannot_be_filmed_is_refused_before_training(more: str, error: str, command: Any) -> None:
    assert error in command(train("imitation", "peg_insertion", f"--run-dir run {more}")).error()
    assert not Path("run").exists()


def test_films_need_pillow(demonstrations: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    result = command(f"{PENDULUM} --demos {demonstrations} --run-dir run --eval-films 1")
    assert "pip install 'softflow[video]'" in result.error() and not Path("run").exists()
