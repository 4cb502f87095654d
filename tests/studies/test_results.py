"""The tables of a study, against numbers by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from softflow.studies.jobs import Job
from softflow.studies.plan import Choice, Plan, Planned, choices
from softflow.studies.results import DEPLOYED, Results
from softflow.training.intervals import Counts, wilson_interval

RUNS = {
    "room/rfs_num_demos=5_s0": (90, 1000, "finished in 60 s, 60 s of CPU\n"),
    "room/rfs_num_demos=5_s1": (50, 1100, "stopped after 9 s, 30 s of CPU\nfinished in 60 s, 90 s of CPU\n"),
    "room/rfs_num_demos=7_s1": (100, 900, "finished in 60 s, 30 s of CPU\n"),
}
"""Successes in 100 episodes, environment steps and log of the finished runs. That of 7 and seed 0 is unfinished."""


@pytest.fixture
def results(tmp_path: Path) -> Results:
    def resolve(choice: Choice) -> Planned:
        return Planned(choice, [], {"num_demos": int(choice.grid["num_demos"])})

    plan = Plan(tmp_path)
    plan.extend(choices(["rfs"], ["room"], [0, 1], {"num_demos": ["5", "7"]}), resolve)
    results = Results(plan)
    for name, (successes, steps, log) in RUNS.items():
        job = Job(tmp_path / name, [], {DEPLOYED: []})
        job.run_dir.mkdir(parents=True)
        settings = {"algo": "rfs", "env": "room", "num_demos": 5, "seed": 0, "eval_episodes": 50}
        (job.run_dir / "config.yaml").write_text(json.dumps(settings))
        rows = [
            "imitation,1500,train/n_updates,1500",
            "imitation,1500,eval/success_rate,0.5",
            "base_rollouts,200,rollout/success_rate,0.3",
            "base_rollouts,200,train/n_updates,1500",
            "online,300,rollout/success_rate,0.35",
            f"online,{steps - 200},eval/success_rate,{successes / 100}",
        ]
        (job.run_dir / "metrics.csv").write_text("\n".join(["stage,step,name,value", *rows]) + "\n")
        job.evaluation(DEPLOYED).write_text(json.dumps({"success_rate": successes / 100, "episodes": 100}))
        job.log.write_text(log)
        assert job.finished
        results.add(name, job)
    return results


def read(path: Path) -> list[dict[str, Any]]:
    return list(csv.DictReader(path.open()))


def test_the_table_by_hand(results: Results, tmp_path: Path) -> None:
    text = results.write()
    five, seven = read(tmp_path / "results.csv")
    low, high = Counts([90, 50], [100, 100]).interval()
    assert five == {
        "env": "room", "algo": "rfs", "num_demos": "5", "seeds": "2", "planned": "2", "successes": "140",
        "episodes": "200", "success": "0.7000", "low": f"{low:.4f}", "high": f"{high:.4f}", "steps": "1050",
        "cpu_minutes": "1.50",
    }  # fmt: skip
    assert low < 0.5 + 0.05 and high > 0.9 - 0.05  # the seeds differ by far more than 200 episodes of one would
    assert (seven["seeds"], seven["planned"], seven["success"], seven["steps"]) == ("1", "2", "1.0000", "900")
    assert (seven["low"], seven["high"]) == (f"{wilson_interval(100, 100)[0]:.4f}", "1.0000")
    assert text == (tmp_path / "results.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines()]
    assert lines[0] == ["env", "algo", "num_demos", "seeds", "success", "steps", "CPU minutes"]
    assert lines[2] == ["room", "rfs", "5", "2", f"0.70 [{low:.2f}, {high:.2f}]", "1,050", "1.5"]
    assert lines[3] == ["room", "rfs", "7", "1 of 2", "1.00 [0.96, 1.00]", "900", "0.5"]


def test_the_evaluations_by_hand(results: Results, tmp_path: Path) -> None:
    results.write()
    rows = [row for row in read(tmp_path / "evaluations.csv") if row["num_demos"] == "5"]
    numbers = [(row["stage"], row["steps"], row["seeds"], row["successes"], row["episodes"]) for row in rows]
    assert numbers == [("imitation", "0", "2", "50", "100"), ("online", "1050", "2", "70", "100")]
    assert [row["success"] for row in rows] == ["0.5000", "0.7000"]


def test_a_cell_without_a_finished_run_has_no_numbers(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    plan.extend(choices(["rfs"], ["room"], [0], {}), lambda choice: Planned(choice, [], {}))
    assert Results(plan).write().splitlines()[2] == "| room | rfs | 0 of 1 |  |  |  |"
    assert read(tmp_path / "results.csv")[0]["success"] == ""
    assert not read(tmp_path / "evaluations.csv")


def test_the_figure_has_a_line_for_each_cell(results: Results, tmp_path: Path) -> None:
    results.plot()
    assert (tmp_path / "success.png").read_bytes().startswith(b"\x89PNG")
    text = "".join(ElementTree.parse(tmp_path / "success.svg").getroot().itertext())
    assert "rfs, num_demos 5, 2 seeds" in text and "rfs, num_demos 7, seed 0" in text
