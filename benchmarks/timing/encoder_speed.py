"""Measure what pictures cost: updates from cached features, encoders, and bytes of a replay, as Markdown tables.

    python -m benchmarks.timing.encoder_speed                       all tables
    python -m benchmarks.timing.encoder_speed update --rounds 60

Times are CPU time of this process on one thread. Observations are those of `tape_cut` from pixels: two pictures of
64 x 64 and 55 numbers. Networks and data are random, which changes no time.

* `update`: SOFT-FLOW's online update from what an encoder with a frozen network returned, from features of the frozen
  network, as with `copies`, from pictures that a small network learns to see, and from numbers, as many as the state
  has. A ratio is the median over rounds that time each case once; its quartiles are given, too.
* `encode`: pictures per second of each encoder, in batches of 16.
* `bytes`: a replay of 100,000 steps, with pictures and with features.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing.interleaved import Call, interleaved, ratio
from softflow.algos import Data, SoftFlow, SoftFlowConfig
from softflow.data import Episode, Replay
from softflow.data.replay_rows import row_dtype
from softflow.policies.pixel_encoder import PixelEncoder
from softflow.task.layout import ObservationLayout, Part
from softflow.training.frames import EncodedFrames

LAYOUT = ObservationLayout(
    (*(Part(name, (64, 64, 3), "uint8") for name in ("front", "wrist")), Part("numbers", (55,), "float32"))
)
STATE, ACTIONS, STEPS = 153, 15, 100
FROZEN = {
    "resnet18": {"size": 224},
    "tf_efficientnet_lite0": {"size": 224},
    "tf_efficientnet_lite0, size 128": {"size": 128},
    "vit_small_patch14_dinov2, size 224": {"size": 224},
    "vit_small_patch14_dinov2, size 126": {"size": 126},
}


def row(*cells: object) -> None:
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def header(*cells: str) -> None:
    print()
    row(*cells)
    row(*("---" for _ in cells))


def encoder_of(name: str) -> PixelEncoder:
    return PixelEncoder(LAYOUT, name.partition(",")[0], weights="", **FROZEN[name])


def updates(rounds: int) -> None:
    frozen = dict(encoder="tf_efficientnet_lite0", size=128)
    cases = {"state": {}, "read": frozen | {"read": True}, "features": frozen, "pictures": dict(encoder="conv")}
    calls = {name: update_of(**case) for name, case in cases.items()}
    times = interleaved(calls, rounds)
    header("an update of 256 windows from", "ms", "times the state's", "quartiles")
    for name in cases:
        ratios = [one / state for one, state in zip(times[name], times["state"], strict=True)]
        low, _, high = statistics.quantiles(ratios)
        relative = f"{ratio(times[name], times['state']):.2f}", f"{low:.2f} to {high:.2f}"
        row(name, f"{statistics.median(times[name]):.1f}", *relative)


def update_of(encoder: str | None = None, size: int = 0, read: bool = False) -> Call:
    """Return an online update, of the state if no encoder is given.

    Args:
        encoder: The encoder.
        size: The side to which a frozen one resizes images. 0 for one that learns.
        read: Whether the replays hold what a frozen one returns, and not features of its network.
    """
    torch.manual_seed(0)
    config = SoftFlowConfig(encoder=encoder, encoder_options={"weights": "", "size": size} if size else {})
    algorithm = SoftFlow(config, STATE if encoder is None else LAYOUT, ACTIONS)
    numbers = STATE if encoder is None else LAYOUT.number_count
    algorithm.fit_normalizer(torch.zeros(numbers), torch.ones(numbers))
    rng = np.random.default_rng(0)
    sizes, rows = (STATE, ACTIONS, np.float32), np.asarray
    if size:
        vision = algorithm.policy.encoder
        assert vision is not None
        stored = EncodedFrames(vision, "cpu", Path()).read if read else EncodedFrames(vision, "cpu", Path()).features
        sizes, rows = (stored.size, ACTIONS, stored.dtype), stored.of_own
    elif encoder is not None:
        sizes = LAYOUT.size, ACTIONS, np.uint8
    replays = [Replay(10 * (STEPS + 1), *sizes, horizon=config.horizon, observation_rows=rows) for _ in range(2)]
    episode = demonstration(rng, seen=encoder is not None)
    algorithm.fit_actions([episode])
    for replay in replays:
        replay.add_episode(episode)
    data = Data(*replays, rng)
    stage = next(stage for stage in algorithm.stages() if stage.name == "online")
    stage.begin()
    return partial(stage.update, data, 0.5)


def demonstration(rng: np.random.Generator, seen: bool) -> Episode:
    observation = rng.normal(size=(STEPS + 1, STATE)).astype(np.float32)
    if seen:
        parts = [
            rng.integers(0, 256, (STEPS + 1, 2 * 64 * 64 * 3), np.uint8),
            observation[:, :55].copy().view(np.uint8),
        ]
        observation = np.concatenate(parts, 1)
    reward = np.zeros(STEPS, np.float32)
    reward[-1] = 1
    action = rng.uniform(-0.9, 0.9, (STEPS, ACTIONS)).astype(np.float32)
    return Episode(observation, action, reward, True, False, True, layout=LAYOUT if seen else None)


def encoders(rounds: int) -> None:
    header("encoder", "pictures a second", "numbers of a picture", "bytes of a picture")
    image = torch.randint(0, 256, (8, LAYOUT.size), dtype=torch.uint8)
    image[:, LAYOUT.slices["numbers"]] = 0
    for name in FROZEN:
        encoder = encoder_of(name)
        encoder.encode(image)
        start = time.process_time()
        for _ in range(max(1, rounds // 10)):
            encoder.encode(image)
        taken = (time.process_time() - start) / max(1, rounds // 10)
        size = (encoder.encoded.size(1) - 2 * LAYOUT.number_count) // 2
        row(name, f"{16 / taken:.1f}", size, 2 * size)


def sizes(rounds: int) -> None:
    header("a replay of 100,000 steps holds", "GB")
    row("pictures", f"{1e5 * row_dtype(LAYOUT.size, ACTIONS, np.uint8).itemsize / 1e9:.2f}")
    for name in FROZEN:
        encoder = encoder_of(name)
        encoded = row_dtype(encoder.encoded.size(1), ACTIONS, np.int16)
        row(f"features of {name}", f"{1e5 * encoded.itemsize / 1e9:.2f}")
    row("what an encoder returns", f"{1e5 * row_dtype(encoder.read_size, ACTIONS, np.int32).itemsize / 1e9:.2f}")
    row("the state", f"{1e5 * row_dtype(STATE, ACTIONS).itemsize / 1e9:.2f}")


TABLES = {"update": updates, "encode": encoders, "bytes": sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"tables to print: {', '.join(TABLES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=30, help="updates per case; other counts are proportional")
    arguments = parser.parse_args()
    if unknown := set(arguments.tables) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}: choose from {', '.join(TABLES)}")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, CPU time, {arguments.rounds} rounds")
    for name in arguments.tables or TABLES:
        TABLES[name](arguments.rounds)


if __name__ == "__main__":
    main()
