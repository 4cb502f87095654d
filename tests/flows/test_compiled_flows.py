"""Compiled flows: the same numbers as eager, without graph breaks."""

from __future__ import annotations

import pytest
import torch

from tests.flows.flow_cases import GRAPH_BREAKS, OPEN_BOX, few_layers
from tests.flows.test_flow_contract import CASES, batch, random_flow

COMPILED_ELSEWHERE = {
    "nflows_nsf", "coupling-gaussian", "coupling-gaussian-atanh-normalized", "flow_matching-midpoint-atanh",
    "flow_matching-midpoint-normalized", "nflows_realnvp-mixture", "spline_coupling-gaussian-rotation",
    "spline_coupling-gaussian-lu", "spline_coupling-mixture-normalized", "zuko_nice-mixture",
}  # fmt: skip
"""Cases whose parts are compiled in those of other cases: their base, bounds, mixing, solver and normalisation."""


@pytest.mark.parametrize(("name", "options"), [pytest.param(*case.values, id=case.id, marks=[pytest.mark.slow] * (
    case.id in COMPILED_ELSEWHERE)) for case in CASES])  # fmt: skip
def test_it_compiles(name: str, options: dict) -> None:
    flow = random_flow(name, few_layers(options), torch.float32)
    chunk, context = batch(name, options, dtype=torch.float32)
    for method, arguments in (("log_prob", (chunk, context)), ("rsample_and_log_prob", (context, 2))):
        torch.compiler.reset()
        # The chunk of an open box is checked, by a branch on what it holds.
        whole = name not in GRAPH_BREAKS and not (name in OPEN_BOX and method == "log_prob")
        results = []
        for run in (getattr(flow, method), torch.compile(getattr(flow, method), fullgraph=whole, backend="eager")):
            torch.manual_seed(3)
            results.append(run(*arguments))
        torch.testing.assert_close(*results, rtol=0, atol=1e-5)
