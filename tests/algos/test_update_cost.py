"""What an update and a chunk cost, in counts that no busy machine disturbs: matrix products and torch's operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing.matrix_products import update_products
from softflow.algos import SoftFlow
from tests.algos.softflow_toys import make_algorithm, make_data, make_episode, stage_named, train

PRESET = dict(nll_weight=1.0, advantage_scale=1.0)
Q_AND_KL = PRESET | dict(q_weight=0.2, kl_weight=0.2)
DEFAULT = PRESET | dict(q_weight=1.0, kl_weight=1.0, critic_updates=10)
DATA = make_data([make_episode([0.1] * 20, [0.0] * 19 + [1.0])])
SPARE = 1.03 if torch.__version__ >= (2, 13) else 1.08
"""Operations are counted with torch 2.13; 2.8 makes up to 7.5 % more."""


class OperationCount(TorchDispatchMode):
    """Counts the operations that reach a kernel or make a view, those of the backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return operation(*args, **(kwargs or {}))


def online_algorithm(online: dict[str, Any], **settings: Any) -> SoftFlow:
    """The default flow's eight layers, narrow; one update is made, so that optimisers hold what they need."""
    flow = dict(flow="coupling", flow_options={"width": 24})
    algorithm = make_algorithm(horizon=4, n_action_steps=2, batch_size=8, online=online, **flow, **settings)
    train(algorithm, "online", DATA, 1)
    return algorithm


@pytest.mark.parametrize(
    ("online", "settings"),
    [(PRESET, {}), (Q_AND_KL, {}), (DEFAULT, {}), (PRESET, {"target_candidates": 3, "critic_members": 5})],
)
def test_an_update_makes_the_matrix_products_it_needs_and_no_others(
    online: dict[str, Any], settings: dict[str, Any]
) -> None:
    """A gradient of what does not learn, such as the critic's as the actor follows it, would be one too many; so would
    a context that is multiplied once for each of its chunks."""
    algorithm = online_algorithm(online, **settings)
    with FlopCounterMode(display=False) as counter:
        stage_named(algorithm, "online").update(DATA, 0.5)
    needed = update_products(algorithm, algorithm.config.online)
    assert counter.get_total_flops() == 2 * sum(product.multiply_adds for product in needed)


@pytest.mark.parametrize(("online", "most"), [(PRESET, 1153), (Q_AND_KL, 2427)])
def test_an_update_calls_few_operations(online: dict[str, Any], most: int) -> None:
    """At these sizes a call costs as much as its arithmetic."""
    algorithm = online_algorithm(online)
    with OperationCount() as operations:
        stage_named(algorithm, "online").update(DATA, 0.5)
    assert operations.count <= SPARE * most


@pytest.mark.parametrize(("candidates", "most"), [(1, 144), (4, 175)])
def test_a_chunk_calls_few_operations(candidates: int, most: int) -> None:
    """A chunk for one observation is nearly all calls: its latency is their number."""
    algorithm = online_algorithm(PRESET)
    algorithm.deployed.candidates = candidates
    observation: Tensor = torch.zeros(1, 1)
    with OperationCount() as operations:
        algorithm.deployed.act(observation)
    assert operations.count <= SPARE * most
