"""From demonstrations to a policy in Python: train, print metrics, evaluate, resume with a longer stage, and deploy.

    python examples/train_tape_cut.py                                          # about a minute, learns little
    python examples/train_tape_cut.py --demonstrations 200 --updates 6000 --steps 100000

Every setting of `softflow-train --help` is an argument of `softflow.train`, and the run folders are the same.
"""

from __future__ import annotations

import tyro

import softflow
from softflow.envs import make_env


def main(demonstrations: int = 30, updates: int = 400, steps: int = 3_000, episodes: int = 10, seed: int = 0) -> None:
    """Imitate demonstrations, learn online, evaluate on held-out episodes, and resume for 1,000 further steps.

    Args:
        demonstrations: Number of demonstrations.
        updates: Number of imitation updates.
        steps: Number of environment steps to learn online.
        episodes: Number of held-out episodes.
        seed: Seed of everything random.
    """
    run = softflow.train(
        "softflow",
        env="tape_cut",
        seed=seed,
        num_demos=demonstrations,
        num_envs=10,
        eval_episodes=episodes,
        imitation={"updates": updates},
        warmup={"updates": updates // 8},
        offline={"updates": updates // 8},
        online={"steps": steps},
    )
    for stage, step, success in run.metrics()["eval/success_rate"]:
        print(f"{stage:<14} {step:>7,} success {success:.2f}")

    result, held_out = run.evaluate_episodes(episodes)
    print(f"success {result.success_rate:.2f}, longest episode {max(map(len, held_out))} steps")

    run.resume(online={"steps": steps + 1_000})  # equivalent to a run of this length from the start

    policy = softflow.load(run.path)
    observation, _ = make_env("tape_cut").reset(seed=seed)
    print(f"{run.path}: first actions\n{policy.act(observation)}")


if __name__ == "__main__":
    tyro.cli(main)
