"""Train on tape_cut from Python: the loop of `softflow-train`, put together by hand.

python examples/train_tape_cut.py                                          # about a minute, learns little
python examples/train_tape_cut.py --demonstrations 200 --updates 6000 --steps 100000
"""

from __future__ import annotations

from functools import partial

import torch
import tyro

from softflow.algos import SoftFlow, SoftFlowConfig
from softflow.data import observation_statistics
from softflow.envs import make_env
from softflow.runs.record_demonstrations import record_demonstrations
from softflow.training.checkpoint import load_policy
from softflow.training.config import RunConfig
from softflow.training.loop import Trainer
from softflow.training.run_folder import RunFolder
from softflow.training.vector import vectorize


def train(demonstrations: int = 30, updates: int = 400, steps: int = 3_000, episodes: int = 10, seed: int = 0) -> None:
    """Imitate `demonstrations` in `updates` updates, then learn online for `steps` steps."""
    run = RunConfig(seed=seed, num_envs=10, eval_episodes=episodes)
    make = partial(make_env, "tape_cut", reward="staged")
    demonstrated = record_demonstrations(make, demonstrations, seed)

    config = SoftFlowConfig(flow="coupling", flow_options={"components": 4})
    config.imitation.updates, config.online.steps = updates, steps
    config.warmup.updates = config.offline.updates = updates // 8

    torch.manual_seed(seed)
    algorithm = SoftFlow(config, demonstrated[0].observation_dim, demonstrated[0].action_dim)
    mean, std = observation_statistics(demonstrated)
    algorithm.fit_normalizer(torch.as_tensor(mean), torch.as_tensor(std))

    environments, held_out = (vectorize([make] * run.num_envs, algorithm.n_action_steps) for _ in range(2))
    with RunFolder.create("runs", "tape_cut", "softflow", seed) as folder:
        Trainer(algorithm, demonstrated, environments, held_out, folder, run).run()

    policy = load_policy(folder.last_checkpoint())
    observation, _ = make().reset(seed=seed)
    print(f"{folder.last_checkpoint()}: first actions\n{policy.act(torch.as_tensor(observation)[None])[0]}")


if __name__ == "__main__":
    tyro.cli(train)
