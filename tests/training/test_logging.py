"""Metrics: what is written, that a resumed run writes the same bytes, and that divergence is named."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from softflow.errors import UserError
from softflow.training.logging import ALL_STAGES, SETTINGS, MetricLogger
from softflow.training.run_folder import RunFolder


def new_run(path: Path) -> RunFolder:
    return RunFolder.create("runs", "env", "algo", seed=0, run_dir=path)


def log_steps(logger: MetricLogger, stage: str, steps: range) -> None:
    for step in steps:
        logger.log(step, stage, {"train/critic_loss": 0.1 + step / 3, "time/fps": 60.0})


def tensorboard(run: RunFolder, stage: str, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run.tensorboard_path / stage)).Reload().Scalars(name)
    return [(event.step, event.value) for event in events]


def test_rows_and_events(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with MetricLogger(run) as logger:
        logger.log(1, "imitation", {"flow/nll": 0.1, "time/fps": 10.0})
        logger.log(2, "imitation", {"flow/nll": 1e-7, "train/n_updates": 2})
        logger.log(8, "online", {"eval/success_rate": math.nan})
    assert run.metrics_path.read_text() == (
        "stage,step,name,value\n"
        "imitation,1,flow/nll,0.1\n"
        "imitation,2,flow/nll,1e-07\n"
        "imitation,2,train/n_updates,2.0\n"
        "online,8,eval/success_rate,nan\n"
    )
    assert tensorboard(run, "imitation", "flow/nll") == [(1, pytest.approx(0.1)), (2, pytest.approx(1e-7))]
    assert tensorboard(run, "imitation", "time/fps") == [(1, 10.0)]


def test_a_resumed_run_writes_the_same_metrics(tmp_path: Path) -> None:
    whole, resumed = new_run(tmp_path / "whole"), new_run(tmp_path / "resumed")
    with MetricLogger(whole) as logger:
        log_steps(logger, "offline", range(5))
        log_steps(logger, "online", range(9))
    with MetricLogger(resumed) as logger:
        log_steps(logger, "offline", range(5))
        log_steps(logger, "online", range(4))
        offset = logger.offset()
        assert offset == resumed.metrics_path.stat().st_size
        log_steps(logger, "online", range(4, 7))  # after the checkpoint: to be dropped
    with MetricLogger(resumed, resume_at=offset) as logger:
        log_steps(logger, "online", range(4, 9))
    assert resumed.metrics_path.read_bytes() == whole.metrics_path.read_bytes()
    for stage in ("offline", "online"):
        expected = tensorboard(whole, stage, "train/critic_loss")
        assert len(expected) in (5, 9)
        assert tensorboard(resumed, stage, "train/critic_loss") == expected


def test_one_axis_for_all_stages(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with MetricLogger(run) as logger:
        log_steps(logger, "imitation", range(1, 4))
        log_steps(logger, "online", range(10, 13))
        offset = logger.offset()
        log_steps(logger, "online", range(13, 15))  # after the checkpoint: to be dropped
    with MetricLogger(run, resume_at=offset) as logger:
        log_steps(logger, "online", range(20, 22))
        logger.log(22, "online", {"eval/success_rate": 0.5})
    steps = [step for step, _ in tensorboard(run, ALL_STAGES, "train/critic_loss")]
    assert steps == [1, 2, 3, 13, 14, 15, 23, 24]
    assert tensorboard(run, SETTINGS, "eval/success_rate") == [(25, 0.5)]


def test_the_settings_are_shown(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    run.config_path.write_text("algo: softflow\nonline: {steps: 7}\ndemos: null\n")
    with MetricLogger(run) as logger:
        logger.log(1, "imitation", {"flow/nll": 0.5})
    events = EventAccumulator(str(run.tensorboard_path / SETTINGS)).Reload()
    [text] = events.Tensors("config")
    assert text.tensor_proto.string_val == [b"    algo: softflow\n    online: {steps: 7}\n    demos: null"]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["algo"].string_value == "softflow" and settings["online.steps"].number_value == 7
    assert settings["demos"].string_value == "None"


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Its last row and its last event are torn, and it was never closed."""
    run = new_run(tmp_path / "run")
    logger = MetricLogger(run)
    log_steps(logger, "online", range(4))
    offset = logger.offset()
    assert [step for step, _ in tensorboard(run, "online", "train/critic_loss")] == [0, 1, 2, 3]
    log_steps(logger, "online", range(4, 6))
    logger.flush()
    for file in (run.metrics_path, *run.tensorboard_path.rglob("*tfevents*")):
        os.truncate(file, file.stat().st_size - 7)
    with MetricLogger(run, resume_at=offset) as resumed:
        log_steps(resumed, "online", range(4, 8))
    assert [step for step, _ in tensorboard(run, "online", "train/critic_loss")] == [*range(8)]
    rows = [line.split(",") for line in run.metrics_path.read_text().splitlines()[1:]]
    assert [int(step) for _, step, _, _ in rows] == [*range(8)]
    logger.close()


def test_a_stage_begun_after_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with MetricLogger(run) as logger:
        log_steps(logger, "offline", range(5))
        offset = logger.offset()
        log_steps(logger, "online", range(7))
    with MetricLogger(run, resume_at=offset) as logger:
        log_steps(logger, "online", range(3))
    assert [step for step, _ in tensorboard(run, "online", "train/critic_loss")] == [0, 1, 2]


def test_resuming_needs_the_metrics_of_the_checkpoint(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with pytest.raises(UserError, match="missing or shorter"):
        MetricLogger(run, resume_at=100)
    run.metrics_path.write_text("stage,step,name,value\n")
    with pytest.raises(UserError, match="missing or shorter"):
        MetricLogger(run, resume_at=100)
    with pytest.raises(UserError, match="File exists"):
        MetricLogger(run)
    assert run.metrics_path.read_text() == "stage,step,name,value\n"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_training(value: float, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with MetricLogger(run) as logger:
        with pytest.raises(FloatingPointError, match=r"train/actor_loss is .* at step 7 of the stage 'online'"):
            logger.log(7, "online", {"train/actor_loss": value, "critic/q_mean": 3.0})
    assert run.metrics_path.read_text().splitlines()[1:] == [
        f"online,7,train/actor_loss,{value}",
        "online,7,critic/q_mean,3.0",
    ]
