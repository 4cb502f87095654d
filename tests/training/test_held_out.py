"""The policies that a run keeps from its evaluations, whose results are prescribed here."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softflow.algos import SoftFlow
from softflow.algos.trial import TrialConfig
from softflow.training import held_out
from softflow.training.checkpoint import load_policy
from softflow.training.evaluated import read_evaluation
from softflow.training.evaluation import HELD_OUT_SEEDS, Evaluation
from softflow.training.interruption import Interrupted
from softflow.training.intervals import wilson_interval
from softflow.training.run_folder import RunFolder
from tests.algos.test_trial import episode
from tests.training.test_loop import IMITATION, OFFLINE, WARMUP, Run, interrupt_at


@pytest.fixture
def succeed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`succeed(40, 30, further=(35, 32))`: of 50 episodes each, the evaluations to come, and those on further ones."""

    def prescribe(*successes: int, further: tuple[int, ...] = ()) -> None:
        left, others = list(successes), list(further)

        def evaluate(_: Any, __: Any, episodes: int, seed: int, ___: Any) -> tuple[Evaluation, list[Any]]:
            count = (left if seed == HELD_OUT_SEEDS else others).pop(0)
            ended = [episode(0, number < count) for number in range(50)]
            return Evaluation(count / 50, wilson_interval(count, 50), 0.0, 10.0, 50), ended

        monkeypatch.setattr(held_out, "evaluate", evaluate)

    return prescribe


def kept(run: Run) -> set[str]:
    return {path.name for path in RunFolder(run.path).policies()}


def best(run: Run) -> str:
    return (run.path / "checkpoints" / "best").read_text().strip()


def test_the_best_the_latest_and_the_ends_of_stages_are_kept(restorable: Any, tmp_path: Path, succeed: Any) -> None:
    run = Run(restorable, tmp_path / "run", online_steps=240)
    run.method.trials = TrialConfig(enabled=False)
    succeed(10, 20, 30, 48, 30, 20, 10, further=(48, 30, 20, 10))
    done = run.trainer().run()
    assert [one.stage for one in done] == ["imitation", "critic_warmup", "offline", *["online"] * 4]
    ends = {f"imitation_{IMITATION}", f"critic_warmup_{WARMUP}", f"offline_{OFFLINE}", done[-1].folder}
    assert kept(run) == ends | {done[3].folder} and best(run) == done[3].folder
    folder = RunFolder(run.path)
    assert folder.best_checkpoint().name == done[3].folder and folder.last_checkpoint().name.isdigit()
    policy, last = load_policy(folder.best_checkpoint()), load_policy(folder.last_checkpoint())
    assert policy.candidates == 3  # those of its stage
    assert any(not torch.equal(*pair) for pair in zip(policy.parameters(), last.parameters(), strict=True))
    assert load_policy(folder.checkpoints_path / f"imitation_{IMITATION}").candidates == 1


def test_a_longer_run_has_another_end_and_keeps_its_best(restorable: Any, tmp_path: Path, succeed: Any) -> None:
    succeed(10, 20, 30, 40, 48, 0, 0, 0)
    [*_, first] = Run(restorable, tmp_path / "run").trainer().run()
    succeed(30, 20, 0, 0, 0, further=(48, 30, 20))
    longer = Run(restorable, tmp_path / "run", online_steps=240)
    done = longer.trainer(resume=True).run()
    assert best(longer) == first.folder
    assert [one.stage_ended for one in done[-3:]] == [False, False, True]
    assert {name for name in kept(longer) if name.startswith("online")} == {first.folder, done[-1].folder}


@pytest.mark.parametrize(("deployed", "in_training", "deploys"), [(20, 40, True), (20, 22, False), (20, 4, False)])
def test_at_the_end_the_policy_in_training_deploys_if_it_succeeds_more_often(
    restorable: Any, tmp_path: Path, succeed: Any, capsys: Any, deployed: int, in_training: int, deploys: bool
) -> None:
    run = Run(restorable, tmp_path / "run")
    succeed(10, 20, 20, 20, deployed, in_training, 0, 0)
    trainer = run.trainer()
    [*_, last] = trainer.run()
    assert last.counts == (in_training if deploys else deployed, 50)
    said = f"training succeeds in {in_training / 50:.2f} of 50 held-out episodes, the best one so far in "
    said += f"{deployed / 50:.2f}: "
    assert said + ("it is better" if deploys else "nothing changes") in capsys.readouterr().out
    algorithm, kept = trainer.algorithm, load_policy(run.path / "checkpoints" / last.folder)
    assert isinstance(algorithm, SoftFlow) and algorithm.trial is not None
    pairs = zip(kept.policy.parameters(), algorithm.policy.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs) == deploys
    assert algorithm.deployed.policy is algorithm.trial.champion


