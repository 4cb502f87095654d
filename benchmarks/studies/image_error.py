"""How precisely an image encoder can locate what decides the cut on tape_cut, in millimetres.

    MUJOCO_GL=egl python -m benchmarks.studies.image_error runs/image_error
    MUJOCO_GL=egl python -m benchmarks.studies.image_error runs/image_error --encoder tf_efficientnet_lite0 \\
        --options weights=$WEIGHTS size=128 --image-size 128

The encoder and a small network behind it learn to predict two displacements from the images and the proprioception:
from the hand to the handles before the grasp, and from the scissors' pivot to the ribbon while they are lifted. The
policy needs both within a centimetre. Frames are every third step of demonstrations, and the last fifth of the episodes
is held out. Prints the median and the 90th percentile of the error on these, and the median on frames that were learnt.

This takes minutes, where the training of a policy takes an hour. FOLDER keeps the frames of each image size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from softflow.envs import make_env
from softflow.envs.packing import find_layout
from softflow.envs.tape_cut.demonstrator import TapeCutDemonstrator
from softflow.envs.tape_cut.env import TapeCutEnv
from softflow.envs.tape_cut.observation import FINE_BLOCKS, OBSERVATION_SLICES
from softflow.policies.pixel_encoder import PixelEncoder
from softflow.task.layout import ObservationLayout

EVERY = 3
"""Steps of a demonstration from one frame to the next."""
SEED = 5_000
NEAR = {"grip": 0.15, "ribbon": 0.2}
"""Largest displacements that count, in m."""
BLOCKS = {"grip": "grip_offset_coarse", "ribbon": "seam_offset_coarse"}
BATCH = 128


class Frames(NamedTuple):
    """Frames in which at least one displacement counts.

    Attributes:
        observation: Packed observations, uint8 (N, O).
        target: Both displacements in m, (N, 6).
        counts: Whether each displacement counts, (N, 2).
        held_out: Whether the frame is held out, (N,).
    """

    observation: Tensor
    target: Tensor
    counts: Tensor
    held_out: Tensor


def record(episodes: int, image_size: int) -> dict[str, np.ndarray]:
    """Return packed images, states and the number of the episode for frames of demonstrations."""
    env, seen = make_env("tape_cut"), make_env("tape_cut", observation="pixels", image_size=image_size)
    scene, camera, layout = env.unwrapped, seen.unwrapped, find_layout(seen)
    assert isinstance(scene, TapeCutEnv) and isinstance(camera, TapeCutEnv) and layout is not None
    seen.reset(seed=SEED)
    frames: dict[str, list[Any]] = {"observation": [], "state": [], "episode": []}
    for episode in range(episodes):
        state, _ = env.reset(seed=SEED + episode)
        demonstrator = TapeCutDemonstrator(env, np.random.default_rng(episode))
        for step in range(1_000):
            if step % EVERY == episode % EVERY:
                observed = camera.set_state(scene.get_state())
                assert isinstance(observed, dict)
                frames["observation"].append(layout.pack(observed))
                frames["state"].append(state)
                frames["episode"].append(episode)
            state, _, terminated, truncated, _ = env.step(demonstrator.act())
            if terminated or truncated:
                break
    return {name: np.stack(values) for name, values in frames.items()}


def select(recorded: Mapping[str, np.ndarray]) -> Frames:
    """Return the frames in which a displacement counts, and their displacements."""
    state = {name: recorded["state"][:, part] for name, part in OBSERVATION_SLICES.items()}
    scales = {name: scale for name, _, scale in FINE_BLOCKS}
    moved = {
        name: scales[block] * np.arctanh(state[block].astype(float).clip(-0.99999, 0.99999))
        for name, block in BLOCKS.items()
    }
    phase = {"grip": state["grasped"][:, 0] == 0, "ribbon": state["lifted"][:, 0] > 0}
    counts = np.stack([phase[name] & (np.linalg.norm(moved[name], axis=1) < NEAR[name]) for name in BLOCKS], 1)
    used = counts.any(1)
    held_out = recorded["episode"] >= 0.8 * (recorded["episode"].max() + 1)
    target = np.concatenate([moved[name] for name in BLOCKS], 1)
    return Frames(
        torch.from_numpy(recorded["observation"][used]),
        torch.from_numpy(target[used]).float(),
        torch.from_numpy(counts[used]),
        torch.from_numpy(held_out[used]),
    )


class Locator(nn.Module):
    """Predicts both displacements from packed observations: (B, O) -> (B, 6)."""

    def __init__(self, encoder: PixelEncoder, frames: Frames) -> None:
        super().__init__()
        self.encoder = encoder
        numbers = encoder.numbers(frames.observation)
        learnt = ~frames.held_out
        self.mean, self.std = numbers[learnt].mean(0), numbers[learnt].std(0) + 1e-3
        self.center, self.scale = frames.target[learnt].mean(0), frames.target[learnt].std(0)
        self.network = nn.Sequential(
            nn.Linear(encoder.feature_count + numbers.shape[1], 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(),
            nn.Linear(256, 6),
        )  # fmt: skip

    def forward(self, observation: Tensor) -> Tensor:
        numbers = (self.encoder.numbers(observation) - self.mean) / self.std
        return self.network(torch.cat([self.encoder(observation), numbers], -1)) * self.scale + self.center


def fit(locator: Locator, observation: Tensor, frames: Frames, updates: int) -> None:
    """Train by the squared error of the displacements that count."""
    optimizer = torch.optim.AdamW(locator.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    learnt, weight = torch.nonzero(~frames.held_out)[:, 0], frames.counts.repeat_interleave(3, 1)
    locator.train()
    for _ in range(updates):
        batch = learnt[torch.randint(len(learnt), (BATCH,))]
        error = (locator(observation[batch]) - frames.target[batch]) / locator.scale
        optimizer.zero_grad()
        (error.square() * weight[batch]).sum().div(weight[batch].sum()).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def errors(locator: Locator, observation: Tensor, frames: Frames) -> Tensor:
    """Return the lengths of the errors of both displacements in mm, (N, 2), NaN where they do not count."""
    locator.eval()
    predicted = torch.cat([locator(batch) for batch in observation.split(BATCH)])
    error = 1_000 * (predicted - frames.target).unflatten(1, (2, 3)).norm(dim=-1)
    return error.where(frames.counts, torch.nan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the frames")
    parser.add_argument("--encoder", default="conv", help="name of the encoder")
    parser.add_argument("--options", nargs="*", default=[], metavar="NAME=VALUE", help="options of the encoder")
    parser.add_argument("--image-size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--episodes", type=int, default=240, help="number of demonstrations")
    parser.add_argument("--updates", type=int, default=2_000, help="number of updates")
    parser.add_argument("--seed", type=int, default=0, help="seed of the networks and batches")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    file = arguments.folder / f"frames_{arguments.image_size}_{arguments.episodes}.npz"
    if not file.exists():
        arguments.folder.mkdir(parents=True, exist_ok=True)
        recorded = record(arguments.episodes, arguments.image_size)
        np.savez(file, allow_pickle=False, **recorded)
    frames = select(np.load(file))
    layout = find_layout(make_env("tape_cut", observation="pixels", image_size=arguments.image_size))
    assert isinstance(layout, ObservationLayout)
    options = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in arguments.options)}
    encoder = PixelEncoder(layout, arguments.encoder, **options)
    encoder.fit(frames.observation[~frames.held_out])
    locator, observation, began = Locator(encoder, frames), frames.observation, time.process_time()
    if encoder.is_frozen:
        observation = encoder.encode(observation, with_copies=True)
    fit(locator, observation, frames, arguments.updates)
    seconds = time.process_time() - began
    error = errors(locator, observation, frames)
    cells = [" ".join([arguments.encoder, *(text for text in arguments.options if not text.startswith("weights="))])]
    cells += [str(arguments.image_size)]
    for column, name in enumerate(BLOCKS):
        seen, new = (error[which, column] for which in (~frames.held_out, frames.held_out))
        cells.append(f"{name} {new.nanmedian():.1f}, {new.nanquantile(0.9):.1f} ({seen.nanmedian():.1f})")
    print("|", " | ".join([*cells, f"{seconds:.0f} s"]), "|")


if __name__ == "__main__":
    main()
