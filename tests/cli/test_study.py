"""softflow-study: what it refuses before anything runs, its documentation, and studies that are killed and go on."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from string import Template
from typing import Any

import pytest

from softflow.cli import study
from softflow.cli.study import main
from softflow.studies.plan import Planned
from softflow.training.run_lock import RunLock

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TINY = "--preset diagnostic --threads 1 --num-demos 3 --num-envs 2 --eval-episodes 2".split()
PATIENCE = 300
"""Seconds: a machine may be busy."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--grid online.learning_rat=1e-4", "softflow on tape_cut, online.learning_rat 1e-4: unknown flag "
         "--online.learning-rat: did you mean '--online.learning-rate'?"),
        ("--grid online.learning_rate=1e-4,fast", "softflow on tape_cut, online.learning_rate fast: "),
        ("--grid mirror=true,maybe", "mirror maybe: --mirror is 'maybe': it must be true or false"),
        ("--grid num_demos=0", "num_demos 0: num_demos must be at least 1, got 0"),
        ("--algos softflow imitation --grid online.steps=10", "imitation on tape_cut, online.steps 10: unknown flag"),
        ("--grid seed=1,2", "--grid seed: the study sets it, use --seeds"),
        ("--algos softflow sofflow", "sofflow on tape_cut: unknown algorithm 'sofflow': did you mean 'softflow'?"),
        ("--grid flow=couplin", "softflow on tape_cut, flow couplin: algorithm 'softflow': unknown flow 'couplin'"),
        ("--envs tape_cut nowhere", "softflow on nowhere: unknown environment 'nowhere'"),
        ("--envs gymnasium:Nowhere-v0", "softflow on gymnasium:Nowhere-v0: "),
        ("--envs none", "softflow on none: env none: there is nothing in which a policy could be evaluated"),
        ("--seeds 99..100", "seed must be in 0 ... 99, got 100"),
        ("--algos softflow softflow", "--algos: 'softflow' is given twice"),
        ("--jobs 0", "jobs must be at least 1, got 0"),
        ("--jobs 2 --cluster auto", "jobs are for this machine: on a cluster, resources says"),
        ("--cluster somewhere", "cluster must be auto or HOST:PORT, got 'somewhere'"),
        ("-- --seed 3", "--seed: the study sets it, use --seeds"),
        ("-- --run-dir=a", "--run-dir=a: the study sets it, use FOLDER"),
        ("--grid num_demos=1,2 -- --num-demos 3", "--num-demos: it is on the grid as well, remove it after --"),
        ("-- --lerning-rate 3", "softflow on tape_cut: unknown flag --lerning-rate"),
        ("--algos rfs -- --base bases/{env}_s{seed}", "rfs on tape_cut: bases/tape_cut_s0"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_one_line_before_anything_runs(
    arguments: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["st/udy", *shlex.split(arguments)]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and output.err.count("\n") == 1 and error in output.err, output.err
    assert output.out == "" and not Path("st/udy").exists()


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Planned]:
    """The runs that would be executed, on whatever cluster."""
    runs = list[Planned]()
    monkeypatch.setattr(study, "_execute", lambda plan, wanted, *rest: runs.extend(wanted))
    monkeypatch.setattr(study, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(study, "RayRunner", lambda *_: None)
    return runs


def test_settings_become_those_of_softflow_train(executed: list[Planned]) -> None:
    grid = ["--grid", "mirror=false,true", "online.learning-rate=1e-3", "--grid", "flow_options.width=32"]
    flags = ["--env-options", "{sloppiness: 0}", "--demo-map", "a={env}_{seed}"]
    assert main(["study", "--algos", "softflow", "rfs", "--seeds", "7..8", *grid, "--", *flags]) == 0
    assert len(executed) == 8
    first = executed[0]
    assert first.name == "tape_cut/softflow_mirror=false_online.learning_rate=0.001_flow_options.width=32_s7"
    settings: dict[str, Any] = dict(first.settings)
    assert (settings["mirror"], settings["seed"], settings["online"]["learning_rate"]) == (False, 7, 1e-3)
    assert settings["flow_options"]["width"] == 32 and settings["env_options"]["sloppiness"] == 0
    assert settings["demo_map"] == {"a": "tape_cut_7"}
    assert "--no-mirror" in first.arguments and "--mirror" in executed[1].arguments


def test_two_studies_do_not_share_a_folder(executed: list[Planned], capsys: pytest.CaptureFixture[str]) -> None:
    Path("study").mkdir()
    lock = RunLock(Path("study"), "study")
    lock.acquire()
    assert main(["study"]) == 2
    assert "error: study is in use by process" in capsys.readouterr().err and not executed
    lock.release()
    assert main(["study"]) == 0 and executed


def test_a_file_cannot_be_the_folder(executed: list[Planned], capsys: pytest.CaptureFixture[str]) -> None:
    Path("study").touch()
    assert main(["study"]) == 2 and not executed
    expected = "error: study cannot be the folder of a study (File exists): choose another one\n"
    assert capsys.readouterr().err == expected


def test_the_folder_of_a_run_cannot_be_the_folder(executed: list[Planned], capsys: pytest.CaptureFixture[str]) -> None:
    Path("first").mkdir()
    Path("first/config.yaml").touch()
    assert main(["first"]) == 2 and not executed
    assert capsys.readouterr().err == "error: first is the folder of a run: choose another one for the study\n"
    assert [one.name for one in Path("first").iterdir()] == ["config.yaml"]


def test_a_changed_setting_is_named(executed: list[Planned], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--", "--online.steps", "1000"]) == 0
    assert main(["study", "--seeds", "1", "--", "--online.steps", "2000"]) == 2
    assert "study holds tape_cut/softflow_s0 with online.steps 1000, not 2000" in capsys.readouterr().err
    assert main(["study", "--seeds", "0..1", "--", "--online.steps", "1e3", "--threads", "1"]) == 0


def commands(page: Path) -> list[list[str]]:
    """The commands of softflow-study on a page, as a shell would split them once it has put in the page's variables."""
    text = page.read_text().replace("\\\n", " ")
    variables = dict(re.findall(r'^\$ ([A-Z]+)="(.*)"$', text, re.MULTILINE))
    lines = Template(text).safe_substitute(variables).splitlines()
    found = [line for one in lines if (line := one.strip().removeprefix("$ ")).startswith("softflow-study ")]
    return [shlex.split(line)[1:] for line in found if not line.startswith("softflow-study FOLDER")]


def test_every_documented_command_is_valid(executed: list[Planned], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "resolve_env_id", str)  # the packages of some are not installed
    checked = 0
    for command in (command for page in PAGES for command in commands(page) if "--base" not in command):
        command[0] = f"{checked}"  # a folder each
        assert main(command) == 0, command
        checked += 1
    assert checked >= 8 and executed


@pytest.mark.slow
def test_the_first_study_of_the_documentation_shows_what_it_says() -> None:
    command = next(command for command in commands(ROOT / "docs" / "how-to" / "scale.md") if "runs/flows" in command)
    assert main(command) == 0
    rates = {row["flow"]: float(row["success"]) for row in csv.DictReader(Path("runs/flows/results.csv").open())}
    assert rates["gaussian"] < 0.5 < rates["coupling"]
    for name in ("results.md", "evaluations.csv", "success.png", "success.svg", "plan.json"):
        assert Path("runs/flows", name).is_file()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_over(run: Path) -> bool:
    """Whether no process uses a run."""
    held = [int(one.name.partition("-")[0]) for one in run.glob("lock/*")]
    return not any(Path(f"/proc/{number}").exists() for number in held)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_study_that_is_stopped_leaves_no_run_behind_and_goes_on(number: int) -> None:
    arguments = ["study", "--algos", "imitation", "--envs", "two_routes", "--episodes", "4", "--", *TINY]
    arguments += ["--imitation.updates", "40", "--save-minutes", "0"]
    run = Path("study/two_routes/imitation_s0")
    process = subprocess.Popen([sys.executable, "-m", "softflow.cli.study", *arguments])
    wait_for((run / "checkpoints" / "last").is_file)
    process.send_signal(number)
    assert process.wait(PATIENCE) == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    if number == signal.SIGKILL:
        wait_for(lambda: is_over(run))
    assert is_over(run)
    assert main(arguments) == 0
    log = run.with_name("imitation_s0.log").read_text()
    assert log.count("$ softflow-train --resume") == 1
    [row] = csv.DictReader(Path("study/results.csv").open())
    result = json.loads(run.with_name("imitation_s0.deployed.json").read_text())
    assert (row["episodes"], row["steps"]) == ("4", "0")
    assert float(row["success"]) == result["success_rate"]


@pytest.mark.slow
def test_a_run_that_is_killed_is_tried_again(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["study", "--algos", "imitation", "--envs", "two_routes", "--episodes", "4", "--", *TINY]
    arguments += ["--imitation.updates", "40", "--save-minutes", "0"]
    run = Path("study/two_routes/imitation_s0")
    process = subprocess.Popen([sys.executable, "-m", "softflow.cli.study", *arguments])
    wait_for((run / "checkpoints" / "last").is_file)
    os.kill(int(next(run.glob("lock/*")).name.partition("-")[0]), signal.SIGKILL)
    assert process.wait(PATIENCE) == 0
    assert "two_routes/imitation_s0: failed, and is tried again" in capfd.readouterr().out
    assert run.with_name("imitation_s0.log").read_text().count("$ softflow-train --resume") == 1