@pytest.mark.parametrize("in_training", [4, 32])
@pytest.mark.parametrize(("two", "three", "chosen"), [(22, 24, 1), (42, 42, 2), (42, 40, 2), (41, 44, 3), (22, 40, 3)])
def test_at_the_end_the_number_of_candidates_deploys_that_succeeds_most_often(
    restorable: Any, tmp_path: Path, succeed: Any, capsys: Any, in_training: int, two: int, three: int, chosen: int
) -> None:
    """Single chunks deploy before, because there are no own episodes of two or three.

    Two chunks that are better do not keep three from being chosen, which are not clearly better than two.
    """
    run = Run(restorable, tmp_path / "run")
    succeed(10, 20, 20, 20, 20, in_training, two, three)
    trainer = run.trainer()
    [*_, last] = trainer.run()
    so_far = max(20, in_training)
    assert last.counts == ({1: so_far, 2: two, 3: three}[chosen], 50)
    assert f"the critic's choice among 2 chunks succeeds in {two / 50:.2f} of 50" in capsys.readouterr().out
    algorithm, kept = trainer.algorithm, load_policy(run.path / "checkpoints" / last.folder)
    assert isinstance(algorithm, SoftFlow) and algorithm.trial is not None
    assert kept.candidates == algorithm.deployed.candidates == chosen
    pairs = zip(kept.policy.parameters(), algorithm.policy.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs) == (in_training == 32)
    again = Run(restorable, tmp_path / "run", online_steps=240).trainer(resume=True).algorithm
    assert again.deployed.candidates == chosen


