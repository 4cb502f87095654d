"""The study on a fixed set of own episodes, on a small run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.studies import fixed_episodes
from softflow.cli.train import main as train


def test_it_reports_each_number_of_updates_and_candidates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(tmp_path / "run")
    budgets = ["--imitation.updates", "5", "--warmup.updates", "1", "--offline.updates", "1", "--online.steps", "0"]
    few = ["--num-demos", "4", "--num-envs", "2", "--eval-episodes", "2", "--threads", "1"]
    train(["--env", "two_routes", "--preset", "diagnostic", "--run-dir", run, *few, *budgets])
    capsys.readouterr()
    updates = ["--critic-updates", "1", "3", "--actor-updates", "2", "--candidates", "1", "3"]
    arguments = ["study", run, "--episodes", "3", "--held-out", "2", *updates, "--temperatures", "0.35", "1"]
    monkeypatch.setattr("sys.argv", arguments)
    fixed_episodes.main()
    first, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"3 own episodes, [\d,]+ steps, success [01]\.\d{3}", first)
    reported = [line.rpartition(": ")[0] for line in lines]
    assert reported == [
        f"{what}: {candidates} candidates at temperature {temperature}"
        for what in ("1 critic updates", "3 critic updates", "2 actor updates")
        for candidates in (1, 3)
        for temperature in ("0.35", "1")
    ]
