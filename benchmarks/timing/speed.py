"""Measure the speed of updates, chunks and rollouts, and how an update's time scales, as Markdown tables.

    python -m benchmarks.timing.speed                          all tables
    python -m benchmarks.timing.speed update chunk --rounds 100

Times are CPU time of this process on one thread. Every round times each case of a table once, so that load on the
machine affects all cases equally, and a ratio is the median over the rounds. The sizes are those of `tape_cut`:
observations of 153 numbers, chunks of 8 x 15 numbers with 4 executed actions, batches of 256, and the default flow and
critics. Networks are untrained, and data are random.

* `update`: SOFT-FLOW's online update by default, with the likelihood alone, and of the critics alone. Each is compared
  with its floor, the matrix products alone (`matrix_products.py`), and with the update of stable-baselines3's SAC,
  whose critics have the same layers and take the whole chunk. `pip install stable-baselines3` adds that row.
* `products`: the multiply-adds of each part of the default update.
* `chunk`: from one observation to its chunk, both in numpy, against zuko's coupling of the same size, and exported.
* `rollout`: policy and environment, against the environment alone with the same actions.
* `growth`: an update's time against each size, with the exponent of the growth from the previous size.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from benchmarks.timing.interleaved import Call, interleaved, ratio
from benchmarks.timing.matrix_products import Floor, native, update_parts, update_products
from flows.export import FORMATS, load_exported
from flows.zuko_backend import zuko
from softflow.algos import Data, SoftFlow, SoftFlowConfig, Stage
from softflow.data import Episode, Replay, observation_tensor
from softflow.envs import make_env
from softflow.policies import BestOfN
from softflow.policies.native_export import export_greedy
from softflow.training.rollout import Rollout
from softflow.training.vector import closing, vectorize

OBSERVATION_DIM, ACTION_DIM, HORIZON, EXECUTE, CRITIC_WIDTH = 153, 15, 8, 4, 256
STEPS = 200  # length of an episode
UPDATES = {
    "by default": {},
    "with the likelihood alone": dict(q_weight=0.0, kl_weight=0.0),
    "of the critics alone": dict(q_weight=0.0, kl_weight=0.0, nll_weight=0.0),
}
"""The online updates that are measured, and what they change of the default."""
ACTING = 4
"""Number of chunks among which the critic chooses, where it does."""


def row(*cells: object) -> None:
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def header(*cells: str) -> None:
    print()
    row(*cells)
    row(*["---"] * len(cells))


# --------------------------------------------------------------------------------------------------------------- update


def make_episode(action_dim: int = ACTION_DIM) -> Episode:
    """Make a successful episode of random numbers."""
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(STEPS + 1, OBSERVATION_DIM)).astype(np.float32)
    action = rng.uniform(-1, 1, (STEPS, action_dim)).astype(np.float32)
    return Episode(observation, action, np.eye(STEPS, dtype=np.float32)[-1], True, False, True)


def make_data(action_dim: int = ACTION_DIM, rows: int = 20 * (STEPS + 1)) -> Data:
    """Make copies of a successful episode: `rows` rows of demonstrations and as many rows of own episodes."""
    episode = make_episode(action_dim)
    replays = [Replay(rows, OBSERVATION_DIM, action_dim) for _ in range(2)]
    for replay in replays:
        for _ in range(rows // (STEPS + 1)):
            replay.add_episode(episode)
    return Data(*replays, np.random.default_rng(0))


def make_algorithm(
    online: Mapping[str, Any] | None = None, action_dim: int = ACTION_DIM, **settings: Any
) -> tuple[SoftFlow, Stage]:
    """Make SOFT-FLOW at the start of its online stage; `online` and `settings` override the preset."""
    torch.manual_seed(0)
    config = SoftFlowConfig(**settings)
    for name, value in (online or {}).items():
        setattr(config.online, name, value)
    algorithm = SoftFlow(config, OBSERVATION_DIM, action_dim)
    algorithm.fit_normalizer(torch.zeros(OBSERVATION_DIM), torch.ones(OBSERVATION_DIM))
    algorithm.fit_actions([make_episode(action_dim)])
    stage = algorithm.stages()[-1]
    stage.begin()
    algorithm.deployed.candidates = ACTING
    return algorithm, stage


def make_update(data: Data, action_dim: int = ACTION_DIM, **settings: Any) -> Call:
    _, stage = make_algorithm(action_dim=action_dim, **settings)
    return partial(stage.update, data, 0.5)


class Blank(gym.Env[np.ndarray, np.ndarray]):
    """Environment that only defines the spaces, for SAC."""

    observation_space = gym.spaces.Box(-1, 1, (OBSERVATION_DIM,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (HORIZON * ACTION_DIM,), np.float32)


def sac_update(batch: int) -> Call:
    """Return an update of stable-baselines3's SAC.

    Raises:
        ImportError: stable-baselines3 is not installed.
    """
    from stable_baselines3 import SAC
    from stable_baselines3.common.logger import Logger

    learner = SAC("MlpPolicy", Blank(), buffer_size=2000, policy_kwargs=dict(net_arch=[CRITIC_WIDTH] * 2), device="cpu")
    learner.set_logger(Logger(None, []))
    draw = partial(np.random.default_rng(0).normal, scale=0.3)
    for _ in range(1000):
        seen, seen_next, action = draw(size=OBSERVATION_DIM), draw(size=OBSERVATION_DIM), draw(size=(1, 120))
        learner.replay_buffer.add(seen, seen_next, action.clip(-1, 1), np.zeros(1), np.zeros(1), [{}])
    return partial(learner.train, gradient_steps=1, batch_size=batch)


def updates(rounds: int) -> None:
    data, cases, floors = make_data(), dict[str, Call](), dict[str, str]()
    for name, online in UPDATES.items():
        algorithm, stage = make_algorithm(online)
        needed = update_products(algorithm, algorithm.config.online)
        cases[name] = partial(stage.update, data, 0.5)
        floors[name] = f"{len(needed)} products, {sum(p.multiply_adds for p in needed) / 1e9:.2f} G multiply-adds"
        cases[floors[name]] = Floor(needed)
    try:
        cases["SAC"] = sac_update(algorithm.config.batch_size)
    except ImportError as error:
        print(f"no row of stable-baselines3: {error}; pip install stable-baselines3")
    times = interleaved(cases, rounds)
    header("online update", "ms", "its floor", "ms", "update / floor", "updates for one of SAC's")
    for name, floor in floors.items():
        peers = f"{ratio(times['SAC'], times[name]):.2f}" if "SAC" in cases else "-"
        milliseconds = (f"{statistics.median(times[case]):.1f}" for case in (name, floor))
        row(name, next(milliseconds), floor, next(milliseconds), f"{ratio(times[name], times[floor]):.2f}", peers)
    if "SAC" in cases:
        row("SAC of stable-baselines3", f"{statistics.median(times['SAC']):.1f}", "", "", "", 1)


def products(rounds: int) -> None:
    algorithm, _ = make_algorithm()
    parts = {
        name: sum(product.multiply_adds for product in part)
        for name, part in update_parts(algorithm, algorithm.config.online).items()
    }
    header("part of an online update", "millions", "fraction")
    for name, number in parts.items():
        row(name, f"{number / 1e6:,.0f}", f"{number / sum(parts.values()):.0%}")
    row("the update", f"{sum(parts.values()) / 1e6:,.0f}", "")


# ---------------------------------------------------------------------------------------------------------------- chunk


class ZukoPolicy(nn.Module):
    """zuko's affine coupling with the same number of layers of the same width, without our wrapper."""

    def __init__(self, algorithm: SoftFlow) -> None:
        super().__init__()
        self.normalizer, flow = algorithm.policy.normalizer, native(algorithm.policy.flow)
        widths = [flow.width, flow.width]
        size = HORIZON * ACTION_DIM
        self.flow = zuko.flows.NICE(
            size, OBSERVATION_DIM, transforms=flow.layers, hidden_features=widths, activation=nn.SiLU
        )

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.flow(self.normalizer(observation)).sample().clamp(-1, 1).unflatten(-1, (HORIZON, ACTION_DIM))