def test_an_evaluation_that_is_interrupted_changes_nothing(
    restorable: Any, tmp_path: Path, succeed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy in training has won, but the choices have not been evaluated yet."""
    run = Run(restorable, tmp_path / "run")
    succeed(10, 20, 20, 20, 20, 40)
    trainer = run.trainer()
    with pytest.raises(IndexError):  # the seventh evaluation of the stage's end
        trainer.run()
    assert isinstance(trainer.algorithm, SoftFlow) and trainer.algorithm.trial is not None
    pairs = zip(trainer.algorithm.trial.champion.parameters(), trainer.algorithm.policy.parameters(), strict=True)
    assert not all(torch.equal(*pair) for pair in pairs)


def test_a_lucky_policy_is_not_the_best_for_long(restorable: Any, tmp_path: Path, succeed: Any, capsys: Any) -> None:
    """The latest policy seems worse than that of the stage before, but is not on further episodes."""
    run = Run(restorable, tmp_path / "run", online_steps=60)
    run.method.trials = TrialConfig(enabled=False)
    succeed(10, 20, 37, 32, further=(24, 43))
    [*_, lucky, last] = run.trainer().run()
    assert best(run) == last.folder and (lucky.counts, last.counts) == ((61, 100), (75, 100))
    assert "compared on further episodes: 8 updates of offline, success 0.61" in capsys.readouterr().out
    written = [read_evaluation(run.path / "checkpoints" / one.folder) for one in (lucky, last)]
    assert [one.counts for one in written] == [(61, 100), (75, 100)]


def test_each_policy_gets_further_episodes_once(restorable: Any, tmp_path: Path, succeed: Any) -> None:
    """When luck has left the most successful policy, the next one is compared."""
    run = Run(restorable, tmp_path / "run", online_steps=120)
    run.method.trials = TrialConfig(enabled=False)
    succeed(10, 40, 39, 30, 29, further=(20, 30, 38, 10))
    done = run.trainer().run()
    assert [one.counts for one in done] == [(10, 50), (60, 100), (77, 100), (60, 100), (39, 100)]
    assert best(run) == done[2].folder


def test_further_episodes_change_nothing_else(restorable: Any, tmp_path: Path, succeed: Any) -> None:
    """Neither what is logged nor the weights: loading the other policy draws random numbers."""
    with_them, without = Run(restorable, tmp_path / "with"), Run(restorable, tmp_path / "without")
    succeed(10, 48, 20, 20, 20, 20, 20, 20, further=(48, 20, 20, 20))
    with_them.trainer().run()
    succeed(10, 20, 20, 20, 20, 20, 20, 20)
    without.trainer().run()
    first, second = (RunFolder(run.path).last_checkpoint() / "policy.safetensors" for run in (with_them, without))
    assert first.read_bytes() == second.read_bytes()


def test_a_run_killed_after_an_evaluation_still_has_the_policies_of_its_checkpoint(
    restorable: Any, tmp_path: Path, succeed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It repeats the evaluation, with the comparison that made the earlier policy dispensable."""
    run = Run(restorable, tmp_path / "run", online_steps=180)
    run.method.trials = TrialConfig(enabled=False)
    succeed(10, 10, 10, 40, 30, further=(10, 45))
    trainer = run.trainer()
    save = trainer.held_out.run_folder.save_checkpoint

    def save_until_killed(step: int, write: Any) -> Path:
        if len(trainer.held_out.evaluations) == 5:
            raise KeyboardInterrupt
        return save(step, write)

    monkeypatch.setattr(trainer.held_out.run_folder, "save_checkpoint", save_until_killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    [*_, lucky, latest] = trainer.held_out.evaluations
    assert best(run) == latest.folder and not lucky.is_kept and lucky.folder in kept(run)
    succeed(30, 30, further=(10, 45, 30))
    [*_, again, last] = run.trainer(resume=True).run()
    assert again.counts == (75, 100) and best(run) == again.folder
    assert {name for name in kept(run) if name.startswith("online")} == {again.folder, last.folder}


def test_before_any_trial_nothing_contends(restorable: Any, tmp_path: Path, succeed: Any) -> None:
    """Each stage that does not act is evaluated once."""
    succeed(10, 20, 30)
    assert len(Run(restorable, tmp_path / "run", online_steps=0).trainer().run()) == 3


def test_an_interrupted_run_keeps_the_same(restorable: Any, tmp_path: Path, succeed: Any) -> None:
    whole, parted = Run(restorable, tmp_path / "whole"), Run(restorable, tmp_path / "parted")
    succeed(10, 20, 48, 30, 20, 0, 0, 0, further=(48, 30, 20))
    whole.trainer().run()
    succeed(10, 20)
    trainer = parted.trainer()
    interrupt_at(trainer.algorithm, IMITATION + WARMUP + 3)
    with pytest.raises(Interrupted):
        trainer.run()
    assert best(parted) == f"critic_warmup_{WARMUP}"
    succeed(48, 30, 20, 0, 0, 0, further=(48, 30, 20))
    parted.trainer(resume=True).run()
    assert best(whole) == f"offline_{OFFLINE}"
    require_same_policies(whole, parted)


@pytest.mark.parametrize("end", [(20, 40, 0, 0), (20, 10, 40, 0)])
def test_an_interrupted_comparison_keeps_the_same(
    restorable: Any, tmp_path: Path, succeed: Any, monkeypatch: pytest.MonkeyPatch, end: tuple[int, ...]
) -> None:
    """At the end, the policy in training or the choice among two chunks wins, but seems worse than the offline stage.

    Until that is settled, nothing is deployed, so the resumed run repeats all evaluations of the end.
    """
    whole, parted = Run(restorable, tmp_path / "whole"), Run(restorable, tmp_path / "parted")
    succeed(10, 20, 48, 20, *end, further=(48, 20, 45))
    uninterrupted = whole.trainer()
    uninterrupted.run()
    succeed(10, 20, 48, 20, *end, further=(48, 20))
    prescribed = held_out.evaluate

    def evaluate(environments: Any, act: Any, episodes: int, seed: int, errors: Any) -> tuple[Evaluation, list[Any]]:
        try:
            return prescribed(environments, act, episodes, seed, errors)
        except IndexError:  # the further episodes of the last policy
            signal.raise_signal(signal.SIGINT)
            act(np.zeros((1, 2), np.float32))
            raise

    monkeypatch.setattr(held_out, "evaluate", evaluate)
    with pytest.raises(Interrupted):
        parted.trainer().run()
    succeed(*end, further=(45,))
    resumed = parted.trainer(resume=True)
    resumed.run()
    require_same_policies(whole, parted)
    first, second = (trainer.algorithm.state_dict()["trial"]["records"] for trainer in (uninterrupted, resumed))
    assert first == second


def require_same_policies(one: Run, other: Run) -> None:
    """Require that two runs kept the same policies to the bit, with the same evaluations, and the same best one."""
    assert (kept(one), best(one)) == (kept(other), best(other))
    for name in kept(one):
        for file in ("evaluation.json", "policy.json", "policy.safetensors"):
            first, second = ((run.path / "checkpoints" / name / file).read_bytes() for run in (one, other))
            assert first == second, (name, file)


def test_evaluations_of_earlier_versions_are_remembered_without_their_policies(restorable: Any, tmp_path: Path) -> None:
    run = Run(restorable, tmp_path / "run")
    trainer = run.trainer()
    result = Evaluation(0.9, (0.8, 1.0), 0.0, 10.0, 50).as_dict()
    stages = trainer.algorithm.schedule()
    trainer.held_out.load_state([("imitation", 10, result), ("online", 60, result)], stages)
    first, second = trainer.held_out.evaluations
    assert (first.unit, first.is_kept, second.unit, second.number) == ("updates", False, "steps", 1)
    trainer.held_out.load_state(trainer.held_out.state(), stages)
    assert trainer.held_out.evaluations == [first, second]
