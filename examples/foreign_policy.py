"""A policy that softflow knows nothing of: flow matching in plain torch, imitated here, and then steered by softflow.

    softflow-demo --env tape_cut --episodes 100 --out demos.npz
    python examples/foreign_policy.py --demos demos.npz --out foreign
    PYTHONPATH=examples softflow-train --algo rfs --env tape_cut --demos demos.npz --horizon 8 \
        --base foreign_policy:Trained --base-options.file foreign/policy.pt
    softflow-train --algo residual --env tape_cut --demos demos.npz --horizon 8 --base foreign/policy.onnx

The second command writes the two files that the others steer: weights for the class `Trained` below, and the same
policy as ONNX, which needs `pip install "softflow[onnx]"`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from softflow.data import load_dataset


class FlowMatching(nn.Module):
    """Integrates a velocity from noise to a chunk of actions (Lipman et al. 2023, arXiv 2210.02747).

    Args:
        parts: The names of the parts of an observation.
        size: How many numbers these have.
        noise_shape: The shape (H, N) of a chunk, and of its noise, which softflow steers.
        width: Number of units in each layer.
    """

    STEPS = 5
    """Number of steps of the integration."""

    def __init__(self, parts: list[str], size: int, noise_shape: tuple[int, int], width: int = 256) -> None:
        super().__init__()
        self.parts, self.noise_shape = parts, tuple(noise_shape)
        chunk = noise_shape[0] * noise_shape[1]
        self.velocity = nn.Sequential(
            *(nn.Linear(size + chunk + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()),
            *(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, chunk)),
        )
        for name, numbers in (("mean", size), ("std", size), ("action_mean", chunk), ("action_std", chunk)):
            self.register_buffer(name, torch.ones(numbers))

    def forward(self, observation: dict[str, Tensor], noise: Tensor) -> Tensor:
        """Return chunks in native units, (B, H, N), of observations {part: (B, *shape)} and noise (B, H, N)."""
        seen = (torch.cat([observation[name].float().flatten(1) for name in self.parts], 1) - self.mean) / self.std
        chunk = noise.flatten(1)
        for step in range(self.STEPS):
            time = torch.full_like(chunk[:, :1], step / self.STEPS)
            chunk = chunk + self.velocity(torch.cat([seen, chunk, time], 1)) / self.STEPS
        return (chunk * self.action_std + self.action_mean).reshape(noise.shape)

    def loss(self, seen: Tensor, chunk: Tensor) -> Tensor:
        """Return the loss of flow matching for normalised observations (B, O) and chunks (B, H N)."""
        noise, time = torch.randn_like(chunk), torch.rand(len(chunk), 1)
        between = (1 - time) * noise + time * chunk
        return (self.velocity(torch.cat([seen, between, time], 1)) - (chunk - noise)).square().mean()


class Trained(FlowMatching):
    """The policy in a file that `main` wrote."""

    def __init__(self, file: str) -> None:
        saved = torch.load(file, weights_only=True)
        super().__init__(**saved["sizes"])
        self.load_state_dict(saved["weights"])


def main(demos: Path, out: Path, horizon: int = 8, updates: int = 8_000, width: int = 256, seed: int = 0) -> None:
    """Imitate the successful demonstrations of a file of softflow-demo.

    Args:
        demos: The file.
        out: Folder to write policy.pt and policy.onnx to.
        horizon: Number of actions in a chunk.
        updates: Number of updates, of 256 chunks each.
        width: Number of units in each layer.
        seed: Random seed.
    """
    torch.manual_seed(seed)
    episodes, task = load_dataset(demos)
    assert task is not None
    seen, chunks = [], []
    for episode in episodes:
        if episode.is_success:
            native = torch.from_numpy(task.native_actions(episode.action))
            steps = torch.arange(len(native))[:, None] + torch.arange(horizon)
            chunks.append(native[steps.clamp(max=len(native) - 1)].flatten(1))  # the last action is held
            seen.append(torch.from_numpy(np.array(episode.observation[:-1])))
    observation, chunk = torch.cat(seen), torch.cat(chunks)

    parts = [part.name for part in task.observation]
    sizes = {"parts": parts, "size": observation.shape[1], "noise_shape": [horizon, len(task.low)], "width": width}
    policy = FlowMatching(**sizes)
    for name, data in (("mean", observation), ("action_mean", chunk)):
        policy.get_buffer(name).copy_(data.mean(0))
    for name, data in (("std", observation), ("action_std", chunk)):
        policy.get_buffer(name).copy_(data.std(0).clamp(min=1e-3))
    observation = (observation - policy.mean) / policy.std
    chunk = (chunk - policy.action_mean) / policy.action_std

    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for update in range(updates):
        rows = torch.randint(len(chunk), (256,))
        loss = policy.loss(observation[rows], chunk[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (update + 1) % max(updates // 10, 1) == 0:
            print(f"{update + 1:,} of {updates:,} updates, loss {loss.item():.3f}")

    out.mkdir(parents=True, exist_ok=True)
    torch.save({"sizes": sizes, "weights": policy.state_dict()}, out / "policy.pt")
    shapes = {part.name: torch.zeros(2, *part.shape) for part in task.observation}
    torch.onnx.export(
        policy.eval(),
        (shapes, torch.zeros(2, *policy.noise_shape)),
        out / "policy.onnx",
        input_names=[*parts, "noise"],
        output_names=["chunk"],
        dynamic_shapes=({name: {0: "batch"} for name in parts}, {0: "batch"}),
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    print(f"{out}: policy.pt and policy.onnx")


if __name__ == "__main__":
    tyro.cli(main)
