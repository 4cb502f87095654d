"""`softflow-guard`: calibrate a guard from an imitated policy and held-out demonstrations."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from flows import NormalizedFlow
from softflow.cli.command_line import parse_command_line, run_main
from softflow.errors import UserError
from softflow.files import written_whole
from softflow.policies import ChunkGuard
from softflow.runs.assembly import require_new_file
from softflow.runs.calibrate_guard import make_guard

DESCRIPTION = """\
Calibrate a guard, which flags chunks whose log-likelihood under an imitated policy is below a threshold. It can guard
any policy with the same environment and horizon, as in softflow-eval RUN --guard FOLDER."""


@dataclass
class GuardConfig:
    """Settings of `softflow-guard`."""

    run: Positional[str]
    """Run folder of the imitated policy, or the folder of one of its checkpoints."""
    demos: str
    """Demonstrations that the run was not trained on: a file or folder of a known format. They are judged and
    rewarded as those of the run, and the steps that its rule `imitate` finds worth imitating are used."""
    out: str
    """Folder to write. It must not exist."""
    quantile: float = 0.05
    """Fraction of demonstrated chunks, and of their observations, that may be flagged. Higher values flag more."""
    rate_factor: float | None = None
    """Limit on the change of each action per step, as a multiple of the largest demonstrated change. By default there
    is no limit."""


@run_main
def main(argv: Sequence[str]) -> None:
    config = parse_command_line(GuardConfig, argv, prog="softflow-guard", description=DESCRIPTION)
    out = Path(config.out)
    require_new_file(out, "--out", make_folder=True)
    if config.rate_factor is not None and not config.rate_factor > 0:
        raise UserError(f"--rate-factor must be above 0, got {config.rate_factor:g}")
    made = make_guard(config.run, config.demos, config.quantile, config.rate_factor)
    with written_whole(out) as folder:
        made.guard.save(folder)
    print(
        f"{out}: flags chunks whose log-density is below {made.guard.threshold:.1f} nats "
        f"({_per_dimension(made.guard)}), the {config.quantile:g} quantile of {made.chunks:,} held-out chunks\n"
        f"of these chunks, it flags {made.flags_misplaced:.2f} if they are proposed for the observation of another one"
    )
    if config.rate_factor is not None:
        print(f"in one step, an action changes by at most {_largest_changes(made.guard)}")
    if made.flags_misplaced < 0.5:
        warnings.warn(
            "the guard flags few chunks that are demonstrated elsewhere, so it will miss most wrong actions: imitate "
            "more demonstrations, which make the density of new ones higher",
            stacklevel=1,
        )


def _per_dimension(guard: ChunkGuard) -> str:
    """Return the threshold per dimension, in normalised units if the policy normalises actions, and say which units."""
    flow = guard.density.flow
    numbers = flow.horizon * flow.action_dim
    if isinstance(flow, NormalizedFlow):
        normalized = flow.in_normalized_units(guard.threshold) / numbers
        return f"native units; in normalised units {normalized:.2f} nats per dimension"
    return f"{guard.threshold / numbers:.2f} nats per dimension"


def _largest_changes(guard: ChunkGuard) -> str:
    """Return the limits on the change of each action per step, in native units if the task is known."""
    rate, task = guard.limits.rate.numpy(), guard.task
    if task is None:
        return f"{_listed(rate)}, where the bounds of each number are -1 and 1"
    native = 2 * (task.native_actions(rate / 2) - task.native_actions(np.zeros_like(rate)))  # a rate may exceed 1
    parts = np.split(native, np.cumsum([part.size for part in task.action])[:-1])
    named = (f"{part.name} {_listed(numbers)}" for part, numbers in zip(task.action, parts, strict=True))
    return f"{'; '.join(named)}, in native units"


def _listed(numbers: np.ndarray) -> str:
    return ", ".join(f"{number:.3g}" for number in numbers)


if __name__ == "__main__":
    sys.exit(main())
