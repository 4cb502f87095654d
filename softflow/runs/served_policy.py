"""What the policy process of `softflow-robot run` loads, and how it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from softflow.data import observation_tensor
from softflow.errors import UserError
from softflow.policies import BestOfN, ChunkGuard, Policy
from softflow.policies.action_limits import StepLimits
from softflow.robot.plan import Proposal
from softflow.runs.assembly import load_run, require_device
from softflow.task import TaskSpec
from softflow.training.random_state import seed_all


class Served(NamedTuple):
    """What the process that controls the robot knows of the policy."""

    task: TaskSpec
    n_action_steps: int
    """Number of actions of a chunk to execute."""
    choice: str | None
    """See `softflow.runs.assembly.Deployed`."""
    limits: StepLimits | None
    """The limits of the guard, for actions in [-1, 1]. None without a guard."""


class Answer(NamedTuple):
    """The answer of the policy to an observation."""

    proposal: Proposal
    judged: Mapping[str, int]
    """What the guard did: the fields of `Report`, 0 or 1 each. Empty without a guard."""


Serve = Callable[[NDArray[Any], NDArray[np.floating] | None], Answer]
"""A row (O,) and the previous action (N,), None at the start of an episode -> the answer."""


def serve_policy(run: str, device: str, guard_folder: str | None, seed: int) -> tuple[Served, Serve]:
    """Load the best policy of a run, or that of a checkpoint's folder, and its guard. Set the threads of torch.

    Args:
        run: The folder.
        device: The device of both, in torch's notation.
        guard_folder: A folder that `softflow-guard` wrote. None for no guard.
        seed: Seeds the global random states, from which the policy draws.

    Raises:
        UserError: The device cannot be used, the policy or the guard cannot be loaded, the two do not fit, or the
            policy has no task.
    """
    require_device(device)
    (deployed, choice), trained = load_run(run, device)
    share_cores(trained.run.threads)
    task = deployed.task
    if task is None:
        raise UserError(f"{run}: its policy was saved without a description of its task: train it again")
    guard = None if guard_folder is None else ChunkGuard.load(guard_folder, device)
    policy = Policy(_of_whole_chunks(deployed), guard)
    seed_all(seed)

    def serve(row: NDArray[Any], previous: NDArray[np.floating] | None) -> Answer:
        if guard is None:
            drawn = deployed.decide(observation_tensor(row[None], device))[1][0].cpu().numpy()
            return Answer(Proposal(task.native_actions(drawn), drawn), {})
        actions, report = policy.act_and_report(task.named(row), previous)
        judged = {name: int(value) for name, value in report._asdict().items() if name != "log_prob"}
        return Answer(Proposal(np.asarray(actions)), judged)

    limits = None if guard is None else guard.limits.of_steps()
    return Served(task, deployed.n_action_steps, choice, limits), serve


def share_cores(threads: int) -> None:
    """Let torch use up to `threads` threads, and leave one core to the control loop.

    Threads that wait for each other on busy cores take several times as long.
    """
    torch.set_num_threads(max(1, min(torch.get_num_threads() - 1, threads)))


def _of_whole_chunks(deployed: BestOfN) -> BestOfN:
    """Return the same policy, which gives whole chunks: the loop needs the actions after the executed ones, too."""
    policy, critic = deployed.policy, deployed.critic
    return BestOfN(policy, critic, policy.horizon, deployed.candidates, deployed.temperature, deployed.task)
