"""A small version of every registered flow, for the tests of the contract."""

from __future__ import annotations

from typing import Any

import torch

from flows import ChunkFlow, NormalizedFlow

SMALL: dict[str, list[dict[str, Any]]] = {
    "coupling": [
        dict(layers=4, width=16, base="mixture", components=3),
        dict(layers=4, width=16, base="gaussian"),
        dict(layers=4, width=16, base="mixture", components=3, bounds="atanh"),
        dict(layers=4, width=16, base="gaussian", split="channel"),
        dict(layers=3, width=16, base="gaussian", split="channel", mixing="rotation"),
        dict(layers=3, width=16, base="gaussian", mixing="lu"),
        dict(layers=4, width=16, base="mixture", components=3, normalize=True),
        dict(layers=4, width=16, base="gaussian", bounds="atanh", normalize=True),
    ],
    "flow_matching": [
        dict(width=16, depth=1, steps=128, solver="euler"),
        dict(width=16, depth=1, steps=16, solver="midpoint"),
        dict(width=16, depth=1, steps=16, solver="midpoint", bounds="atanh"),
        dict(width=16, depth=1, steps=16, solver="midpoint", normalize=True),
    ],
    "full_gaussian": [dict(width=16, depth=2)],
    "gaussian": [dict(width=16, depth=2), dict(width=16, depth=2, bounds="atanh")],
    "gaussian_mixture": [dict(width=16, components=3)],
    "nflows_nsf": [dict(layers=2, width=16, bins=4)],
    "nflows_realnvp": [dict(layers=3, width=16), dict(layers=3, width=16, base="mixture", components=3)],
    "spline_coupling": [
        dict(layers=2, width=16, bins=4, bound=3.0, base="mixture", components=3),
        dict(layers=2, width=16, bins=4, base="gaussian", split="channel"),
        dict(layers=2, width=16, bins=4, base="gaussian", mixing="rotation"),
        dict(layers=2, width=16, bins=4, base="gaussian", mixing="lu"),
        dict(layers=2, width=16, bins=4, bound=3.0, base="mixture", components=3, normalize=True),
    ],
    "tanh_gaussian": [dict(width=16, depth=2)],
    "zuko_maf": [dict(layers=3, width=16), dict(layers=2, width=16, passes=6)],
    "zuko_nice": [dict(layers=3, width=16), dict(layers=3, width=16, base="mixture", components=3)],
    "zuko_nsf": [dict(layers=2, width=16, bins=4)],
}

# Flows whose density lives on the open box (-1, 1) alone: they refuse other chunks.
OPEN_BOX = {"tanh_gaussian"}

# Flows of libraries in which a compiler's graph breaks.
GRAPH_BREAKS = {"nflows_nsf", "zuko_maf", "zuko_nice", "zuko_nsf"}

# What float32 may be wrong by at full size, where it is more than 1e-4: a number, and a log-determinant in nats.
FLOAT32_ERROR = {"full_gaussian": 2e-3, "nflows_nsf": 3e-4, "spline_coupling": 3e-4}
FLOAT32_LOG_DET_ERROR = {"nflows_nsf": 1e-2, "spline_coupling": 5e-4, "zuko_nsf": 5e-4}

# Flows whose map is the identity, the base being all they have.
IDENTITY = {"gaussian_mixture"}

# How far `to_chunk` may be from inverting `to_latent` in so few steps, by a flow's solver; without one it is exact.
SOLVER_ERROR = {"euler": 0.6, "midpoint": 0.08}


def with_statistics(flow: ChunkFlow) -> ChunkFlow:
    """The same flow; if it normalises actions, with statistics that are unlike in each dimension."""
    if isinstance(flow, NormalizedFlow):
        count = torch.arange(flow.action_dim)
        flow.fit(0.3 - 0.5 * count, 0.4 + 0.3 * count, 0.01 + 0.02 * count)
    return flow


def few_steps(options: dict[str, Any]) -> dict[str, Any]:
    """The same flow, for tests to which it does not matter how well a solver solves."""
    return options | ({"steps": 2} if "steps" in options else {})


def few_layers(options: dict[str, Any]) -> dict[str, Any]:
    """The same flow, for tests of what is done with its operations, which are those of two layers."""
    return few_steps(options) | ({"layers": 2} if "layers" in options else {})
