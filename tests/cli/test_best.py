"""The best policy of a run deploys, the policies of its stages are kept, and softflow-eval varies how they act."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import softflow
from softflow.cli import evaluate as command_module
from softflow.report.groups import group_runs
from softflow.report.history import read_histories
from softflow.report.report import _card
from softflow.runs.evaluator import EvaluationConfig, Evaluator
from softflow.training import held_out
from softflow.training.checkpoint import load_policy, save_policy
from softflow.training.evaluated import unchanged_since
from softflow.training.evaluation import HELD_OUT_SEEDS, Evaluation
from softflow.training.intervals import wilson_interval
from softflow.training.run_folder import RunFolder
from tests.cli.conftest import SAYS_BEST

SUCCESSES = {"imitation": 45, "critic_warmup": 44, "offline": 40, "online": 10}
FURTHER = {"imitation": 46, "offline": 39, "online": 11}


@pytest.fixture
def declined(command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The result of the command that trained `run`, whose policy is best after the critic's warm-up."""

    def evaluate(_: Any, __: Any, episodes: int, seed: int, ___: Any) -> tuple[Evaluation, list[Any]]:
        count = (left if seed == HELD_OUT_SEEDS else further).pop(0)
        return Evaluation(count / 50, wilson_interval(count, 50), 0.0, 10.0, 50), []

    left, further = list(SUCCESSES.values()), list(FURTHER.values())
    with monkeypatch.context() as patch:
        patch.setattr(held_out, "evaluate", evaluate)
        line = f"softflow-train --env Pendulum-v1 --demos {demonstrations} --config small.yaml --run-dir run"
        return command(f"{line} --online.steps 120 --online.updates-per-step 0.2 --trials.no-enabled")


def test_a_decline_is_told_at_the_end_and_the_best_deploys(declined: Any, command: Any) -> None:
    assert declined.status == 0
    assert declined.err.splitlines()[-1] == (
        "warning: the last policy (120 steps of online, success 0.21 [0.14, 0.30] on 100 held-out episodes) is "
        "probably worse than an earlier one (4 updates of imitation, success 0.91 [0.84, 0.95] on 100 held-out "
        "episodes): difference -0.70, 95 % interval [-0.78, -0.58]"
    )
    best = "best checkpoint: 2 updates of critic_warmup, success 0.88 [0.76, 0.94] on 50 held-out episodes"
    said = f"{best}; the last one has 0.21"
    assert said in declined.out.splitlines()
    table = declined.out.partition("success on held-out episodes, with 95 % intervals\n")[2].splitlines()
    assert table[:5] == [
        "  after imitation      0.91 [0.84, 0.95]",
        "  after critic_warmup  0.88 [0.76, 0.94]",
        "  after offline        0.79 [0.70, 0.86]",
        "  after online         0.21 [0.14, 0.30]",
        "  best policy          0.88 [0.76, 0.94], 2 updates of critic_warmup, which softflow-eval takes",
    ]
    shutil.copytree("run", "again")
    settings = Path("again/config.yaml")
    settings.write_text(settings.read_text().replace("seed: 0", "seed: 1"))
    heading, pooled = (
        _card(group_runs(read_histories(runs))[0], color=0).lines for runs in (["run"], ["run", "again"])
    )
    assert heading[1] == "0.88 [0.76, 0.94] of the best policy, after 2 updates of critic_warmup"
    assert pooled[1].startswith("0.88 [") and pooled[1].endswith("] of the best policy of each run")
    assert Path("run/checkpoints/best").read_text() == "critic_warmup_2\n"
    result = command("softflow-eval run --episodes 2 --json")
    assert result.err == f"{said}\n"
    same, last = (
        command(f"softflow-eval run/checkpoints/{name} --episodes 2 --json")
        for name in ("critic_warmup_2", "online_120")
    )
    assert same.err == "" and same.out == result.out != last.out
    exported = command("softflow-export run --format torchscript --out policy.pt")
    assert exported.status == 0 and exported.err == f"{said}\n"


def test_the_library_takes_the_best_and_a_named_checkpoint(declined: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    best, last = softflow.load("run"), softflow.load("run/checkpoints/online_120")
    assert capsys.readouterr().err.count("best checkpoint: 2 updates of critic_warmup") == 1
    folder = RunFolder.open("run")
    for policy, checkpoint in ((best, folder.best_checkpoint()), (last, folder.last_checkpoint())):
        expected = load_policy(checkpoint).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in policy.deployed.state_dict().items())


