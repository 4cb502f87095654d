"""Measure the time of one chunk at batch size 1, with an eager flow and with its export in each format.

    python -m benchmarks.timing.export_speed [rounds]

The benchmark uses one thread, and every round times each case once, so that load on the machine affects all cases
equally. The flow is the default for chunks of 8 x 10 numbers. The latent is given; for the greedy chunk it is the mode
of the base. Prints the median and the 99th percentile of the wall time in milliseconds, and the ratio of the median to
eager.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.timing.interleaved import interleaved
from flows import DEFAULT_FLOW, make_flow
from flows.export import FORMATS, ContextToMode, LatentToChunk, export, load_exported

HORIZON, ACTION_DIM, CONTEXT_DIM = 8, 10, 64


def make_cases(folder: Path) -> dict[str, dict[str, Callable[[], Tensor]]]:
    """Return, for each of the two maps, calls on one row of the eager module and of every exported file."""
    flow = make_flow(DEFAULT_FLOW, horizon=HORIZON, action_dim=ACTION_DIM, context_dim=CONTEXT_DIM).eval()
    latent, context = torch.randn(8, HORIZON, ACTION_DIM), torch.randn(8, CONTEXT_DIM)
    maps: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {
        "to_chunk": (LatentToChunk(flow), {"latent": latent, "context": context}),
        "greedy chunk": (ContextToMode(flow), {"context": context}),
    }
    cases = {}
    for name, (module, example) in maps.items():
        row = [argument[:1] for argument in example.values()]
        calls: dict[str, Callable[..., Tensor]] = {"eager": module}
        for format in FORMATS:
            export(module, example, folder / "flow", format)
            calls[format] = load_exported(folder / "flow", format, trusted=True)
        cases[name] = {format: lambda call=call, row=row: call(*row) for format, call in calls.items()}
    return cases


def main(rounds: int = 2000, warm_up: int = 50) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        cases = make_cases(Path(folder))
    calls = {(name, case): call for name, group in cases.items() for case, call in group.items()}
    with torch.inference_mode():
        times = interleaved(calls, rounds, warm_up=warm_up, clock=time.perf_counter)
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, one thread, batch 1")
    print(f"{DEFAULT_FLOW}, chunk {HORIZON} x {ACTION_DIM}, context {CONTEXT_DIM}, {rounds} calls each")
    for name, group in cases.items():
        print(f"{name:16s}  median ms  99 % ms  ratio")
        eager = np.median(times[name, "eager"])
        for case in group:
            median, high = np.percentile(times[name, case], (50, 99))
            print(f"  {case:14s}  {median:9.3f}  {high:7.3f}  {median / eager:5.2f}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