def chunks(rounds: int) -> None:
    algorithm, _ = make_algorithm()
    policy, critic = algorithm.policy, algorithm.critic
    several = algorithm.deployed
    one = BestOfN(policy, None, EXECUTE, 1, several.temperature)
    observation = np.random.default_rng(0).normal(size=(1, OBSERVATION_DIM)).astype(np.float32)
    cases: dict[str, Call] = {}

    def add(name: str, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        cases[name] = torch.inference_mode()(lambda: act(observation_tensor(observation)).numpy())

    add("zuko, a sample", ZukoPolicy(algorithm))
    add("a sample", one.act)
    add(f"the best of {several.candidates} by {critic.members} critics", several.act)
    add("greedy", policy.greedy)
    with tempfile.TemporaryDirectory() as folder:
        for format in FORMATS:
            export_greedy(one, Path(folder) / "policy", format)
            add(f"greedy, {format}", load_exported(Path(folder) / "policy", format, trusted=True))
    times = interleaved(cases, 20 * rounds, warm_up=20)
    header("chunk", "median ms", "p99 ms", "to zuko's sample", "to eager greedy")
    for name, taken in times.items():
        median, high = np.percentile(taken, (50, 99))
        to_greedy = f"{ratio(taken, times['greedy']):.2f}" if name.startswith("greedy") else ""
        row(name, f"{median:.3f}", f"{high:.3f}", f"{ratio(taken, times['zuko, a sample']):.2f}", to_greedy)


# -------------------------------------------------------------------------------------------------------------- rollout


def rollouts(rounds: int) -> None:
    algorithm, _ = make_algorithm()
    header("rollout", "environments", "policy and environment, us per step", "ratio to the environment alone")
    for number in (1, 10, 25):
        for candidates in (1, ACTING):
            algorithm.deployed.candidates = candidates
            both, alone = rollout(algorithm.deployed, number, math.ceil(20 * rounds / number))
            row(f"best of {candidates}", number, f"{1e6 * both:.0f}", f"{both / alone:.2f}")


def rollout(policy: BestOfN, number: int, turns: int) -> tuple[float, float]:
    """Return the CPU seconds per step with the policy, and without it for the same chunks, interleaved."""
    chunk = np.empty(0)

    def act(observation: np.ndarray, arms: np.ndarray) -> np.ndarray:
        nonlocal chunk
        chunk = policy.act(observation_tensor(observation)).numpy()
        return chunk

    make = [partial(make_env, "tape_cut", reward="sparse")] * number
    with closing(vectorize(make, EXECUTE)) as driven, closing(vectorize(make, EXECUTE)) as given:
        cases = {"both": (Rollout(driven, count()), act), "alone": (Rollout(given, count()), lambda *_: chunk)}
        seconds, steps = dict.fromkeys(cases, 0.0), 0
        for i in range(1 + turns):
            for name, (environments, choose) in cases.items():
                start = time.process_time()
                _, made = environments.execute_chunks(choose)
                if i:  # not the first turn, which loads and resets
                    seconds[name] += time.process_time() - start
                    steps += made if name == "both" else 0
    return seconds["both"] / steps, seconds["alone"] / steps


# --------------------------------------------------------------------------------------------------------------- growth


def growth(rounds: int, plot: Path | None = None) -> None:
    short, data = max(3, rounds // 6), make_data()
    sweeps: dict[str, dict[int, Callable[[], Call]]] = {
        "numbers in a chunk, D = 4 A": {
            4 * a: lambda a=a: make_update(make_data(a), a, horizon=4, n_action_steps=4) for a in (5, 10, 25, 50, 100)
        },
        "horizon H, all executed": {
            h: partial(make_update, data, horizon=h, n_action_steps=h) for h in (2, 4, 8, 16, 32)
        },
        "batch": {batch: partial(make_update, data, batch_size=batch) for batch in (32, 64, 128, 256, 512, 1024)},
        "critics": {members: partial(make_update, data, critic_members=members) for members in (1, 2, 5, 10)},
        "candidates in the target": {n: partial(make_update, data, target_candidates=n) for n in (1, 4, 16, 64)},
        "rows of each replay": {10**n: lambda n=n: make_update(make_data(rows=10**n)) for n in (4, 5, 6)},
    }
    header("size", "", "ms per update", "exponent")
    curves: dict[str, list[float]] = {}
    for name, sweep in sweeps.items():
        times = interleaved({str(size): make() for size, make in sweep.items()}, short, warm_up=2)
        curves[name] = [statistics.median(taken) for taken in times.values()]
        previous: tuple[int, list[float]] | None = None
        for size, taken in zip(sweep, times.values(), strict=True):
            exponent = ""
            if previous is not None:
                exponent = f"{math.log(ratio(taken, previous[1])) / math.log(size / previous[0]):.2f}"
            row("" if previous else name, f"{size:,}", f"{statistics.median(taken):.1f}", exponent)
            previous = size, taken
    if plot is not None:
        draw({name: (list(sweep), curves[name]) for name, sweep in sweeps.items()}, plot)


def draw(curves: Mapping[str, tuple[list[int], list[float]]], path: Path) -> None:
    """Plot the time of an update against the size, both relative to the smallest size."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, (sizes, times) in curves.items():
        axes.loglog([size / sizes[0] for size in sizes], [time / times[0] for time in times], "o-", label=name)
    axes.loglog([1, 32], [1, 32], "k:", label="linear")
    axes.set(xlabel="size / its smallest", ylabel="time of an update / at the smallest", ylim=(0.8, 32))
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


TABLES = "update", "products", "chunk", "rollout", "growth"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"tables to print: {', '.join(TABLES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=30, help="updates per case; other counts are proportional")
    parser.add_argument("--plot", type=Path, help="image file for a plot of `growth` (needs softflow[plot])")
    arguments = parser.parse_args()
    if unknown := set(arguments.tables) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}: choose from {', '.join(TABLES)}")
    torch.set_num_threads(1)
    # Freeing a large block makes glibc keep freed memory, as in a training run, where page faults are rare.
    torch.empty(31 << 20, dtype=torch.uint8)
    print(f"torch {torch.__version__}, one thread, CPU time, {arguments.rounds} rounds")
    for name in arguments.tables or TABLES:
        if name == "growth":
            growth(arguments.rounds, arguments.plot)
        else:
            {"update": updates, "products": products, "chunk": chunks, "rollout": rollouts}[name](arguments.rounds)


if __name__ == "__main__":
    main()
