"""Steer a frozen policy: imitate tape_cut by flow matching, then learn to steer its chunks (RFS).

    python examples/steer_frozen_policy.py                        # a few minutes, learns little
    python examples/steer_frozen_policy.py --full
    python examples/steer_frozen_policy.py --full --base runs/mine --steps 100000

The base can be the run of any flow policy, trained by any method.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import tyro

import softflow


def main(base: Path | None = None, full: bool = False, steps: int | None = None, episodes: int = 100) -> None:
    """Steer a policy, and evaluate it before and after.

    Args:
        base: Run folder of the policy to steer. By default a policy is trained first.
        full: Use the full presets instead of the preset `quick`.
        steps: Number of environment steps of the steering. By default the preset's number.
        episodes: Number of held-out episodes per evaluation.
    """
    folder = Path(f"runs/steer/{datetime.now():%Y-%m-%d_%H-%M-%S}")
    settings: dict[str, Any] = {} if full else {"preset": "quick"}
    settings["eval_episodes"] = min(episodes, 50)
    if base is None:
        solver = {"solver": "euler", "steps": 5}  # as in the preset of RFS
        before = softflow.train(
            "imitation", flow="flow_matching", flow_options=solver, run_dir=folder / "base", **settings
        )
    else:
        before = softflow.Run(base)

    online = {} if steps is None else {"steps": steps}
    after = softflow.train(
        "rfs", base=before, demos=before.demonstrations(), online=online, run_dir=folder / "rfs", **settings
    )

    for name, run in (("before", before), ("after", after)):
        result = run.evaluate(episodes)
        low, high = result.success_ci95
        print(f"{name} steering, {run.path}: success {result.success_rate:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    tyro.cli(main)
