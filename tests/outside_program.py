"""A program outside of softflow that uses its public names. `test_packaging.py` checks its types; nothing runs it."""

from __future__ import annotations

import numpy as np
import torch

import softflow
from critics import ChunkCritic
from flows import ChunkFlow, available_flows, make_flow
from softflow.data import Dataset, Episode, read_dataset, save_demonstrations
from softflow.robot import Action, Robot
from softflow.task import ActionPart, ObservationPart, TaskSpec
from softflow.teleop import Device, register_device

TASK = TaskSpec((ObservationPart("joints", (2,)),), (ActionPart("torque", (-1.0,), (1.0,)),), rate=20.0)


class Arm(Robot):
    def reset(self) -> None: ...

    def observe(self) -> dict[str, np.ndarray]:
        return {"joints": np.zeros(2)}

    def command(self, action: Action) -> None:
        print(action["torque"].sum())

    def stop(self) -> None: ...

    def has_ended(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True


@register_device("still")
class Still(Device):
    def act(self) -> np.ndarray:
        return np.zeros(len(self.task.low), np.float32)


def densities() -> torch.Tensor:
    flow: ChunkFlow = make_flow(available_flows()[0], horizon=8, action_dim=1, context_dim=2)
    critic = ChunkCritic(horizon=8, action_dim=1, context_dim=2)
    context = torch.zeros(3, 2)
    chunk, log_prob = flow.rsample_and_log_prob(context)
    values: torch.Tensor = critic(context, chunk)
    return values.mean() + log_prob.mean()


def episodes() -> list[Episode]:
    dataset: Dataset = read_dataset("demonstrations.npz", wanted=TASK)
    save_demonstrations("copy.npz", dataset.episodes, dataset.task)
    return dataset.episodes


def training() -> float:
    run: softflow.Run = softflow.train("softflow", env="tape_cut", seed=3, online={"steps": 50_000})
    policy: softflow.Policy = softflow.load(run.path)
    actions = policy.act({"joints": np.zeros(2)})
    return run.evaluate(episodes=10).success_rate + float(actions[0].sum())
