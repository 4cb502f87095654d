"""Numbers that are not finite, and environments that fail, in each stage of a run: it stops, and the last checkpoint is
one from before."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from softflow.algos import chunk_critic, optimization, policy_learner, softflow
from softflow.training.failures import EnvironmentFailed
from softflow.training.loop import TRAINING_SEEDS, Trainer
from tests.training.test_loop import IMITATION, OFFLINE, WARMUP, Run

ONLINE = IMITATION + WARMUP + OFFLINE
"""Updates before the online stage."""


def infinite_gradient(loss: Tensor) -> Tensor:
    """The same loss, whose gradient is NaN: the square root is infinitely steep at 0."""
    return loss + (0 * loss).sqrt()


@pytest.mark.parametrize(
    ("update", "learner", "harm", "message"),
    [
        (3, "actor", lambda loss: loss * torch.nan, "the loss of the actor is nan at step 3 of the stage 'imitation'"),
        (
            IMITATION + 2,
            "critic",
            lambda loss: loss + torch.inf,
            "critic is inf at step 2 of the stage 'critic_warmup'",
        ),
        (IMITATION + WARMUP, "actor", infinite_gradient, "the gradient of the actor is nan at step 0 of .*'offline'"),
        (ONLINE + 4, "state value", infinite_gradient, "gradient of the state value is nan .*'online'"),
        (ONLINE + 5, "critic", infinite_gradient, rf"gradient of the critic is nan .*'online', update {ONLINE + 6} of"),
    ],
)
def test_what_diverges_is_named_and_leaves_no_trace(
    update: int,
    learner: str,
    harm: Callable[[Tensor], Tensor],
    message: str,
    counting: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(counting, tmp_path / "run", save_minutes=0.0)
    trainer, descend = run.trainer(), optimization.descend

    def harmed(loss: Tensor, optimizer: Any, of: str) -> dict[str, Tensor]:
        return descend(harm(loss) if (trainer.progress.updates, of) == (update, learner) else loss, optimizer, of)

    with monkeypatch.context() as patch:
        for module in (policy_learner, chunk_critic, softflow):
            patch.setattr(module, "descend", harmed)
        with pytest.raises(FloatingPointError, match=message):
            trainer.run()
    for weights in (run.weights(), trainer.algorithm.deployed.state_dict()):
        assert all(weight.isfinite().all() for weight in weights.values())
    resumed = Run(counting, run.path).trainer(resume=True)
    assert (ONLINE if update > ONLINE else update) == resumed.progress.updates
    if update > ONLINE:
        resumed.run()
        assert resumed.progress.updates > update


@pytest.mark.parametrize(("slope", "moved"), [((3.0, 4.0), (3.0, 4.0)), ((30.0, 40.0), (6.0, 8.0))])
def test_a_gradient_is_clipped_to_a_norm_of_ten(slope: tuple[float, float], moved: tuple[float, float]) -> None:
    learned, other = (torch.zeros(2, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([learned[:1].detach().requires_grad_(), learned], lr=1.0)  # the first is not used
    step = optimization.descend((learned + other) @ torch.tensor(slope), optimizer, "state value")
    assert {name: float(value) for name, value in step.items()} == {
        "train/state_value_gradient_norm": pytest.approx(math.hypot(*slope)), "train/state_value_learning_rate": 1.0,
    }  # fmt: skip
    assert learned.tolist() == pytest.approx([-step for step in moved])
    assert other.grad is None


@pytest.mark.parametrize("acts", ["explore", "deployed"])
def test_an_action_stops_the_run(acts: str, counting: Any, tmp_path: Path) -> None:
    run = Run(counting, tmp_path / "run")
    trainer = run.trainer()
    if acts == "explore":
        explore = trainer.algorithm.explore

        def divide(seen: torch.Tensor, arms: torch.Tensor) -> torch.Tensor:
            return explore(seen, arms).chunk / (seen[:, 1] < 4)[:, None, None]

        trainer.algorithm.explore = divide  # type: ignore[method-assign]
        message = rf"of the policy is (nan|-?inf) in environment 0, step 5 of the episode with seed {TRAINING_SEEDS}"
    else:
        act = trainer.algorithm.deployed.act
        trainer.algorithm.deployed.act = lambda seen: act(seen) * torch.nan  # type: ignore[method-assign]
        message = "of the policy is nan in environment 0, step 1 of the episode with seed 1000000"
    with pytest.raises(FloatingPointError, match=message):
        trainer.run()
    assert Run(counting, run.path).trainer(resume=True).progress.updates == (ONLINE if acts == "explore" else 0)


def test_no_checkpoint_holds_weights_that_are_not_finite(counting: Any, tmp_path: Path) -> None:
    run = Run(counting, tmp_path / "run")
    trainer = run.trainer()
    update = trainer.algorithm.update_critic

    def overflowing(*arguments: Any) -> Any:
        scalars = update(*arguments)
        if trainer.progress.updates == IMITATION + WARMUP - 1:
            with torch.no_grad():
                next(trainer.algorithm.critic.parameters())[0].fill_(torch.inf)
        return scalars

    trainer.algorithm.update_critic = overflowing  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match=r"the weight critic\..* is not finite after update 16"):
        trainer.run()
    assert Run(counting, run.path).trainer(resume=True).progress.updates == IMITATION


def failing(counting: Any, which: Callable[[int], bool]) -> Any:
    """A toy with a bug in the third step of some episodes."""

    class Failing(counting):
        def step(self, action: Any) -> Any:
            if self.steps == 2 and which(self.seeds[-1]):
                raise IndexError("list index out of range")
            return super().step(action)

    return Failing


def test_an_error_of_an_environment_stops_the_run(counting: Any, tmp_path: Path) -> None:
    run = Run(failing(counting, lambda seed: seed == TRAINING_SEEDS + 3), tmp_path / "run")
    place = f"environment 0, step 3 of the episode with seed {TRAINING_SEEDS + 3}"
    with pytest.raises(
        EnvironmentFailed, match=rf"^{place}: IndexError: list index out of range \(test_div.*traceback"
    ):
        run.trainer().run()
    assert "in step" in (tmp_path / "run/environment_errors.txt").read_text()
    repaired = Run(counting, run.path).trainer(resume=True)
    assert repaired.progress.updates == ONLINE
    repaired.run()


@pytest.mark.filterwarnings("ignore:an episode was dropped")
def test_or_it_is_counted_and_the_run_goes_on(counting: Any, tmp_path: Path) -> None:
    broken = failing(counting, lambda seed: seed % 3 == 1)
    run = Run(broken, tmp_path / "run", on_env_error="restart")
    trainer = run.trainer()
    evaluations = trainer.run()
    ended = trainer.data.online.steps // 10
    assert trainer.environment_errors.count > 2 and 120 <= trainer.progress.steps < 126
    assert {one.result.errors for one in evaluations} == {2}  # of the seeds 1000000 ... 1000003 two
    logged = [value for *_, name, value in run.metrics() if name == "rollout/env_errors"]
    assert logged[-1] == trainer.environment_errors.count == max(logged)
    assert ended + trainer.environment_errors.count <= trainer.progress.episodes <= ended + logged[-1] + 3
    resumed: Trainer = Run(broken, run.path, on_env_error="restart").trainer(resume=True)
    assert resumed.environment_errors.count == logged[-1]
