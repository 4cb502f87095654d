"""What a resumed run may change: what does not change its past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from softflow.algos import SAC, SoftFlow
from softflow.algos.policy_learner import PolicyLearner
from softflow.data import load_demonstrations
from softflow.settings.typed import load_file
from softflow.training.run_folder import RunFolder
from tests.cli.test_resume import train
from tests.cli.training_runs import assert_same_run, interrupted

ALLOWED = (
    "device, threads, vectorization_mode, env_time_limit, on_env_error, eval_episodes, eval_films, log_every, "
    "save_minutes, actors, actors_ahead, actor_resources, cluster, publish_every, online.steps"
)


def rows(run: str) -> list[tuple[str, int, str]]:
    lines = (line.split(",") for line in Path(run, "metrics.csv").read_text().splitlines()[1:])
    return [(stage, int(step), name) for stage, step, name, _ in lines]


@pytest.mark.parametrize("at", [None, 3], ids=["finished", "interrupted"])
def test_a_longer_run_is_the_same_as_one_that_was_as_long_from_the_start(at: int | None, command: Any) -> None:
    """In a method that schedules nothing over the stage, with rounds and evaluations that end where the first run did;
    the episodes in progress there go on."""
    line = train("sac_prior_data", more="--num-envs 2 --online.updates-per-step 0.02 --eval-every 120")
    assert command(f"{line} --online.steps 480 --run-dir whole").status == 0
    if at is None:
        assert command(f"{line} --online.steps 240 --run-dir parted").status == 0
    else:
        with interrupted(SAC, at):
            assert command(f"{line} --online.steps 240 --run-dir parted").status == 130
    result = command("softflow-train --resume parted --online.steps 480")
    assert result.status == 0 and "restarted" not in result.out, result
    assert_same_run("whole", "parted")


def test_a_finished_run_goes_on_in_its_last_stage(small_run: Path, command: Any) -> None:
    """In one whose schedules depend on the length of the stage, and whose environments cannot be saved."""
    metrics = (small_run / "metrics.csv").read_bytes()
    before = rows("run")
    begun = list[float]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicyLearner, "restart", lambda self, learning_rate: begun.append(learning_rate))
        result = command("softflow-train --resume run --online.steps 720")
    assert result.status == 0 and "2 unfinished episodes are restarted, because" in result.out, result
    steps = sum(map(len, load_demonstrations("run/demonstrations.npz")))
    assert f"720 steps are about {720 * 4 / steps:,.0f} own episodes, " in result.out  # there are 4 demonstrations
    assert "fewer than 300 are often too few" in result.out
    assert begun == []
    assert (small_run / "metrics.csv").read_bytes().startswith(metrics)
    new = rows("run")[len(before) :]
    assert {stage for stage, *_ in new} == {"online"} and len(set(rows("run"))) == len(rows("run"))
    steps = [step for _, step, _ in new]
    assert 420 < steps[0] and steps == sorted(steps) and steps[-1] >= 720
    assert [step // 100 for stage, step, name in new if name == "eval/success_rate"] == [
        6,
        7,
    ]  # after 600, and at the end
    assert load_file("run/config.yaml").values["online"]["steps"] == 720
    assert load_file("run/config.yaml").values["resume"] is None
    ended = (small_run / "metrics.csv").read_bytes()
    assert command("softflow-train --resume run").status == 0  # it has finished
    assert (small_run / "metrics.csv").read_bytes() == ended


def test_a_stage_that_had_no_steps_is_begun(command: Any, demonstrations: Path) -> None:
    start = "softflow-train --env Pendulum-v1 --demos pendulum.npz --config small.yaml --run-dir run"
    assert command(f"{start} --online.steps 0").status == 0
    assert {stage for stage, *_ in rows("run")} == {"imitation", "critic_warmup", "offline"}
    assert command("softflow-train --resume run --online.steps 100").status == 0
    assert {stage for stage, *_ in rows("run")} == {"imitation", "critic_warmup", "offline", "online"}


def test_what_changes_nothing_may_change_and_is_kept(command: Any) -> None:
    line = train("softflow", more="--imitation.updates 2 --warmup.updates 2 --offline.updates 2")
    assert command(f"{line} --run-dir whole").status == 0
    with interrupted(SoftFlow, at=9):
        assert command(f"{line} --run-dir parted").status == 130
    flags = "--vectorization-mode async --env-time-limit 60 --save-minutes 0 --on-env-error restart"
    with interrupted(SoftFlow, at=1):
        assert command(f"softflow-train --resume parted {flags}").status == 130
    kept = load_file("parted/config.yaml").values
    assert (kept["vectorization_mode"], kept["env_time_limit"], kept["save_minutes"]) == ("async", 60, 0)
    assert command("softflow-train --resume parted --on-env-error stop").status == 0  # which counts them in the metrics
    metrics = [Path(run, "metrics.csv").read_text().splitlines() for run in ("whole", "parted")]
    assert [line for line in metrics[1] if "rollout/env_errors" not in line] == metrics[0]


def test_evaluations_and_rows_may_become_fewer(small_run: Path, command: Any) -> None:
    with interrupted(SoftFlow, at=1):
        assert command("softflow-train --resume run --online.steps 900").status == 130
    before = rows("run")
    assert command("softflow-train --resume run --eval-episodes 1 --log-every 7").status == 0
    assert command("softflow-train --resume run --threads 3").status == 0  # although nothing is left to do
    kept = load_file("run/config.yaml").values
    assert (kept["eval_episodes"], kept["log_every"], kept["threads"], kept["online"]["steps"]) == (1, 7, 3, 900)
    assert rows("run")[: len(before)] == before and rows("run")[-1][1] >= 900


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--seed 1", f"seed cannot be changed; start a new run, or change nothing but {ALLOWED}\n"),
        ("--num-envs 3 --threads 2", "a resumed run keeps its settings: num_envs cannot be changed"),
        ("--imitation.updates 9", "imitation.updates cannot be changed"),
        ("--online.steps 419", "online.steps of a resumed run may only grow: it is 420, got 419"),
        ("--device abacus", "device 'abacus' cannot be used"),
        ("--env-time-limit 3", "env_time_limit needs vectorization_mode async"),
    ],
)
def test_the_rest_stays_as_it_was(flags: str, message: str, small_run: Path, command: Any, snapshot: Any) -> None:
    before = snapshot()
    assert message in command(f"softflow-train --resume run {flags}").error()
    assert snapshot() == before


def test_a_run_that_finished_under_an_older_version_goes_on(small_run: Path, command: Any) -> None:
    """Its checkpoint counts the end of the last stage as one more, and has kept no episodes in progress."""
    file = RunFolder.open("run").last_checkpoint() / "training.pt"
    saved = torch.load(file, weights_only=True)
    progress = saved["state"]["progress"]
    assert progress.pop("ended")
    done = progress["done"]
    progress |= {"stage": progress["stage"] + 1, "begun": False, "done": 0, "evaluated": 0}
    saved["state"] |= {"rollout": None, "recent": []}
    torch.save(saved, file)
    before = rows("run")
    assert command("softflow-train --resume run").status == 0 and rows("run") == before
    assert command("softflow-train --resume run --online.steps 520").status == 0
    assert rows("run")[: len(before)] == before
    assert min(step for _, step, _ in rows("run")[len(before) :]) > done
