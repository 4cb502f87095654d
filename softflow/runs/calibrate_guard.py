"""From an imitated policy and held-out demonstrations to what judges chunks on the robot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from softflow.data import Episode, check_compatible, load_demonstrations, whole_chunks
from softflow.errors import UserError
from softflow.policies import ChunkGuard
from softflow.runs.assembly import config_path_of, load_run, make_mirror
from softflow.runs.training import DEMONSTRATIONS


def make_guard(
    run: str, held_out: Sequence[Episode], quantile: float, rate_factor: float | None = None
) -> tuple[ChunkGuard, int]:
    """A guard of a run's policy, and how many chunks of the held-out demonstrations calibrate it.

    Raises:
        UserError: the run's policy has no exact density; the demonstrations are not of its environment, are among
            those that it learnt from, or too few.
    """
    deployed, config = load_run(run)
    policy = deployed.policy
    check_compatible(held_out, policy.observation_dim, policy.action_dim)
    learned = _learned_from(run)
    if known := len({_identity(episode) for episode in learned} & {_identity(episode) for episode in held_out}):
        raise UserError(
            f"{run} has learnt from {known} of these demonstrations, and holds them likelier than any that follow: "
            "give others, such as of softflow-demo with another --seed"
        )
    mirror = make_mirror(config.run, learned[0].layout)
    try:
        seen = [*learned, *(map(mirror, learned) if mirror else ())]
    except ValueError as error:
        raise UserError(f"{run}: its configuration is of another environment: {error}") from error
    observation, chunk = map(torch.as_tensor, whole_chunks(held_out, policy.horizon))
    rate: float | torch.Tensor = torch.inf
    if rate_factor is not None:
        largest = np.max([np.abs(np.diff(episode.action, axis=0)).max(0) for episode in seen if len(episode) > 1], 0)
        rate = rate_factor * torch.as_tensor(largest).clamp(min=1e-6)
    try:
        guard = ChunkGuard(policy, rate=rate)
        guard.calibrate(torch.as_tensor(whole_chunks(seen, 1)[0]), observation, chunk, quantile)
    except ValueError as error:
        raise UserError(f"no guard of {run}: {error}") from error
    return guard, len(chunk)


def _learned_from(run: str) -> list[Episode]:
    """The run's own copy of its demonstrations."""
    return load_demonstrations(config_path_of(run).parent / DEMONSTRATIONS)


def _identity(episode: Episode) -> tuple[bytes, bytes]:
    return episode.observation.tobytes(), episode.action.tobytes()
