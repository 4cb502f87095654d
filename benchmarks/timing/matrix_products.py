"""Minimal set of matrix products in an update of SOFT-FLOW, counted from its layers.

In the backward pass, a layer needs one product for the gradient of its weights, if it is trained, and one for the
gradient of its input, if anything before it is trained. `Floor` computes only these products.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from critics import ChunkCritic, StateValue
from flows import NormalizedFlow
from flows.coupling import Coupling
from softflow.algos import SoftFlow
from softflow.algos.softflow import OWN_CHUNK_STRIDE
from softflow.algos.softflow_settings import ImprovementConfig


class Product(NamedTuple):
    """`members` products (rows, inner) x (inner, columns)."""

    members: int
    rows: int
    inner: int
    columns: int

    @property
    def multiply_adds(self) -> int:
        return self.members * self.rows * self.inner * self.columns


def linear(rows: int, inputs: int, outputs: int, weight: bool, input: bool, members: int = 1) -> list[Product]:
    """Return the products of a linear layer's forward pass, and of the gradients of its `weight` and its `input`."""
    products = [Product(members, rows, inputs, outputs)]
    if weight:
        products.append(Product(members, inputs, rows, outputs))
    if input:
        products.append(Product(members, rows, outputs, inputs))
    return products


def native(flow: nn.Module) -> Coupling:
    """Return the coupling flow itself, which a policy that normalises actions wraps."""
    flow = flow.flow if isinstance(flow, NormalizedFlow) else flow
    assert isinstance(flow, Coupling)
    return flow


def flow_products(
    flow: Coupling,
    batch: int,
    samples: int = 1,
    *,
    length: int | None = None,
    learns: bool = False,
    through: bool = False,
) -> list[Product]:
    """Return the products of one pass of a coupling flow on a mixture base, in either direction.

    Args:
        flow: The coupling flow.
        batch: Number of rows.
        samples: Number of chunks per row.
        length: Number of leading actions that are needed; the last layer may not change these. None needs all.
        learns: Whether the flow's weights get gradients.
        through: Whether the input, a chunk or a latent, gets a gradient.
    """
    products = linear(batch, flow.context_dim, flow.layers * flow.width, weight=learns, input=False)
    first, second = flow.base.hidden[0], flow.base.hidden[3]
    products += linear(batch, first.in_features, first.out_features, weight=learns, input=False)
    for layer in (second, flow.base.logit, flow.base.mean, flow.base.log_scale):
        products += linear(batch, layer.in_features, layer.out_features, weight=learns, input=learns)
    spared = length is not None and not flow.interleaved and length * flow.action_dim <= flow.sizes[0]
    for i, conditioner in enumerate(flow.conditioners):
        if spared and i == 0:
            continue
        for layer in (conditioner.input, conditioner.hidden, conditioner.output):
            given = i == 0 and layer is conditioner.input  # reads the input of the flow
            needed = through or (learns and not given)
            products += linear(batch * samples, layer.in_features, layer.out_features, weight=learns, input=needed)
    return products


def critic_products(
    critic: ChunkCritic, batch: int, samples: int = 1, *, learns: bool = False, through: bool = False
) -> list[Product]:
    """Return the products of one pass of the ensemble over `samples` chunks per row; see `flow_products`."""
    members, chunk_size, width = critic.chunk_weight.shape
    rows = batch * samples
    products = linear(batch, critic.context_dim, width, weight=learns, input=False, members=members)
    products += linear(rows, chunk_size, width, weight=learns, input=through, members=members)
    for layer in (*critic.hidden, critic.output):
        _, inputs, outputs = layer.weight.shape
        products += linear(rows, inputs, outputs, weight=learns, input=learns or through, members=members)
    return products


def state_value_products(state_value: StateValue, batch: int, *, learns: bool) -> list[Product]:
    """Return the products of one pass of the state value V; see `flow_products`."""
    layers = [layer for layer in state_value if isinstance(layer, nn.Linear)]
    products: list[Product] = []
    for layer in layers:
        needed = learns and layer is not layers[0]
        products += linear(batch, layer.in_features, layer.out_features, weight=learns, input=needed)
    return products


def update_parts(algorithm: SoftFlow, stage: ImprovementConfig) -> dict[str, list[Product]]:
    """Return the products of each part of one update in that stage: of all critic updates, and of the actor's loss."""
    config, critic, state_value = algorithm.config, algorithm.critic, algorithm.state_value
    flow = native(algorithm.actor.flow)
    batch, candidates = config.batch_size, config.target_candidates
    judged = 1 if candidates == 1 else 2  # the online critic chooses among several candidates
    parts = {
        "the critics, their targets and the chunks proposed for them": flow_products(
            flow, batch, candidates, length=critic.horizon
        )
        + critic_products(critic, batch, candidates) * judged
        + critic_products(critic, batch, learns=True)
    }
    if state_value is not None:
        parts["the state value"] = state_value_products(state_value, batch, learns=True)
    parts = {name: products * stage.critic_updates for name, products in parts.items()}
    own = -(-batch // OWN_CHUNK_STRIDE)
    if stage.kl_weight or stage.q_weight:
        parts["own chunks"] = flow_products(flow, own, learns=True, through=True)
    if stage.kl_weight:
        parts["their density under the champion"] = flow_products(flow, own, through=True)
    if stage.q_weight:
        parts["their values"] = critic_products(critic, own, through=True)
    if stage.nll_weight:
        if stage.advantage_scale:
            assert state_value is not None
            judging = critic_products(critic, batch) + state_value_products(state_value, batch, learns=False)
            parts["the advantages of the data's chunks"] = judging
        parts["the likelihood of the data's chunks"] = flow_products(flow, batch, learns=True)
    return parts


def update_products(algorithm: SoftFlow, stage: ImprovementConfig) -> list[Product]:
    """Return all products of one update: those of the critics, and of the actor's loss in that stage."""
    return [product for part in update_parts(algorithm, stage).values() for product in part]


class Floor:
    """Callable that computes the products one after another into preallocated memory."""

    def __init__(self, products: list[Product]) -> None:
        made = {p: tuple(torch.randn(p.members, *shape) for shape in _shapes(p)) for p in set(products)}
        self._calls = [made[p] for p in products]

    def __call__(self) -> None:
        for left, right, result in self._calls:
            if len(left) == 1:
                torch.mm(left[0], right[0], out=result[0])
            else:
                torch.bmm(left, right, out=result)


def _shapes(product: Product) -> tuple[tuple[int, int], ...]:
    _, rows, inner, columns = product
    return (rows, inner), (inner, columns), (rows, columns)
