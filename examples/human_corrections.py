"""Correct a policy from fifty takeovers, without further environment steps: by a residual, and by exact latents.

    python examples/human_corrections.py            # about five minutes
    python examples/human_corrections.py --quick    # half a minute, and learns little

A normalizing flow imitates demonstrations of tape_cut. When the policy fails, the scripted demonstrator takes over, as
a human operator would. The frozen policy is then corrected from these takeovers in two ways. With --careful the
takeovers have none of the noise and errors of the demonstrations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

import softflow
from softflow.data import save_demonstrations


def compare(
    runs: Path = Path("runs/human_corrections"),
    episodes: int = 50,
    seed: int = 0,
    careful: bool = False,
    quick: bool = False,
) -> None:
    """Imitate, record corrections, learn from them, and evaluate on held-out episodes.

    Args:
        runs: Folder for the runs and the corrections.
        episodes: Number of episodes with a takeover to record.
        seed: Seed of everything random.
        careful: Record takeovers without noise and errors.
        quick: Use the smallest budgets.
    """
    size: dict[str, Any] = {"num_demos": 100, "eval_episodes": 100, "seed": seed}
    imitation, correction = {}, {}
    if quick:
        size |= {"num_demos": 8, "eval_episodes": 4}
        imitation = correction = {"updates": 20}
    base = softflow.train("imitation", run_dir=runs / "base", imitation=imitation, **size)

    steady = {"sloppiness": 0, "noise": 0} if careful else {}
    takeovers = base.record_corrections(episodes, seed=seed, demonstrator_options=steady)
    save_demonstrations(runs / "corrections.npz", *takeovers)

    trained = {"base": base}
    for algo in ("correction", "latent_correction"):
        trained[algo] = softflow.train(
            algo,
            base=base,
            corrections=runs / "corrections.npz",
            demos=base.demonstrations(),
            run_dir=runs / algo,
            correction=correction,
            **size,
        )
    for name, run in trained.items():
        success = run.metrics()["eval/success_rate"][-1].value
        print(f"{name:<18} success {success:.2f}")


if __name__ == "__main__":
    tyro.cli(compare)