def test_a_best_policy_that_no_later_one_has_replaced_is_told(declined: Any) -> None:
    assert "the best policy still has the weights of the one after imitation: no later policy has" in declined.out


def test_the_weights_say_whether_a_policy_has_changed(small_run: Path) -> None:
    folder = RunFolder.open("run")
    best = folder.best_checkpoint()
    deployed = load_policy(best)
    deployed.policy.load_state_dict(load_policy("run/checkpoints/imitation_4").policy.state_dict())
    next(deployed.critic.parameters()).data.add_(1)  # the critic does not count
    save_policy(best, deployed)
    assert unchanged_since(folder) == "imitation"
    next(deployed.policy.parameters()).data.add_(1)
    save_policy(best, deployed)
    assert unchanged_since(folder) is None


def test_without_an_evaluation_the_newest_checkpoint_is_used(small_run: Path, command: Any) -> None:
    """This is a run in its first stage, or of an earlier version."""
    newest = Path("run/checkpoints", Path("run/checkpoints/last").read_text().strip())
    expected = command("softflow-eval run --episodes 2 --json")
    assert expected.err == SAYS_BEST
    Path("run/checkpoints/best").unlink()
    result = command("softflow-eval run --episodes 2 --json")
    said = f"newest checkpoint: {newest}; no policy of this run has been evaluated\n"
    assert (result.err, result.out) == (said, expected.out)


def test_a_best_that_is_missing_is_told(small_run: Path, command: Any) -> None:
    Path("run/checkpoints/best").write_text("../checkpoints\n")
    assert "checkpoints/best does not name a checkpoint: remove this file" in command("softflow-eval run").error()


def test_the_end_of_a_stage_is_evaluated(declined: Any, command: Any) -> None:
    result = command("softflow-eval run --stage imitation --episodes 2 --json")
    assert result.err == ("end of stage: 4 updates of imitation, success 0.91 [0.84, 0.95] on 100 held-out episodes\n")
    assert result.out == command("softflow-eval run/checkpoints/imitation_4 --episodes 2 --json").out
    last = command("softflow-eval run --stage online --episodes 2 --json").out
    assert last != result.out
    figures = softflow.Run("run").evaluate(2, stage="imitation").as_dict()
    assert json.loads(result.out) == json.loads(json.dumps(figures))


def test_candidates_temperature_and_the_greedy_chunk(declined: Any, command: Any) -> None:
    changed = Evaluator("run", EvaluationConfig(candidates=3, temperature=0.5))
    assert (changed.policy.candidates, changed.policy.temperature) == (3, 0.5)
    observation = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    greedy = Evaluator("run", EvaluationConfig(greedy=True))
    chunk = greedy.policy.policy.greedy(torch.as_tensor(observation))[:, :2]
    np.testing.assert_array_equal(greedy._act(observation), chunk.numpy(force=True))
    lines = ("", "--candidates 8", "--temperature 2", "--greedy")
    results = [json.loads(command(f"softflow-eval run --episodes 2 --json {flags}").out) for flags in lines]
    assert len({result["mean_return"] for result in results}) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("run --greedy --candidates 2", "the greedy chunk is not sampled: give it neither candidates nor"),
        ("run --greedy --temperature 0", "the greedy chunk is not sampled: give it neither candidates nor"),
        ("run --greedy --guard guard", "give one of guard and greedy"),
        ("run --candidates 0", "run: candidates must be an integer, at least 1, got 0"),
        ("run --temperature -1", "run: temperature must be a number, at least 0, got -1"),
        ("run --stage imitaton", "run has no stage 'imitaton' that has ended: did you mean 'imitation'?"),
        ("run/checkpoints/imitation_4 --stage online", "run/checkpoints/imitation_4 is one checkpoint already"),
    ],
)
def test_what_does_not_go_together_is_refused(flags: str, message: str, small_run: Path, command: Any) -> None:
    assert message in command(f"softflow-eval {flags}").error()


def test_without_a_critic_nothing_chooses(command: Any) -> None:
    line = "softflow-train --algo imitation --env two_routes --preset quick --num-demos 4 --imitation.updates 2"
    assert command(f"{line} --eval-episodes 2 --num-envs 2 --flow-options.width 8 --run-dir run").status == 0
    error = command("softflow-eval run --candidates 2").error()
    assert "run: without a critic nothing chooses among 2 candidates" in error
    Path("run/checkpoints/imitation_2/evaluation.json").unlink()
    assert "run has kept no policy of a stage: none has ended" in command("softflow-eval run --stage imitation").error()
    assert command_module.main(["run", "--episodes", "1"]) == 0  # a policy deploys although its evaluation is lost
