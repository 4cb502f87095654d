"""The suite: flags that `softflow-train` takes, the order and pruning of runs, and the table, by hand."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies import suite
from benchmarks.studies.suite_plan import METHODS, TASKS, Task, plan
from softflow.cli.command_line import parse_command_line
from softflow.errors import UserError
from softflow.runs.config import config_class
from softflow.settings.presets import Selection
from softflow.studies.jobs import FINISHED

CELLS = [*((task, "softflow") for task in TASKS), *(("tape_cut_100", method) for method in METHODS)]
SUCCESSES = {"imitation": 50, "softflow": 90, "q_chunking": 85, "rfs": 20}
"""Successes in 100 episodes of the deployed policy; imitation itself has 50."""


@pytest.mark.parametrize(("task", "method"), CELLS)
def test_the_flags_are_those_of_the_command(task: str, method: str) -> None:
    flags = plan(task, method, 3, Path("data"))
    config = config_class(Selection(algo=METHODS[method].algo, env=TASKS[task].env))
    parsed = parse_command_line(config, flags, prog="train", description="")
    assert parsed.run.env == TASKS[task].env and parsed.run.seed == 3
    assert parsed.run.num_demos == TASKS[task].num_demos
    assert parsed.run.demos == (f"data/{TASKS[task].env}.npz" if TASKS[task].play_data else None)


def test_all_methods_that_act_get_the_same_environment_steps() -> None:
    for method in METHODS.values():
        rounds = 2 if method.algo == "filtered_imitation" else 1  # its preset's
        assert sum(share for _, share in method.acts) * rounds == (0 if method.algo == "imitation" else 1)


def test_every_method_runs_on_three_tasks_and_five_on_all() -> None:
    for method in METHODS:
        tasks = [task for task in TASKS.values() if method in task.methods]
        assert len(tasks) == (len(TASKS) if method in suite.ON_ALL_TASKS else 3)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs, which write their results at once; rfs on the peg fails."""
    names = []

    def pretend(job: suite.SuiteJob) -> bool:
        task, method = job.run_dir.parent.name, job.run_dir.name.rpartition("_s")[0]
        names.append(f"{task}/{job.run_dir.name}")
        if (task, method) == ("peg_insertion_40", "rfs"):
            return False
        (job.run_dir / "checkpoints").mkdir(parents=True)
        (job.run_dir / "checkpoints" / "last").write_text("1500")
        budget = TASKS[task]
        settings = {"algo": METHODS[method].algo, "num_demos": budget.num_demos, "seed": 0, "eval_episodes": 50}
        (job.run_dir / "config.yaml").write_text(json.dumps(settings))
        rows = ["imitation,1500,eval/success_rate,0.5", "online,100,rollout/success_rate,0.3"]
        rows += ["online,900,rollout/success_rate,0.35", "online,1000,eval/success_rate,0.8"]
        (job.run_dir / "metrics.csv").write_text("\n".join(["stage,step,name,value", *rows]) + "\n")
        for stage, successes in (("imitation", 50), ("deployed", SUCCESSES[method])):
            job.evaluation(stage).write_text(json.dumps({"success_rate": successes / 100, "episodes": 100}))
        job.log.write_text(f"{FINISHED} 60 s, 120 s of CPU\n")
        return True

    monkeypatch.setattr(suite.SuiteJob, "run", pretend)
    return names


def test_the_cheapest_runs_start_first_and_hopeless_methods_get_no_second_seed(
    started: list[str], tmp_path: Path
) -> None:
    cells = [(task, method) for task in ("tape_cut_100", "wrong_mode") for method in SUCCESSES]
    assert suite.run(tmp_path, cells, [0, 1], parallel=1) == 0
    assert started[0] == "wrong_mode/imitation_s0" and started[4] == "tape_cut_100/imitation_s0"
    # 20 of 100 is hopeless beside 90 of 100, 85 is not; imitation goes on as what the others are compared with.
    assert {name.split("/")[1] for name in started[8:]} == {"imitation_s1", "softflow_s1", "q_chunking_s1"}
    before = len(started)
    suite.run(tmp_path, cells, [0, 1], parallel=1)
    assert len(started) == before  # finished runs are skipped


def test_a_study_goes_on_from_its_list_of_runs_alone(started: list[str], tmp_path: Path) -> None:
    cells = [("wrong_mode", "imitation"), ("wrong_mode", "softflow")]
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    suite.run(here, cells, [0], parallel=1)
    shutil.copy(here / "runs.csv", elsewhere)
    suite.run(elsewhere, cells, [0, 1], parallel=1)
    assert len(started) == 4 and not (elsewhere / "wrong_mode" / "softflow_s0").exists()
    [_, row] = csv.DictReader((elsewhere / "suite.csv").open())
    assert (row["seeds"], float(row["deployed"]), float(row["dip"])) == ("2", 0.9, 800)


def test_a_damaged_list_of_runs_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("task,method,seed\nwrong_mode,softflow,0\n")
    with pytest.raises(UserError, match=r"runs\.csv is not a list of runs of this suite \(KeyError"):
        suite.run(tmp_path, [("wrong_mode", "softflow")], [0], parallel=1)


def test_a_failed_run_costs_only_itself(started: list[str], tmp_path: Path) -> None:
    cells = [("peg_insertion_40", method) for method in ("rfs", "softflow")]
    assert suite.run(tmp_path, cells, [0], parallel=1) == 1
    assert "softflow" in (tmp_path / "suite.md").read_text() and len(started) == 2


def test_the_table_by_hand(started: list[str], tmp_path: Path) -> None:
    suite.run(tmp_path, [("wrong_mode", "imitation"), ("wrong_mode", "softflow")], [0, 1], parallel=1)
    [_, row] = csv.DictReader((tmp_path / "suite.csv").open())
    assert (row["method"], row["seeds"]) == ("softflow", "2")
    numbers: dict[str, Any] = {name: float(value) for name, value in row.items() if name not in ("task", "method")}
    assert numbers["imitation"] == 0.5 and numbers["at_the_end"] == 0.8 and numbers["deployed"] == 0.9
    assert numbers["difference"] == pytest.approx(0.4)
    assert 0.25 < numbers["difference_low"] < 0.4 < numbers["difference_high"] < 0.55
    # Own success was 0.15 or more below the 0.5 of imitation from step 100 to step 900.
    assert (numbers["dip"], numbers["updates"], numbers["cpu_minutes"]) == (800, 1500, 2)
    text = (tmp_path / "suite.md").read_text()
    assert "4 runs, 0.1 core-hours." in text
    assert "`softflow`: interquartile mean 0.90 over 1 tasks, better than `imitation` with probability 1.00" in text


def test_missing_play_data_are_named_before_anything_runs(started: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ogbench_scene\.npz: record play data with python -m bench"):
        suite.run(tmp_path, [("wrong_mode", "softflow"), ("ogbench_scene", "softflow")], [0], parallel=1)
    assert not started


@pytest.mark.slow
def test_a_tiny_suite_from_end_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(TASKS, "wrong_mode", Task("wrong_mode", 5, 20, 500, 1))
    cells = [("wrong_mode", method) for method in ("imitation", "filtered_imitation", "latent_steering")]
    assert suite.run(tmp_path, cells, [0], parallel=1) == 0
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "suite.csv").open())}
    assert {*rows} == {method for _, method in cells}
    assert rows["imitation"]["deployed"] == rows["imitation"]["imitation"]  # the same policy on the same episodes
