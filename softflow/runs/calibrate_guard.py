"""Calibration of a guard from an imitated policy and held-out demonstrations."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from softflow.console import remark
from softflow.data import (
    Dataset,
    Episode,
    ImitationRule,
    check_compatible,
    in_order_of,
    load_demonstrations,
    read_dataset,
    whole_chunks,
)
from softflow.errors import UserError
from softflow.policies import ChunkGuard
from softflow.policies.pixel_encoder import ENCODED_AT_ONCE
from softflow.runs.assembly import config_path_of, load_run, make_mirror
from softflow.runs.given_demonstrations import DEMONSTRATIONS, as_learnt, identity
from softflow.training.evaluated import read_evaluation
from softflow.training.run_folder import RunFolder


class CalibratedGuard(NamedTuple):
    """A guard, and what its calibration tells about it."""

    guard: ChunkGuard
    chunks: int
    """Number of held-out chunks that calibrated it."""
    flags_misplaced: float
    """Fraction of these chunks that it flags if they are proposed for the observation of another one. A guard for which
    this is small flags next to nothing."""


def make_guard(
    run: str, held_out: str | PathLike[str] | Dataset, quantile: float, rate_factor: float | None = None
) -> CalibratedGuard:
    """Calibrate a guard of a run's policy on held-out demonstrations.

    Args:
        run: Run folder, or a checkpoint's folder in it.
        held_out: Demonstrations that the policy did not learn from. A file is read for the task of the policy, as in
            training.
        quantile: Fraction of demonstrated chunks, and of their observations, that may be flagged.
        rate_factor: Limit of the change of each action per step, as a multiple of the largest demonstrated change. None
            sets no limit.

    Raises:
        TaskMismatch: The demonstrations are of another task than the policy.
        UserError: The run's policy has no exact density. Or the demonstrations do not fit its environment, were used in
            its training, or are too few.
    """
    loaded, config = load_run(run)
    deployed, policy = loaded.policy, loaded.policy.policy
    try:
        ChunkGuard(policy)  # before anything else is found wrong with the demonstrations
    except ValueError as error:
        raise UserError(f"cannot calibrate a guard of {run}: {error}") from error
    name = "demos" if isinstance(held_out, Dataset) else str(held_out)
    if not isinstance(held_out, Dataset):
        held_out = read_dataset(held_out, wanted=deployed.task)
    if deployed.task is not None:
        held_out = in_order_of(deployed.task, held_out)
        if held_out.task is not None:
            deployed.task.require_same(held_out.task, "the held-out demonstrations are of another task than the policy")
    episodes = held_out.episodes
    check_compatible(episodes, policy.observation_size, policy.action_dim)
    episodes = as_learnt(config.run, held_out, name).episodes
    learned = _learned_from(run)
    if known := len(set(map(identity, learned)) & set(map(identity, episodes))):
        raise UserError(
            f"{run} has learnt from {known} of these demonstrations, so it finds them likelier than new ones: "
            "give others, for instance from softflow-demo with another --seed"
        )
    mirror = make_mirror(config.run, learned[0].layout)
    try:
        seen = [*learned, *(map(mirror, learned) if mirror else ())]
    except ValueError as error:
        raise UserError(f"{run}: its configuration belongs to another environment: {error}") from error
    rate: float | torch.Tensor = torch.inf
    if rate_factor is not None:
        largest = np.max([np.abs(np.diff(episode.action, axis=0)).max(0) for episode in seen if len(episode) > 1], 0)
        rate = rate_factor * torch.as_tensor(largest).clamp(min=1e-6)
    try:
        guard = ChunkGuard(policy, rate=rate, task=deployed.task)

        def summary(rows: np.ndarray) -> np.ndarray:
            return guard.summary(torch.as_tensor(rows), "learned").numpy()

        rule = ImitationRule(config.run.imitate).choose(learned).rule
        observation, chunk = map(torch.as_tensor, whole_chunks(episodes, policy.horizon, imitate=rule))
        guard.calibrate(torch.as_tensor(whole_chunks(seen, 1, summary, rule)[0]), observation, chunk, quantile)
    except ValueError as error:
        raise UserError(f"cannot calibrate a guard of {run}: {error}") from error
    loaded.say_choice()
    if loaded.choice is not None and (imitated := _imitated(run)) is not None:
        remark(f"a guard is meant to know demonstrations alone, as the imitated policy does: {imitated}")
    return CalibratedGuard(guard, len(chunk), _flags_misplaced(guard, observation, chunk))


@torch.no_grad()
def _flags_misplaced(guard: ChunkGuard, observation: torch.Tensor, chunk: torch.Tensor) -> float:
    """Return the fraction of chunks (N, H, A) that are flagged half the dataset away from their observation (N, O)."""
    misplaced = chunk.roll(len(chunk) // 2, 0)
    rows = zip(observation.split(ENCODED_AT_ONCE), misplaced.split(ENCODED_AT_ONCE), strict=True)
    return float((torch.cat([guard.log_prob(*row) for row in rows]) < guard.threshold).double().mean())


def _imitated(run: str) -> Path | None:
    """Return the imitated policy of a run that has trained it further, or None."""
    folder = RunFolder.open(run)
    stages = {path: read_evaluation(path).stage for path in folder.policies()}
    imitated = [path for path, stage in stages.items() if stage == "imitation"]
    if not imitated or folder.best_checkpoint() in imitated:
        return None
    return Path(run) / "checkpoints" / imitated[0].name


def _learned_from(run: str) -> list[Episode]:
    """Load the run's own copy of its demonstrations."""
    return load_demonstrations(config_path_of(run).parent / DEMONSTRATIONS)
