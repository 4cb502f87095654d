"""`softflow-guard`: from an imitated policy and held-out demonstrations to what judges chunks on the robot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from softflow.cli.command_line import parse_command_line, run_main
from softflow.data import load_demonstrations
from softflow.errors import UserError
from softflow.files import written_whole
from softflow.runs.assembly import require_new_file
from softflow.runs.calibrate_guard import make_guard

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


if __name__ == "__main__":
    sys.exit(main())
