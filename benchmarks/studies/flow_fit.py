"""How well each density fits conditional two-route paths whose true density is known (`route_paths.py`).

    python -m benchmarks.studies.flow_fit [--families spline nflows_nsf ...] [--seeds 0 1 2] [--seconds 30] [--jobs 2]

Every family trains for the same CPU time on one thread, with fresh paths in every batch of 256. The optimizer is Adam
(betas 0.9, 0.99), and the learning rate falls from 3e-3 to zero along a cosine; of the schedules tried, this one suits
the default flow best. Metrics on 1,000 held-out scenes, with ten paths and fifty samples each:

* gap: difference in nats per dimension between the true and the model's mean log-density;
* between: share of samples in the middle half of the line from one route to the other;
* dropped: share of scenes in which one route has less than a tenth of its true probability;
* ms/update, and ms/chunk, a sample for one context: medians of CPU time.

Prints a Markdown table with means over seeds and, after +-, the largest deviation of a seed from the mean.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import AffineCouplingTransform, CompositeTransform
from torch.nn.functional import silu

from benchmarks.studies.route_paths import CONTEXT_DIM, HORIZON, RoutePaths
from flows import ChunkFlow, make_flow

BATCH = 256
ACTION_DIMS = (2, 10)

# By default glibc returns large freed blocks to the system, and the next batch causes page faults again. They take up
# to a fifth of an update at D = 80.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}

# Maps the name of a row to a registered flow and its options.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "coupling (default)": ("coupling", {}),
    "coupling, 8 components": ("coupling", dict(components=8)),
    "coupling, Gaussian base": ("coupling", dict(base="gaussian")),
    "coupling, channel halves": ("coupling", dict(split="channel")),
    "coupling, rotations": ("coupling", dict(mixing="rotation")),
    "spline": ("spline_coupling", {}),
    "nflows_realnvp": ("nflows_realnvp", {}),
    "nflows_nsf": ("nflows_nsf", {}),
    "nflows as shipped": ("", {}),
    "zuko_nice": ("zuko_nice", {}),
    "zuko_maf": ("zuko_maf", {}),
    "zuko_nsf": ("zuko_nsf", {}),
    "flow_matching": ("flow_matching", {}),
    "flow_matching, Euler": ("flow_matching", dict(solver="euler")),
    "gaussian_mixture": ("gaussian_mixture", {}),
    "full_gaussian": ("full_gaussian", {}),
    "tanh_gaussian": ("tanh_gaussian", {}),
    "gaussian": ("gaussian", {}),
}


class Fit(NamedTuple):
    """Measurements of one fit; `between` and `dropped` are shares between 0 and 1."""

    gap: float
    between: float
    dropped: float
    update_ms: float
    chunk_ms: float


def build(family: str, action_dim: int) -> ChunkFlow:
    name, options = FAMILIES[family]
    dims = dict(horizon=HORIZON, action_dim=action_dim, context_dim=CONTEXT_DIM)
    return make_flow(name, **dims, **options) if name else nflows_as_shipped(action_dim)


def nflows_as_shipped(action_dim: int) -> ChunkFlow:
    """Build nflows' own affine coupling, whose scale is at most 1.001."""
    from flows.nflows_backend import NflowsFlow

    def conditioner(inputs: int, outputs: int) -> ResidualNet:
        return ResidualNet(inputs, outputs, 192, CONTEXT_DIM, num_blocks=1, activation=silu)

    first = torch.arange(HORIZON * action_dim) < HORIZON * action_dim // 2
    couplings = [AffineCouplingTransform((~first if i % 2 == 0 else first).int(), conditioner) for i in range(8)]
    dims = dict(horizon=HORIZON, action_dim=action_dim, context_dim=CONTEXT_DIM)
    return NflowsFlow(CompositeTransform(couplings), **dims)


def fit(family: str, action_dim: int, seed: int, seconds: float) -> Fit:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    flow, data = build(family, action_dim), RoutePaths(action_dim, seed)
    update_ms = train(flow, data, seconds)
    return Fit(*measure(flow.eval(), RoutePaths(action_dim, seed=10_000 + seed)), update_ms, chunk_ms(flow))


def train(flow: ChunkFlow, data: RoutePaths, seconds: float, learning_rate: float = 3e-3) -> float:
    """Train for `seconds` of CPU time, excluding data generation; return the median milliseconds of an update."""
    optimizer = torch.optim.Adam(flow.parameters(), betas=(0.9, 0.99), fused=True)
    times: list[float] = []
    spent = 0.0
    while spent < seconds:
        scene = data.scenes(BATCH)
        context, path = data.context(scene), data.paths(scene)[:, 0]
        start = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * spent / seconds))
        optimizer.zero_grad()
        flow.loss(path, context).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimizer.step()
        times.append(time.process_time() - start)
        spent += times[-1]
    return 1e3 * statistics.median(times)


@torch.no_grad()
def measure(flow: ChunkFlow, data: RoutePaths) -> tuple[float, float, float]:
    """Return the gap, the share between the routes and the share of scenes with a dropped route."""
    gaps, between, dropped = [], [], []
    for _ in range(10):  # in parts, because some families need much memory
        scene = data.scenes(100)
        context, probability = data.context(scene), data.routes(scene)[1]
        path = data.paths(scene, 10)
        gaps.append((data.log_prob(path, scene) - flow.log_prob(path, context)).mean() / path[0, 0].numel())
        side = data.side(flow.sample(context, 50), scene)
        between.append((side.abs() < 0.5).float().mean())
        share = torch.stack(((side < 0).float().mean(1), (side > 0).float().mean(1)), 1)
        dropped.append((share < 0.1 * probability).any(1).float().mean())
    return tuple(float(torch.stack(values).mean()) for values in (gaps, between, dropped))  # type: ignore[return-value]


@torch.inference_mode()
def chunk_ms(flow: ChunkFlow, rounds: int = 200) -> float:
    context = torch.randn(1, CONTEXT_DIM)
    return 1e3 * statistics.median(timed(lambda: flow.sample(context)) for _ in range(rounds))


def timed(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=30.0, help="CPU time of each fit")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    os.environ |= KEEP_MEMORY  # glibc reads these when a worker starts
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        fits = {
            (family, dim): [pool.submit(fit, family, dim, seed, arguments.seconds) for seed in arguments.seeds]
            for family in arguments.families
            for dim in ACTION_DIMS
        }
        head = ["gap", "between %", "dropped %", "ms/update", "ms/chunk"]
        print("| density | " + " | ".join(f"{name}, D={8 * dim}" for dim in ACTION_DIMS for name in head) + " |")
        print("|---" * (1 + len(head) * len(ACTION_DIMS)) + "|")
        for family in arguments.families:
            cells = [cell for dim in ACTION_DIMS for cell in summary([f.result() for f in fits[family, dim]])]
            print(f"| {family} | " + " | ".join(cells) + " |", flush=True)


def summary(fits: list[Fit]) -> list[str]:
    """Return the cells of a row: means and largest deviations from them."""
    digits = Fit(gap=4, between=2, dropped=1, update_ms=1, chunk_ms=2)
    scale = Fit(gap=1, between=100, dropped=100, update_ms=1, chunk_ms=1)
    cells = []
    for values, places, factor in zip(zip(*fits, strict=True), digits, scale, strict=True):
        mean = statistics.fmean(values)
        spread = max(abs(value - mean) for value in values)
        cells.append(f"{factor * mean:.{places}f} ± {factor * spread:.{places}f}")
    return cells


if __name__ == "__main__":
    main()
