"""`softflow-guard`: from an imitated policy and held-out demonstrations to what judges chunks on the robot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tyro.conf import Positional

from softflow.cli.command_line import parse_command_line, run_main
from softflow.cli.runs import load_run, locate_checkpoint, make_mirror, require_new_file
from softflow.cli.train import DEMONSTRATIONS
from softflow.data import Episode, check_compatible, load_demonstrations, whole_chunks
from softflow.errors import UserError
from softflow.files import written_whole
from softflow.policies import ChunkGuard

DESCRIPTION = """\
Calibrate a guard: the density of an imitated policy, and the log-likelihood below which a chunk is flagged. Run any
policy of the same environment and horizon behind it: softflow-eval RUN --guard FOLDER."""


@dataclass
class GuardConfig:
    """Settings of `softflow-guard`."""

    run: Positional[str]
    """Run folder of the imitation, or a checkpoint's folder in it."""
    demos: str
    """Demonstrations (.npz) that the run did not learn from; those that fail count up to their last reward."""
    out: str
    """Folder to write; an existing one is refused."""
    quantile: float = 0.05
    """Share of demonstrated chunks, and of their observations, that may be flagged."""
    rate_factor: float | None = None
    """Limit the change of each action per step to this many times the largest demonstrated; no limit without it."""


@run_main
def main(argv: Sequence[str]) -> None:
    config = parse_command_line(GuardConfig, argv, prog="softflow-guard", description=DESCRIPTION)
    out = Path(config.out)
    require_new_file(out, "--out", make_folder=True)
    if config.rate_factor is not None and not config.rate_factor > 0:
        raise UserError(f"--rate-factor must be above 0, got {config.rate_factor:g}")
    guard, chunks = make_guard(config.run, load_demonstrations(config.demos), config.quantile, config.rate_factor)
    with written_whole(out) as folder:
        guard.save(folder)
    numbers = guard.density.horizon * guard.density.action_dim
    print(
        f"{out}: flags chunks below {guard.threshold:.1f} nats ({guard.threshold / numbers:.2f} per dimension), the "
        f"{config.quantile:g} quantile of {chunks:,} held-out chunks"
    )


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
    mirror = make_mirror(config, learned[0].layout)
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
    _, settings = locate_checkpoint(run)
    return load_demonstrations(settings.parent / DEMONSTRATIONS)


def _identity(episode: Episode) -> tuple[bytes, bytes]:
    return episode.observation.tobytes(), episode.action.tobytes()


if __name__ == "__main__":
    sys.exit(main())
