"""`--imitate`: which steps a run imitates, what it says of them, and that a resumed run keeps the rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from softflow.algos import SoftFlow
from softflow.data import Episode, save_demonstrations
from softflow.training.run_folder import RunFolder
from tests.cli.test_resume import train
from tests.cli.training_runs import assert_same_run, interrupted

PENDULUM = "softflow-train --env Pendulum-v1 --config small.yaml --num-demos 9"


def save_costs(path: str, lengths: Sequence[int], seed: int = 0) -> None:
    """Episodes of the sizes of Pendulum-v1 that cost 1 at every step, and of which none is a success."""
    rng = np.random.default_rng(seed)
    episodes = [
        Episode(rng.normal(size=(n + 1, 3)), rng.uniform(-1, 1, (n, 1)), np.full(n, -1.0), False, True, False)
        for n in lengths
    ]
    save_demonstrations(path, episodes)


def told(output: str) -> list[str]:
    """The lines about what is imitated."""
    return [line for line in output.splitlines() if line.startswith("imitate ")]


def settings(run: str) -> dict[str, Any]:
    return yaml.safe_load(Path(run, "config.yaml").read_text())


def test_a_run_says_which_rule_it_chose_and_why(command: Any) -> None:
    budgets = "--imitation.updates 2 --warmup.updates 2 --offline.updates 2 --online.steps 0"
    line = f"softflow-train --env two_routes --preset diagnostic --num-demos 3 --eval-episodes 2 {budgets} --run-dir"
    result = command(f"{line} chosen")
    assert result.status == 0, result
    [said] = told(result.out)
    assert said.startswith("imitate reward_to_come (auto: rewards are sparse or staged: positive on ")
    assert ": 3 of 3 episodes, " in said and settings("chosen")["imitate"] == "reward_to_come"
    result = command(f"{line} given --imitate success")
    assert result.status == 0, result
    assert told(result.out)[0].startswith("imitate success: 3 of 3 episodes, ")


@pytest.mark.parametrize(("successes", "episodes", "warns"), [(9, 12, True), (10, 12, False), (3, 3, False)])
def test_few_successes_among_failures_are_warned_about(
    successes: int, episodes: int, warns: bool, command: Any
) -> None:
    save_demonstrations("d.npz", [ending(number < successes) for number in range(episodes)])
    result = command(
        f"{PENDULUM} --demos d.npz --num-demos {episodes} --online.steps 0 --eval-episodes 0 --run-dir run"
    )
    assert result.status == 0, result
    said = f"warning: only {successes} of {episodes} demonstrations succeed: record more successes"
    assert (said in result.err.splitlines()) == warns


@pytest.mark.parametrize(("horizon", "warns"), [(10, False), (11, True)])
def test_chunks_longer_than_most_demonstrations_are_warned_about(horizon: int, warns: bool, command: Any) -> None:
    save_demonstrations("d.npz", [ending(True)] * 4)
    options = f"--horizon {horizon} --online.steps 0 --eval-episodes 0 --run-dir run"
    result = command(f"{PENDULUM} --demos d.npz --num-demos 4 {options}")
    assert result.status == 0, result
    said = "warning: 4 of 4 demonstrations are shorter than a chunk of 11 steps, which repeats their last action: "
    assert (said in result.err) == warns


def ending(success: bool) -> Episode:
    """An episode of the sizes of Pendulum-v1 that is a success or not."""
    rng = np.random.default_rng(0)
    return Episode(rng.normal(size=(11, 3)), rng.uniform(-1, 1, (10, 1)), np.ones(10), False, True, success)


def test_step_costs_are_learnt_from_and_the_number_of_the_rule_is_kept(command: Any) -> None:
    save_costs("costs.npz", [30, 20, 10, 25])
    save_costs("more.npz", [5, 6], seed=1)
    with interrupted(SoftFlow, at=6):
        result = command(f"{PENDULUM} --demos costs.npz --run-dir run")
    assert result.status == 130
    origin = "auto, top:50: no step has reward to come, and no episode is a success"
    assert told(result.out) == [f"imitate return>=-20 ({origin}): 2 of 4 episodes, 30 of 85 steps"]
    assert settings("run")["imitate"] == "return>=-20"
    assert "imitate cannot be changed" in command("softflow-train --resume run --imitate all").error()
    result = command("softflow-train --resume run --demos more.npz")  # chosen anew, it would be -10
    assert result.status == 0 and told(result.out) == ["imitate return>=-20: 4 of 6 episodes, 41 of 96 steps"]
    assert settings("run")["imitate"] == "return>=-20"
    with np.load(RunFolder.open("run").last_checkpoint() / "replay.npz") as replay:  # Pendulum costs more than that
        assert replay["written"] > 0 and not replay["imitable"].any()


@pytest.mark.parametrize(("rule", "storage"), [("all", "memory"), ("return>=1", "disk")])
def test_a_resumed_run_is_the_same_to_the_bit(rule: str, storage: str, command: Any) -> None:
    line = train("softflow", more=f"--imitate {rule} --replay-storage {storage} --offline.updates 2")
    assert command(f"{line} --run-dir whole").status == 0
    with interrupted(SoftFlow, at=6 + 6 + 2 + 5):  # in the online stage
        assert command(f"{line} --run-dir parted").status == 130
    assert command("softflow-train --resume parted").status == 0
    assert_same_run("whole", "parted")


def test_a_run_of_an_earlier_version_imitates_what_it_did(command: Any) -> None:
    """Its settings have no rule. Of these demonstrations, another one would be chosen now."""
    rng = np.random.default_rng(0)
    dense = [1.0] * 8 + [-20.0] + [1.0] * 3
    save_demonstrations(
        "dense.npz",
        [Episode(rng.normal(size=(13, 3)), rng.uniform(-1, 1, (12, 1)), np.array(dense), False, True, False)],
    )
    with interrupted(SoftFlow, at=3):
        result = command(f"{PENDULUM} --demos dense.npz --run-dir run")
    assert result.status == 130 and told(result.out)[0].startswith("imitate all (auto: rewards are dense")
    config = settings("run")
    del config["imitate"]
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    result = command("softflow-train --resume run")
    assert result.status == 0 and told(result.out) == ["imitate reward_to_come: 1 of 1 episodes, 3 of 12 steps"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--imitate sucess", "did you mean 'success'?"),
        ("--imitate top:0", "top:X takes a percentage above 0 and up to 100"),
        ("--imitate success", "imitate is 'success', but no episode is a success, so nothing is worth imitating: give"),
        ("--imitate return>=-4", "imitate is 'return>=-4', but no episode has such a return, so nothing is worth"),
    ],
)
def test_what_cannot_be_imitated_is_refused(flags: str, message: str, command: Any) -> None:
    save_costs("costs.npz", [5, 5])
    assert message in command(f"{PENDULUM} --demos costs.npz --run-dir run {flags}").error()
    assert not Path("run").exists()
